package redirect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/bpf"
)

// portAttempts bounds the search for a port that is free for both families and
// listed for nobody.
const portAttempts = 32

// Listener is where the connections and queries of one policy's agents arrive.
type Listener struct {
	DNS DNS // for the resolver; its TCP connections are claimed like others

	kernel   *Kernel
	policyID uint32
	ports    bpf.PosternListener
	tcp      []net.Listener // one per family
	accepted chan accepted
	start    sync.Once
	done     chan struct{}
	stop     sync.Once
	loops    sync.WaitGroup
}

// DNS are the sockets of the policy's resolver, one per family. Datagrams come
// from agents of this policy only where Sender says so. The Listener closes
// them.
type DNS struct {
	UDP []net.PacketConn
	TCP []net.Listener
}

type accepted struct {
	conn net.Conn
	err  error
}

// Listen opens the policy's ports on 127.0.0.1 and ::1, in the network
// namespace of the caller, and sends the policy's agents there from now on;
// what listened before for this policy gets nothing more. Where there is no
// IPv6 it listens on 127.0.0.1 only.
func (k *Kernel) Listen(policyID uint32) (*Listener, error) {
	l := &Listener{
		kernel:   k,
		policyID: policyID,
		accepted: make(chan accepted),
		done:     make(chan struct{}),
	}
	if err := l.open(); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen for policy %d: %w", policyID, err)
	}
	return l, nil
}

func (l *Listener) open() (err error) {
	listed, err := l.listed()
	if err != nil {
		return err
	}
	if l.tcp, l.ports.TcpPort, err = pair(l.listenTCP, listed); err != nil {
		return err
	}
	if l.DNS.TCP, l.ports.DnsTcpPort, err = pair(l.listenTCP, listed); err != nil {
		return err
	}
	if l.DNS.UDP, l.ports.DnsUdpPort, err = pair(l.listenUDP, listed); err != nil {
		return err
	}
	netns, err := l.netns()
	if err != nil {
		return err
	}
	key := bpf.PosternListenerKey{Netns: netns, Policy: l.policyID}
	if err := l.kernel.maps[bpf.PosternMapListeners].Put(key, l.ports); err != nil {
		return fmt.Errorf("register the ports: %w", err)
	}
	return nil
}

// listed are the loopback ports that agents may bind: not for us.
func (l *Listener) listed() (map[uint16]bool, error) {
	ports, err := l.kernel.LoopbackPorts()
	if err != nil {
		return nil, err
	}
	listed := map[uint16]bool{}
	for _, p := range ports {
		listed[p.Port] = true
	}
	return listed, nil
}

type socket interface{ Close() error }

// pair opens a socket on 127.0.0.1 and one on ::1, on the same port.
func pair[S socket](listen func(netip.AddrPort) (S, uint16, error), avoid map[uint16]bool) ([]S, uint16, error) {
	var last error
	for range portAttempts {
		v4, port, err := listen(netip.MustParseAddrPort("127.0.0.1:0"))
		if err != nil {
			return nil, 0, err
		}
		if avoid[port] {
			last = fmt.Errorf("port %d is listed for agents", port)
			v4.Close()
			continue
		}
		v6, _, err := listen(netip.AddrPortFrom(netip.IPv6Loopback(), port))
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
	}
	return nil, 0, fmt.Errorf("find a port free on 127.0.0.1 and ::1: %w", last)
}

func (l *Listener) listenTCP(at netip.AddrPort) (net.Listener, uint16, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return l.control(raw, func(fd int) error {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_SAVE_SYN, 1); err != nil {
				return fmt.Errorf("TCP_SAVE_SYN: %w", err)
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

// netns is the cookie of the network namespace we listen in. Kernels before
// 5.14 cannot say it; there 0 stands for the initial namespace.
func (l *Listener) netns() (uint64, error) {
	raw, err := l.tcp[0].(*net.TCPListener).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cookie uint64
	var inner error
	err = raw.Control(func(fd uintptr) {
		cookie, inner = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	})
	if err != nil {
		return 0, err
	}
	if errors.Is(inner, unix.ENOPROTOOPT) {
		return 0, nil
	}
	if inner != nil {
		return 0, fmt.Errorf("cookie of the network namespace: %w", inner)
	}
	return cookie, nil
}

// Ports says where the listener is, for status and logs.
func (l *Listener) Ports() (tcp, dnsUDP, dnsTCP uint16) {
	return l.ports.TcpPort, l.ports.DnsUdpPort, l.ports.DnsTcpPort
}

// Accept returns the next connection of either family. It reads nothing from
// it: one silent agent must not delay another. After Close it returns
// net.ErrClosed; other errors are of the moment (EMFILE), the caller waits a
// little and calls again.
func (l *Listener) Accept() (net.Conn, error) {
	l.start.Do(func() {
		for _, listener := range l.tcp {
			l.loops.Go(func() { l.acceptFrom(listener) })
		}
	})
	select {
	case a := <-l.accepted:
		return a.conn, a.err
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *Listener) acceptFrom(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		select {
		case l.accepted <- accepted{conn, err}:
		case <-l.done:
			if conn != nil {
				conn.Close()
			}
			return
		}
	}
}

// Close closes all sockets. The ports stay registered, so agents get
// ECONNREFUSED until somebody listens for the policy again.
func (l *Listener) Close() error {
	var errs []error
	l.stop.Do(func() {
		close(l.done)
		for _, s := range append(l.tcp, l.DNS.TCP...) {
			errs = append(errs, s.Close())
		}
		for _, s := range l.DNS.UDP {
			errs = append(errs, s.Close())
		}
		// A later Accept must not start what nobody would wait for.
		l.start.Do(func() {})
		l.loops.Wait()
	})
	return errors.Join(errs...)
}

// getsockopt reads an option of up to size bytes.
func getsockopt(fd, level, option, size int) ([]byte, error) {
	buf := make([]byte, size)
	length := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return nil, errno
	}
	return buf[:length], nil
}
