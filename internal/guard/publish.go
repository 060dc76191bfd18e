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
	// dialTime bounds how long a process inside may take to answer.
	dialTime = 5 * time.Second
	// pauseTime is how long what is on its way may take when it is to pause.
	pauseTime = 2 * time.Second
	// acceptPause is how long is waited where no more connections can be had.
	acceptPause = 50 * time.Millisecond
)

// loopbacks are where a port is published, and looked for inside.
var loopbacks = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// published are ports on a run's loopback that the host reaches, at the same
// ports on the host's.
type published struct {
	listeners []*net.TCPListener
	ns        *os.File // nil until there is a process inside
	ctx       context.Context
	end       context.CancelFunc
	running   sync.WaitGroup

	mu      sync.Mutex
	paused  bool
	dials   context.Context // of connections that are being made; ends with a pause
	stop    context.CancelFunc
	carried map[*carried]bool
}

// carried is a connection from the host into a run.
type carried struct {
	outside, inside *net.TCPConn
	port            int
	done            [2]bool // nothing more comes: from outside, from inside
	copying         bool
}

// publish takes the ports. Nothing is served yet: a port that is taken is known
// before the command is started.
func (s *Server) publish(a *config.Agent, r *Run) (*published, error) {
	p := newPublished()
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

func newPublished() *published {
	p := &published{carried: map[*carried]bool{}}
	p.ctx, p.end = context.WithCancel(context.Background())
	return p
}

// serve carries connections into the network namespace of a process.
func (p *published) serve(pid int) (err error) {
	if len(p.listeners) == 0 {
		return nil
	}
	if p.ns, err = os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns/net")); err != nil {
		return err
	}
	p.resume()
	return nil
}

// resume carries connections, those that are made already too.
func (p *published) resume() {
	if p.ns == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = false
	p.dials, p.stop = context.WithCancel(p.ctx)
	for _, l := range p.listeners {
		l.SetDeadline(time.Time{}) //nolint:errcheck // it is open, or accepting tells
		p.running.Go(func() { p.forward(l) })
	}
	for c := range p.carried {
		c.readUntil(time.Time{})
		p.running.Go(func() { p.carry(c) })
	}
}

// pause stops accepting, and carrying where nothing is on its way. A connection ends
// that is only being made, and one whose receiver is slow to take what is.
func (p *published) pause() {
	if p.ns == nil {
		return
	}
	p.mu.Lock()
	p.paused = true
	p.stop()
	for _, l := range p.listeners {
		l.SetDeadline(time.Now()) //nolint:errcheck // it is open, or accepting has ended
	}
	for c := range p.carried {
		c.readUntil(time.Now())
	}
	p.mu.Unlock()
	over := false
	slow := time.AfterFunc(pauseTime, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for c := range p.carried {
			if c.copying && !over {
				c.close()
				delete(p.carried, c)
			}
		}
	})
	defer slow.Stop()
	p.running.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	over = true
}

// close ends every connection.
func (p *published) close() {
	p.end()
	for _, l := range p.listeners {
		l.Close()
	}
	p.mu.Lock()
	for c := range p.carried {
		c.close()
	}
	p.mu.Unlock()
	p.running.Wait()
	if p.ns != nil {
		p.ns.Close()
	}
}

// forward carries connections to the same port on loopback inside.
func (p *published) forward(l *net.TCPListener) {
	for {
		outside, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			time.Sleep(acceptPause)
			continue
		}
		c := &carried{outside: outside, port: l.Addr().(*net.TCPAddr).Port}
		if !p.add(c) {
			outside.Close()
			continue
		}
		p.running.Go(func() {
			if p.connect(c) {
				p.carry(c)
			}
		})
	}
}

// add takes a connection up, if there is room and the run has not ended.
func (p *published) add(c *carried) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for other := range p.carried {
		if other.port == c.port {
			n++
		}
	}
	if n >= maxPublished || p.ctx.Err() != nil {
		return false
	}
	p.carried[c] = true
	return true
}

// connect makes the other half of a connection.
func (p *published) connect(c *carried) bool {
	p.mu.Lock()
	dials := p.dials
	p.mu.Unlock()
	inside, err := p.dial(dials, c.port)
	p.mu.Lock()
	defer p.mu.Unlock()
	c.inside = inside
	if err != nil || dials.Err() != nil {
		c.close()
		delete(p.carried, c)
		return false
	}
	return true
}

// carry copies until both directions have ended, or it is to pause.
func (p *published) carry(c *carried) {
	p.set(c, true)
	var copying sync.WaitGroup
	for i, d := range [2]struct{ to, from *net.TCPConn }{{c.inside, c.outside}, {c.outside, c.inside}} {
		if c.done[i] {
			continue
		}
		copying.Go(func() {
			_, err := io.Copy(d.to, d.from)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return // nothing is on its way: what was read is written
			}
			d.to.CloseWrite() //nolint:errcheck // it has gone
			c.done[i] = true
		})
	}
	copying.Wait()
	p.set(c, false)
}

// set notes whether a connection is being carried, and closes what is at its end.
func (p *published) set(c *carried, copying bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.copying = copying
	if c.done[0] && c.done[1] {
		c.close()
		delete(p.carried, c)
	}
}

func (c *carried) readUntil(t time.Time) {
	c.outside.SetReadDeadline(t) //nolint:errcheck // it is open, or reading has ended
	if c.inside != nil {
		c.inside.SetReadDeadline(t) //nolint:errcheck // the same
	}
}

func (c *carried) close() {
	c.outside.Close()
	if c.inside != nil {
		c.inside.Close()
	}
}

// dial tries both loopbacks: what listens on localhost listens on one of them.
func (p *published) dial(ctx context.Context, port int) (conn *net.TCPConn, err error) {
	d := net.Dialer{Timeout: dialTime}
	err = inside(p.ns, func() error {
		var errs []error
		for _, at := range loopbacks {
			c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(at, uint16(port)).String())
			if err == nil {
				conn = c.(*net.TCPConn)
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	return conn, err
}
