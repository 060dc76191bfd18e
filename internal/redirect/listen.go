package redirect

import (
	"errors"
	"net"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/bpf"
)

// takeTime bounds how long a connection that was accepted while the listener
// was being closed waits to be taken.
const takeTime = time.Second

// Listener is where the connections and queries of one policy's agents in one
// network namespace arrive.
type Listener struct {
	DNS DNS // for the resolver; its TCP connections are claimed like others

	kernel   *Kernel
	policyID uint32
	netns    uint64 // cookie; 0: the gateway's own
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

func (k *Kernel) listener(policyID uint32, netns uint64) *Listener {
	return &Listener{
		kernel: k, policyID: policyID, netns: netns,
		accepted: make(chan accepted), done: make(chan struct{}),
	}
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

// Close closes these sockets. Where nobody else has them open agents get
// ECONNREFUSED, until somebody listens for the policy again. What was accepted
// is still returned by Accept, if somebody calls it soon.
func (l *Listener) Close() error {
	var errs []error
	l.stop.Do(func() {
		for _, s := range append(l.tcp, l.DNS.TCP...) {
			errs = append(errs, s.Close())
		}
		for _, s := range l.DNS.UDP {
			errs = append(errs, s.Close())
		}
		// A later Accept must not start what nobody would wait for.
		l.start.Do(func() {})
		ended := make(chan struct{})
		go func() { l.loops.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(takeTime):
		}
		close(l.done)
		<-ended
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
