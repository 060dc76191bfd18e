package redirect

import (
	"errors"
	"net"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/bpf"
)

// Listener is where the connections and queries of one policy's agents in one
// network namespace arrive.
type Listener struct {
	// TCP are the sockets for connections, one per family. Who accepts reads
	// nothing before the next Accept: one silent agent must not delay another.
	TCP []net.Listener
	DNS DNS // for the resolver; its TCP connections are claimed like others

	kernel   *Kernel
	policyID uint32
	netns    uint64 // cookie; 0: the gateway's own
	ports    bpf.PosternListener
	stop     sync.Once
}

// DNS are the sockets of the policy's resolver, one per family. Datagrams come
// from agents of this policy only where Sender says so.
type DNS struct {
	UDP []net.PacketConn
	TCP []net.Listener
}

// Ports says where the listener is, for status and logs.
func (l *Listener) Ports() (tcp, dnsUDP, dnsTCP uint16) {
	return l.ports.TcpPort, l.ports.DnsUdpPort, l.ports.DnsTcpPort
}

// Close closes all of these sockets: Accept then returns net.ErrClosed. Where
// nobody else has them open agents get ECONNREFUSED, until somebody listens for
// the policy again.
func (l *Listener) Close() error {
	var errs []error
	l.stop.Do(func() {
		for _, s := range slices.Concat(l.TCP, l.DNS.TCP) {
			errs = append(errs, s.Close())
		}
		for _, s := range l.DNS.UDP {
			errs = append(errs, s.Close())
		}
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
