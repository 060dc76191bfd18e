package outside

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Ports are those that the server outside has, for TCP and UDP: names, the web,
// names over TLS, a database, and what home networks find each other by.
var Ports = []uint16{53, 80, 443, 853, 1900, 5353, 5355, 5432}

// serverPatience bounds one visit.
const serverPatience = 3 * time.Second

// Server says its banner to whoever comes, over TCP at once and over UDP as an
// answer.
type Server struct {
	Banner string

	closers []io.Closer
	running sync.WaitGroup

	mu     sync.Mutex
	visits []string
}

// Serve starts a server outside, on Ports of every address.
func (o *Outside) Serve(banner string) (*Server, error) {
	s := &Server{Banner: banner}
	o.servers = append(o.servers, s)
	return s, o.InFar(func() error {
		for _, port := range Ports {
			if err := s.listen(netip.AddrPortFrom(netip.IPv6Unspecified(), port)); err != nil {
				return err
			}
		}
		return nil
	})
}

// ServeNear starts a server on the host, as any program there might, and
// returns its port, which is one for both families.
func (o *Outside) ServeNear(banner string) (s *Server, port uint16, err error) {
	s = &Server{Banner: banner}
	o.servers = append(o.servers, s)
	err = o.InNear(func() error {
		l, err := net.Listen("tcp", "[::]:0")
		if err != nil {
			return err
		}
		port = uint16(l.Addr().(*net.TCPAddr).Port)
		l.Close()
		return s.listen(netip.AddrPortFrom(netip.IPv6Unspecified(), port))
	})
	return s, port, err
}

func (s *Server) listen(at netip.AddrPort) error {
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return fmt.Errorf("serve at %s: %w", at, err)
	}
	s.closers = append(s.closers, l)
	config := net.ListenConfig{Control: answersFromWhereAsked}
	packets, err := config.ListenPacket(context.Background(), "udp", at.String())
	if err != nil {
		return fmt.Errorf("serve at %s: %w", at, err)
	}
	s.closers = append(s.closers, packets)
	s.running.Go(func() { s.accept(l) })
	s.running.Go(func() { s.answer(packets.(*net.UDPConn)) })
	return nil
}

// answersFromWhereAsked has the kernel tell which address was asked, and lets it
// be the source of the answer though it is routed here and on no device.
func answersFromWhereAsked(_, _ string, raw syscall.RawConn) error {
	var errs []error
	err := raw.Control(func(fd uintptr) {
		for _, option := range []int{unix.IPV6_RECVPKTINFO, unix.IPV6_FREEBIND} {
			errs = append(errs, unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, option, 1))
		}
	})
	return errors.Join(append(errs, err)...)
}

func (s *Server) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		s.visit("tcp", conn.RemoteAddr(), l.Addr())
		s.running.Go(func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(serverPatience))
			if _, err := io.WriteString(conn, s.Banner); err == nil {
				io.Copy(io.Discard, conn) //nolint:errcheck // until the other end has enough
			}
		})
	}
}

func (s *Server) answer(packets *net.UDPConn) {
	buf, beside := make([]byte, 2048), make([]byte, 128)
	for {
		_, n, _, from, err := packets.ReadMsgUDP(buf, beside)
		if err != nil {
			return
		}
		s.visit("udp", from, packets.LocalAddr())
		packets.WriteMsgUDP([]byte(s.Banner), beside[:n], from) //nolint:errcheck // the sniffer tells what arrived
	}
}

func (s *Server) visit(network string, from, at net.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.visits = append(s.visits, fmt.Sprintf("%s from %s at %s", network, from, at))
}

// Visits are those since the last call.
func (s *Server) Visits() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	visits := s.visits
	s.visits = nil
	return visits
}

// Close ends the server and its visits.
func (s *Server) Close() {
	for _, c := range s.closers {
		c.Close()
	}
	s.running.Wait()
}

// dialTimeout is for a connection over one cable; a dropped SYN costs as much.
const dialTimeout = 300 * time.Millisecond

// Dial calls the near end from outside and says hello. It is true when
// somebody there took it: a connection that was accepted, a datagram that was
// answered.
func (o *Outside) Dial(network string, at netip.AddrPort) (answered bool) {
	o.mu.Lock()
	o.dialed[at] = true
	o.mu.Unlock()
	o.InFar(func() error { //nolint:errcheck // what fails did not answer
		conn, err := net.DialTimeout(network, at.String(), dialTimeout)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(dialTimeout))
		_, err = conn.Write([]byte("an order from outside"))
		if err != nil {
			return err
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			answered = true
			tcp.CloseWrite()                  //nolint:errcheck // the other end may have had enough
			_, err = io.Copy(io.Discard, tcp) // so that nothing is on its way any more
			return err
		}
		_, err = conn.Read(make([]byte, 64))
		answered = err == nil
		return err
	})
	return answered
}
