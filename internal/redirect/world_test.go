package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/identity"
)

// The addresses of the test's two network namespaces, which a veth connects:
// the host, where gateway and agents are, and the outside, where nothing may
// arrive. (RFC 5737, RFC 3849: documentation addresses.)
var (
	host4    = netip.MustParseAddr("192.0.2.1")
	host6    = netip.MustParseAddr("2001:db8::1")
	outside4 = netip.MustParseAddr("192.0.2.2")
	outside6 = netip.MustParseAddr("2001:db8::2")
)

// Policies of the tests. Agents of the high one would be worth imitating.
const (
	lowPolicy  = 7
	highPolicy = 8
)

// world is a policy root with the programs attached and a network of its own.
type world struct {
	t       *testing.T
	options Options
	kernel  *Kernel
	host    *os.File // network namespace
	outside *os.File
	sniffer int // packet socket outside, on the veth
}

func TestMain(m *testing.M) {
	if os.Getenv(agentEnv) != "" {
		os.Exit(runAgent())
	}
	before := openFiles()
	code := m.Run()
	if leaked := newFiles(before); code == 0 && len(leaked) > 0 {
		fmt.Fprintf(os.Stderr, "tests left files open:\n%s\n", strings.Join(leaked, "\n"))
		code = 1
	}
	os.Exit(code)
}

func openFiles() map[string]string {
	files := map[string]string{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			files[e.Name()] = target
		}
	}
	return files
}

func newFiles(before map[string]string) (leaked []string) {
	for fd, target := range openFiles() {
		_, was := before[fd]
		ours := strings.Contains(target, "bpf") || strings.Contains(target, "cgroup") ||
			strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "net:")
		if !was && ours {
			leaked = append(leaked, fd+" "+target)
		}
	}
	return leaked
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to attach kernel programs and make network namespaces")
	}
}

// newWorld attaches the programs to a new policy root.
func newWorld(t *testing.T) *world {
	t.Helper()
	needRoot(t)
	w := &world{t: t, options: newOptions(t)}
	w.network()
	if _, err := Attach(w.options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.must(Detach(w.options)) })
	kernel, err := OpenPinned(w.options)
	w.must(err)
	t.Cleanup(func() { kernel.Close() })
	w.kernel = kernel
	return w
}

// newOptions makes an empty policy root and a bpffs of the test's own.
func newOptions(t *testing.T) Options {
	t.Helper()
	mount, err := identity.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp(mount, "postern-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeCgroups(root) })
	bpffs := t.TempDir()
	t.Cleanup(func() { unix.Unmount(bpffs, unix.MNT_DETACH) })
	return Options{Cgroup: root, BPFFS: bpffs, MountBPFFS: true}
}

// removeCgroups removes a tree of cgroups, deepest first.
func removeCgroups(root string) {
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		if e.IsDir() {
			removeCgroups(filepath.Join(root, e.Name()))
		}
	}
	for range 1000 {
		if err := unix.Rmdir(root); !errors.Is(err, unix.EBUSY) {
			return
		}
		runtime.Gosched() // a killed process is not reaped yet
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// cgroup makes one below the root; policy 0 means none.
func (w *world) cgroup(name string, policy uint32) (path string, id uint64) {
	w.t.Helper()
	path = filepath.Join(w.options.Cgroup, name)
	w.must(os.MkdirAll(path, 0o755))
	id, err := identity.CgroupID(path)
	w.must(err)
	if policy != 0 {
		w.must(w.kernel.SetPolicy(id, policy))
	}
	return path, id
}

// network makes the two namespaces and the sniffer outside.
func (w *world) network() {
	w.t.Helper()
	w.host, w.outside = w.namespace(), w.namespace()
	w.in(w.host, func() error {
		veth := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: "veth0"},
			PeerName:      "veth1",
			PeerNamespace: netlink.NsFd(int(w.outside.Fd())),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("veth: %w", err)
		}
		// Let everyone make ICMP sockets, so that it is the programs that refuse.
		ping := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0)
		return errors.Join(ping, configure("lo"), configure("veth0", host4, host6),
			netlink.RouteAdd(&netlink.Route{Gw: outside4.AsSlice()}),
			netlink.RouteAdd(&netlink.Route{Gw: outside6.AsSlice()}))
	})
	w.in(w.outside, func() error {
		if err := errors.Join(configure("lo"), configure("veth1", outside4, outside6)); err != nil {
			return err
		}
		var err error
		w.sniffer, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		return err
	})
	w.t.Cleanup(func() { unix.Close(w.sniffer) })
	w.must(unix.SetsockoptTimeval(w.sniffer, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func configure(name string, addrs ...netip.Addr) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, a := range addrs {
		bits := 24
		if a.Is6() {
			bits = 64
		}
		address := &netlink.Addr{
			IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())},
			Flags: unix.IFA_F_NODAD,
		}
		if err := netlink.AddrAdd(l, address); err != nil {
			return fmt.Errorf("%s %s: %w", name, a, err)
		}
	}
	return netlink.LinkSetUp(l)
}

func (w *world) namespace() *os.File {
	w.t.Helper()
	var ns *os.File
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		w.t.Fatalf("make a network namespace: %v", err)
	}
	w.t.Cleanup(func() { ns.Close() })
	return ns
}

// onOwnThread runs f on a thread that ends with it.
func onOwnThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

// in runs f in a network namespace; sockets and processes made there stay.
func (w *world) in(ns *os.File, f func() error) {
	w.t.Helper()
	w.must(onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("setns: %w", err)
		}
		return f()
	}))
}

// listen opens the gateway of a policy on the host.
func (w *world) listen(policy uint32) *Listener {
	w.t.Helper()
	var l *Listener
	w.in(w.host, func() (err error) {
		l, err = w.kernel.Listen(policy)
		return err
	})
	w.t.Cleanup(func() { l.Close() })
	return l
}

// quiet fails the test when anything an agent could have sent arrived outside.
// A datagram sent past the programs proves that the sniffer hears.
func (w *world) quiet() {
	w.t.Helper()
	const marker = "the sniffer hears this"
	w.in(w.host, func() error {
		conn, err := net.Dial("udp", netip.AddrPortFrom(outside4, 9).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte(marker))
		return err
	})
	frame := make([]byte, 65536)
	for {
		n, from, err := unix.Recvfrom(w.sniffer, frame, 0)
		if err != nil {
			w.t.Fatalf("sniffer: %v", err)
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if strings.Contains(string(frame[:n]), marker) {
			return
		}
		if what := agentTraffic(htons(ll.Protocol), frame[:n]); what != "" {
			w.t.Errorf("arrived outside: %s, % x", what, frame[:min(n, 80)])
		}
	}
}

// agentTraffic names what is not the kernel's own housekeeping (ARP, neighbour
// discovery, multicast listener reports).
func agentTraffic(protocol uint16, packet []byte) string {
	switch {
	case protocol == unix.ETH_P_IP && len(packet) >= 20:
		return fmt.Sprintf("IPv4 protocol %d", packet[9])
	case protocol == unix.ETH_P_IPV6 && len(packet) >= 41:
		if next, kind := packet[6], packet[40]; next == unix.IPPROTO_ICMPV6 && kind != 128 {
			return ""
		} else if next == 0 { // hop-by-hop: a listener report
			return ""
		} else {
			return fmt.Sprintf("IPv6 protocol %d", next)
		}
	case protocol == unix.ETH_P_ARP:
		return ""
	}
	return fmt.Sprintf("ethernet protocol %#x", protocol)
}
