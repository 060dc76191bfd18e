package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/config"
)

const (
	// maxPorts bounds the ports that one run opens to the host.
	maxPorts = 16
	// maxPublished bounds the connections to one published port at once.
	maxPublished = 128
	// acceptPause is how long is waited where no more connections can be had.
	acceptPause = 50 * time.Millisecond
)

// loopbacks are where a port is published, and looked for inside.
var loopbacks = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// published are ports on a run's loopback that the host reaches, at the same
// ports on the host's.
type published struct {
	listeners []*net.TCPListener
	ns        *os.File
	end       context.CancelFunc
	running   sync.WaitGroup
}

// publish takes the ports. Nothing is served yet: a port that is taken is known
// before the command is started.
func (s *Server) publish(a *config.Agent, r *Run) (*published, error) {
	p := &published{}
	if len(r.Publish) > maxPorts {
		return nil, fmt.Errorf("a run publishes at most %d ports", maxPorts)
	}
	for _, port := range r.Publish {
		if !slices.Contains(a.Publish, port) {
			p.close()
			return nil, fmt.Errorf("port %d is not among agents.publish of %s", port, a.Name)
		}
		for _, at := range loopbacks {
			l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(at, uint16(port))))
			if at.Is6() && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
				continue // a host without IPv6
			}
			if err != nil {
				p.close()
				return nil, fmt.Errorf("publish port %d: %w", port, err)
			}
			p.listeners = append(p.listeners, l)
		}
	}
	return p, nil
}

// serve carries connections into the network namespace of a process.
func (p *published) serve(ctx context.Context, pid int) (err error) {
	if len(p.listeners) == 0 {
		return nil
	}
	if p.ns, err = os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns/net")); err != nil {
		return err
	}
	ctx, p.end = context.WithCancel(ctx)
	for _, l := range p.listeners {
		p.running.Go(func() { p.forward(ctx, l) })
	}
	return nil
}

// close ends every connection.
func (p *published) close() {
	if p.end != nil {
		p.end()
	}
	for _, l := range p.listeners {
		l.Close()
	}
	p.running.Wait()
	if p.ns != nil {
		p.ns.Close()
	}
}

// forward carries connections to the same port on loopback inside.
func (p *published) forward(ctx context.Context, l *net.TCPListener) {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	slots := make(chan struct{}, maxPublished)
	for {
		outside, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(acceptPause)
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			outside.Close()
			continue
		}
		p.running.Go(func() {
			defer func() { outside.Close(); <-slots }()
			conn, err := p.dial(l.Addr().(*net.TCPAddr).Port)
			if err != nil {
				return
			}
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close(); outside.Close() })()
			both(outside, conn)
		})
	}
}

// dial tries both loopbacks: what listens on localhost listens on one of them.
func (p *published) dial(port int) (conn *net.TCPConn, err error) {
	err = inside(p.ns, func() error {
		var errs []error
		for _, at := range loopbacks {
			c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(at, uint16(port))))
			if err == nil {
				conn = c
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	return conn, err
}

// both copies until both directions have ended.
func both(a, b *net.TCPConn) {
	var running sync.WaitGroup
	for _, pair := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		running.Go(func() {
			io.Copy(pair[0], pair[1]) //nolint:errcheck // the other side has gone
			pair[0].CloseWrite()      //nolint:errcheck // it has gone
		})
	}
	running.Wait()
}
