package redirect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/bpf"
)

// portAttempts bounds the search for a port that is free for both families and
// nobody's on loopback.
const portAttempts = 32

// SetHome says that the caller's network namespace is the gateway's own: there
// loopback is everybody's, and the listeners of Listen are. Kernels before 5.14
// cannot say the cookie of a namespace; there it is the initial one.
func (k *Kernel) SetHome() error {
	cookie, err := NetnsCookie()
	if err != nil {
		return err
	}
	if err := k.maps[bpf.PosternMapHome].Put(uint32(0), cookie); err != nil {
		return fmt.Errorf("set the gateway's network namespace: %w", err)
	}
	return nil
}

// NetnsCookie is the cookie of the calling thread's network namespace; 0 where
// the kernel (before 5.14) does not say.
func NetnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("cookie of the network namespace: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cookie of the network namespace: %w", err)
	}
	return cookie, nil
}

// Listen opens the policy's ports on 127.0.0.1 and ::1, in the network
// namespace of the caller, which is to be the one of SetHome, and sends the
// policy's agents there from now on; what listened before for this policy gets
// nothing more. Where there is no IPv6 it listens on 127.0.0.1 only.
func (k *Kernel) Listen(policyID uint32) (*Listener, error) { return k.listenIn(policyID, 0, nil) }

// ListenIn does the same in another network namespace, which is the caller's
// and has this cookie: on the ports of home, if they are free, because agents
// that connect meanwhile are being sent there.
func (k *Kernel) ListenIn(policyID uint32, netns uint64) (*Listener, error) {
	if netns == 0 {
		return nil, fmt.Errorf("listen for policy %d: 0 is no network namespace", policyID)
	}
	var at bpf.PosternListener
	err := k.maps[bpf.PosternMapListeners].Lookup(bpf.PosternListenerKey{Policy: policyID}, &at)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("listen for policy %d: %w", policyID, err)
	}
	return k.listenIn(policyID, netns, &at)
}

func (k *Kernel) listenIn(policyID uint32, netns uint64, prefer *bpf.PosternListener) (*Listener, error) {
	l := &Listener{kernel: k, policyID: policyID, netns: netns}
	if err := l.open(prefer); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen for policy %d: %w", policyID, err)
	}
	return l, nil
}

// Forget makes a policy's agents in a network namespace strangers there: their
// connections ask for a listener again.
func (k *Kernel) Forget(policyID uint32, netns uint64) error {
	err := k.maps[bpf.PosternMapListeners].Delete(bpf.PosternListenerKey{Netns: netns, Policy: policyID})
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget the listener of policy %d: %w", policyID, err)
	}
	return nil
}

func (l *Listener) open(prefer *bpf.PosternListener) (err error) {
	if prefer == nil {
		prefer = &bpf.PosternListener{}
	}
	taken, err := l.taken()
	if err != nil {
		return err
	}
	if l.TCP, l.ports.TcpPort, err = pair(l.listenTCP, prefer.TcpPort, taken); err != nil {
		return err
	}
	if l.DNS.TCP, l.ports.DnsTcpPort, err = pair(l.listenTCP, prefer.DnsTcpPort, taken); err != nil {
		return err
	}
	if l.DNS.UDP, l.ports.DnsUdpPort, err = pair(l.listenUDP, prefer.DnsUdpPort, taken); err != nil {
		return err
	}
	key := bpf.PosternListenerKey{Netns: l.netns, Policy: l.policyID}
	if err := l.kernel.maps[bpf.PosternMapListeners].Put(key, l.ports); err != nil {
		return fmt.Errorf("register the ports: %w", err)
	}
	return nil
}

// taken are the loopback ports that agents may bind, or that are targets: not
// for us.
func (l *Listener) taken() (map[uint16]bool, error) {
	ports, err := l.kernel.LoopbackPorts()
	if err != nil {
		return nil, err
	}
	taken := map[uint16]bool{}
	for p := range ports {
		taken[p.Port] = true
	}
	return taken, nil
}

type socket interface{ Close() error }

// pair opens a socket on 127.0.0.1 and one on ::1, on the same port.
func pair[S socket](listen func(netip.AddrPort) (S, uint16, error), prefer uint16, avoid map[uint16]bool) ([]S, uint16, error) {
	var last error
	localhost := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for range portAttempts {
		v4, port, err := listen(netip.AddrPortFrom(localhost, prefer))
		if prefer != 0 && errors.Is(err, unix.EADDRINUSE) {
			prefer = 0
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		if avoid[port] {
			last = fmt.Errorf("port %d is used by agents", port)
			v4.Close()
			prefer = 0
			continue
		}
		v6, _, err := listen(netip.AddrPortFrom(netip.IPv6Loopback(), port))
		for tries := 0; errors.Is(err, unix.EADDRNOTAVAIL) && tries < loTries && ipv6OnLo(); tries++ {
			time.Sleep(time.Millisecond)
			v6, _, err = listen(netip.AddrPortFrom(netip.IPv6Loopback(), port))
		}
		switch {
		case err == nil:
			return []S{v4, v6}, port, nil
		case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EAFNOSUPPORT):
			return []S{v4}, port, nil
		}
		v4.Close()
		last = err
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
		prefer = 0
	}
	return nil, 0, fmt.Errorf("find a port free on 127.0.0.1 and ::1: %w", last)
}

// loTries is how many milliseconds ::1 is waited for where lo is to have it. While
// lo is set up it has 127.0.0.1 first.
const loTries = 50

// ipv6OnLo says whether lo has ::1, or will have it when it is up, in the calling
// thread's network namespace.
func ipv6OnLo() bool {
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
	return err == nil && strings.TrimSpace(string(off)) == "0"
}

func (l *Listener) listenTCP(at netip.AddrPort) (net.Listener, uint16, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return l.control(raw, func(fd int) error {
			err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_SAVE_SYN, 1)
			if err != nil {
				return fmt.Errorf("TCP_SAVE_SYN: %w", err)
			}
			// The program that refuses connections belongs to a group of sockets,
			// which this one is then the only member of: another would need our uid.
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			if err == nil {
				err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_EBPF, l.kernel.reuseport.FD())
			}
			if err != nil {
				return fmt.Errorf("attach the program of listeners: %w", err)
			}
			return nil
		})
	}}
	// An MPTCP socket, Go's default since 1.24, takes TCP_SAVE_SYN without an
	// error and saves nothing.
	config.SetMultipathTCP(false)
	listener, err := config.Listen(context.Background(), "tcp", at.String())
	if err != nil {
		return nil, 0, err
	}
	return listener, uint16(listener.Addr().(*net.TCPAddr).Port), nil
}

func (l *Listener) listenUDP(at netip.AddrPort) (net.PacketConn, uint16, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return l.control(raw, func(int) error { return nil })
	}}
	conn, err := config.ListenPacket(context.Background(), "udp", at.String())
	if err != nil {
		return nil, 0, err
	}
	return conn, uint16(conn.LocalAddr().(*net.UDPAddr).Port), nil
}

// control marks a socket as the gateway's before it is bound: the programs
// send agents to marked sockets only, and let nobody dial them directly.
func (l *Listener) control(raw syscall.RawConn, set func(fd int) error) error {
	var inner error
	err := raw.Control(func(fd uintptr) {
		mark := bpf.PosternGateway{Policy: l.policyID}
		if inner = l.kernel.maps[bpf.PosternMapGateways].Put(int32(fd), mark); inner != nil {
			inner = fmt.Errorf("mark the gateway's socket: %w", inner)
			return
		}
		inner = set(int(fd))
	})
	return errors.Join(err, inner)
}

// Door describes a Listener to whom its sockets are handed over.
type Door struct {
	PolicyID uint32 `json:"policy_id"`
	Netns    uint64 `json:"netns"` // cookie; 0: the gateway's own
	TCP      uint16 `json:"tcp"`
	DNSTCP   uint16 `json:"dns_tcp"`
	DNSUDP   uint16 `json:"dns_udp"`
}

// Door returns what describes l.
func (l *Listener) Door() Door {
	return Door{l.policyID, l.netns, l.ports.TcpPort, l.ports.DnsTcpPort, l.ports.DnsUdpPort}
}

// Sockets is how many there are.
func (l *Listener) Sockets() int { return len(l.TCP) + len(l.DNS.TCP) + len(l.DNS.UDP) }

// Files returns copies of the sockets' descriptors, as Adopt wants them. The
// caller closes them.
func (l *Listener) Files() ([]*os.File, error) {
	var files []*os.File
	add := func(s any) error {
		f, err := s.(interface{ File() (*os.File, error) }).File()
		if err == nil {
			files = append(files, f)
		}
		return err
	}
	var errs []error
	for _, s := range slices.Concat(l.TCP, l.DNS.TCP) {
		errs = append(errs, add(s))
	}
	for _, s := range l.DNS.UDP {
		errs = append(errs, add(s))
	}
	if err := errors.Join(errs...); err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("copy the listener's sockets: %w", err)
	}
	return files, nil
}

// Adopt makes a Listener of sockets that somebody else opened (Files). The
// files remain the caller's to close.
func (k *Kernel) Adopt(d Door, files []*os.File) (*Listener, error) {
	l := &Listener{kernel: k, policyID: d.PolicyID, netns: d.Netns}
	l.ports = bpf.PosternListener{TcpPort: d.TCP, DnsTcpPort: d.DNSTCP, DnsUdpPort: d.DNSUDP}
	for _, f := range files {
		if err := l.adopt(f); err != nil {
			l.Close()
			return nil, fmt.Errorf("take over a listener of policy %d: %w", d.PolicyID, err)
		}
	}
	if len(l.TCP) == 0 || len(l.DNS.TCP) == 0 || len(l.DNS.UDP) == 0 {
		l.Close()
		return nil, fmt.Errorf("take over a listener of policy %d: sockets are missing", d.PolicyID)
	}
	return l, nil
}

func (l *Listener) adopt(f *os.File) error {
	conn, err := net.FilePacketConn(f)
	if err == nil {
		l.DNS.UDP = append(l.DNS.UDP, conn)
		return nil
	}
	listener, err := net.FileListener(f)
	if err != nil {
		return err
	}
	switch at, _ := listener.Addr().(*net.TCPAddr); {
	case at != nil && at.Port == int(l.ports.TcpPort):
		l.TCP = append(l.TCP, listener)
	case at != nil && at.Port == int(l.ports.DnsTcpPort):
		l.DNS.TCP = append(l.DNS.TCP, listener)
	default:
		listener.Close()
		return fmt.Errorf("a socket on %s, which is none of its ports", listener.Addr())
	}
	return nil
}

// NetnsInode identifies the network namespace of the listener's sockets as the
// files in /proc/PID/ns do.
func (l *Listener) NetnsInode() (uint64, error) {
	raw, err := l.TCP[0].(*net.TCPListener).SyscallConn()
	if err != nil {
		return 0, err
	}
	var inode uint64
	var inner error
	err = raw.Control(func(fd uintptr) {
		// SIOCGSKNS gives a descriptor of the namespace of a socket.
		ns, errno := unix.IoctlRetInt(int(fd), unix.SIOCGSKNS)
		if errno != nil {
			inner = errno
			return
		}
		defer unix.Close(ns)
		var st unix.Stat_t
		inner = unix.Fstat(ns, &st)
		inode = st.Ino
	})
	if err = errors.Join(err, inner); err != nil {
		return 0, fmt.Errorf("network namespace of a listener: %w", err)
	}
	return inode, nil
}
