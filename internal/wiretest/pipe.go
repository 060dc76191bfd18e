package wiretest

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Pipe returns the two ends of a connection in memory. Unlike net.Pipe it has
// a buffer, as a socket has: a write returns at once unless the other end has
// been told to Stall. Blocked calls wait on a sync.Cond, which testing/synctest
// understands.
func Pipe() (a, b *End) {
	ab, ba := newHalf(), newHalf()
	return &End{in: ba, out: ab}, &End{in: ab, out: ba}
}

// End is one end of a Pipe; it implements net.Conn.
type End struct{ in, out *half }

func (e *End) Read(p []byte) (int, error)  { return e.in.read(p) }
func (e *End) Write(p []byte) (int, error) { return e.out.write(p) }

// Close ends both directions: the other end reads what is buffered and then
// io.EOF.
func (e *End) Close() error {
	e.in.close()
	e.out.close()
	return nil
}

func (e *End) SetDeadline(t time.Time) error {
	e.in.deadline(&e.in.readBy, t)
	e.out.deadline(&e.out.writeBy, t)
	return nil
}

func (e *End) SetReadDeadline(t time.Time) error  { e.in.deadline(&e.in.readBy, t); return nil }
func (e *End) SetWriteDeadline(t time.Time) error { e.out.deadline(&e.out.writeBy, t); return nil }
func (e *End) LocalAddr() net.Addr                { return address{} }
func (e *End) RemoteAddr() net.Addr               { return address{} }

// Stall makes the other end's writes block, as when a socket's buffers are
// full, until it is called with false.
func (e *End) Stall(on bool) {
	e.in.mu.Lock()
	defer e.in.mu.Unlock()
	e.in.full = on
	e.in.changed.Broadcast()
}

// poll makes reads of nothing fail at once instead of blocking.
func (e *End) poll(on bool) {
	e.in.mu.Lock()
	defer e.in.mu.Unlock()
	e.in.polled = on
}

type address struct{}

func (address) Network() string { return "wiretest" }
func (address) String() string  { return "wiretest" }

// half is one direction.
type half struct {
	mu              sync.Mutex
	changed         *sync.Cond
	buf             []byte
	closed          bool
	full            bool // writers wait
	polled          bool
	watcher         func()
	readBy, writeBy time.Time
}

func newHalf() *half {
	h := &half{}
	h.changed = sync.NewCond(&h.mu)
	return h
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case past(h.readBy):
			return 0, os.ErrDeadlineExceeded
		case len(h.buf) > 0:
			n := copy(p, h.buf)
			h.buf = h.buf[n:]
			return n, nil
		case h.closed:
			return 0, io.EOF
		case h.polled:
			return 0, os.ErrDeadlineExceeded
		}
		h.changed.Wait()
	}
}

func (h *half) write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.full && !h.closed && !past(h.writeBy) {
		h.changed.Wait()
	}
	switch {
	case h.closed:
		return 0, net.ErrClosed
	case past(h.writeBy):
		return 0, os.ErrDeadlineExceeded
	}
	h.buf = append(h.buf, p...)
	h.signal()
	return len(p), nil
}

// signal tells readers, with h.mu held.
func (h *half) signal() {
	h.changed.Broadcast()
	if h.watcher != nil {
		h.watcher()
	}
}

func (h *half) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.signal()
}

func (h *half) deadline(field *time.Time, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*field = t
	h.changed.Broadcast()
	if !t.IsZero() && time.Until(t) > 0 {
		time.AfterFunc(time.Until(t), func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.changed.Broadcast()
		})
	}
}

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }
