package servers

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses of the two ends of the cable (RFC 5737, RFC 3849: documentation).
var (
	Inside4  = netip.MustParseAddr("192.0.2.1")
	Inside6  = netip.MustParseAddr("2001:db8::1")
	Outside4 = netip.MustParseAddr("192.0.2.2")
	Outside6 = netip.MustParseAddr("2001:db8::2")
)

// isolatedEnv marks the second run of Isolated.
const isolatedEnv = "POSTERN_TEST_ISOLATED"

// Isolated runs f in a new process with a network and mounts of its own, so
// that nothing of a test can reach a real network; it returns f's exit status.
// The program calls it first thing.
func Isolated(f func() int) int {
	if os.Getenv(isolatedEnv) != "" {
		os.Unsetenv(isolatedEnv)
		return f()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), isolatedEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Unshareflags: unix.CLONE_NEWNS, // makes the mounts private
		Pdeathsig:    unix.SIGKILL,
	}
	err := cmd.Run()
	var failed *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &failed):
		return failed.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "isolate:", err)
	return 1
}

// Outside is a second network namespace at the other end of a cable, to which
// everything is routed: where a hole would lead.
type Outside struct {
	ns      *os.File
	sniffer int
	mu      sync.Mutex
	seen    []string
	done    chan struct{}
}

// Connect makes the outside and routes everything there. It is called once, in
// a network of one's own.
func Connect() (*Outside, error) {
	o := &Outside{done: make(chan struct{}), sniffer: -1}
	err := onOwnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		o.ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "outside0"}, PeerName: "inside0", PeerNamespace: netlink.NsFd(int(o.ns.Fd())),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("veth: %w", err)
	}
	err = errors.Join(configure("lo"), configure("outside0", Inside4, Inside6),
		netlink.RouteAdd(&netlink.Route{Gw: Outside4.AsSlice()}), netlink.RouteAdd(&netlink.Route{Gw: Outside6.AsSlice()}))
	if err != nil {
		return nil, err
	}
	err = onOwnThread(func() (err error) {
		if err := unix.Setns(int(o.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		if err := errors.Join(configure("lo"), configure("inside0", Outside4, Outside6)); err != nil {
			return err
		}
		o.sniffer, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sniffer: %w", err)
	}
	go o.listen()
	return o, nil
}

func onOwnThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and its namespace with it
		result <- f()
	}()
	return <-result
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
		at := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}, Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(l, at); err != nil {
			return fmt.Errorf("%s %s: %w", name, a, err)
		}
	}
	return netlink.LinkSetUp(l)
}

// listen notes what arrives, until the marker of Quiet.
func (o *Outside) listen() {
	defer close(o.done)
	frame := make([]byte, 65536)
	for {
		n, from, err := unix.Recvfrom(o.sniffer, frame, 0)
		if err != nil {
			return
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if strings.Contains(string(frame[:n]), marker) {
			return
		}
		if what := traffic(htons(ll.Protocol), frame[:n]); what != "" {
			o.mu.Lock()
			o.seen = append(o.seen, fmt.Sprintf("%s, % x", what, frame[:min(n, 60)]))
			o.mu.Unlock()
		}
	}
}

const marker = "the sniffer hears this"

// Close returns what arrived outside. A datagram of our own proves that the
// sniffer heard to the end.
func (o *Outside) Close() ([]string, error) {
	conn, err := net.Dial("udp", netip.AddrPortFrom(Outside4, 9).String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(marker)); err != nil {
		return nil, err
	}
	<-o.done
	unix.Close(o.sniffer)
	o.ns.Close()
	return o.seen, nil
}

// traffic names what is not the kernel's own housekeeping: ARP, neighbour
// discovery, multicast listener reports.
func traffic(protocol uint16, packet []byte) string {
	switch {
	case protocol == unix.ETH_P_IP && len(packet) >= 20:
		return fmt.Sprintf("IPv4 protocol %d", packet[9])
	case protocol == unix.ETH_P_IPV6 && len(packet) >= 41:
		if next, kind := packet[6], packet[40]; next == 0 || next == unix.IPPROTO_ICMPV6 && kind != 128 {
			return ""
		}
		return fmt.Sprintf("IPv6 protocol %d", packet[6])
	case protocol == unix.ETH_P_ARP:
		return ""
	}
	return fmt.Sprintf("ethernet protocol %#x", protocol)
}
