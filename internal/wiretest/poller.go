package wiretest

import (
	"net"
	"sync"

	"github.com/postern/postern/internal/wire"
)

// Detach takes the end out of what blocks; wire.Conn.Detach finds it.
func (e *End) Detach() (wire.Detached, error) { return &detached{e}, nil }

// detached is an End whose calls do not wait.
type detached struct{ end *End }

func (d *detached) Read(p []byte) (int, error) {
	if !d.end.in.readable() {
		return 0, wire.ErrWouldBlock
	}
	return d.end.in.read(p)
}

func (d *detached) Write(p []byte) (int, error) {
	h := d.end.out
	h.mu.Lock()
	blocked := h.full && !h.closed
	h.mu.Unlock()
	if blocked {
		return 0, wire.ErrWouldBlock
	}
	return h.write(p)
}

func (d *detached) Shutdown()                 { d.end.Close() }
func (d *detached) Attach() (net.Conn, error) { return d.end, nil }

func (h *half) readable() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.buf) > 0 || h.closed
}

// poller is the wire.Poller of Ends. It waits on a channel, which
// testing/synctest understands.
type poller struct {
	kick chan struct{}

	mu      sync.Mutex
	watched []watched
}

type watched struct {
	conn *wire.Conn
	end  *End
	id   uint64
}

// NewPoller returns a wire.Poller of connections in memory.
func NewPoller() (wire.Poller, error) { return &poller{kick: make(chan struct{}, 1)}, nil }

func (p *poller) Watch(c *wire.Conn, id uint64) error {
	d, ok := c.Detached().(*detached)
	if !ok {
		return wire.ErrAttached
	}
	p.mu.Lock()
	p.watched = append(p.watched, watched{c, d.end, id})
	p.mu.Unlock()
	d.end.in.watch(p.Wake)
	p.Wake()
	return nil
}

func (p *poller) Forget(c *wire.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, w := range p.watched {
		if w.conn == c {
			w.end.in.watch(nil)
			p.watched = append(p.watched[:i], p.watched[i+1:]...)
			return
		}
	}
}

func (p *poller) Wait(ready []uint64) ([]uint64, error) {
	if ready = p.readable(ready); len(ready) > 0 {
		return ready, nil
	}
	<-p.kick
	return p.readable(ready), nil
}

func (p *poller) readable(ready []uint64) []uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.watched {
		if w.end.in.readable() {
			ready = append(ready, w.id)
		}
	}
	return ready
}

func (p *poller) Wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

func (p *poller) Close() error { return nil }

// watch calls f whenever there may be something to read.
func (h *half) watch(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watcher = f
}
