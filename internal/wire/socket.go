package wire

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// ErrWouldBlock is what reading a detached connection returns when there is
// nothing to read. It is temporary, as crypto/tls asks of an error after which
// it is to go on, in the middle of a record too.
var ErrWouldBlock net.Error = wouldBlock{}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "it would block" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

// ErrAttached is returned by Detach for a connection that has no way to be read
// without waiting.
var ErrAttached = errors.New("the connection cannot be detached")

// Detached is a connection outside of Go's poller. None of its methods waits.
type Detached interface {
	// Read and Write return ErrWouldBlock when they would have to wait. Write
	// may take less than all.
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	// Shutdown makes the connection readable, to its end, and keeps what
	// identifies it to a Poller from being used by another.
	Shutdown()
	// Attach ends the detached life. On an error the connection is closed.
	Attach() (net.Conn, error)
}

// detacher is a net.Conn that knows itself how to be detached.
type detacher interface{ Detach() (Detached, error) }

// socket is the net.Conn under a Conn, and under its TLS. It can be taken out of
// Go's poller and given back. Detached, each call holds mu, because none waits;
// that keeps a descriptor from being closed, and its number used again, under a
// call of another goroutine.
type socket struct {
	mu       sync.Mutex
	conn     net.Conn // closed while detached
	detached Detached // nil while attached
	closed   bool
	drained  bool   // the last read brought less than there was room for
	pending  []byte // written while detached, and not yet taken by the kernel
	failed   error  // of a read while detached: a socket tells it once

	readBy, writeBy time.Time
}

func (s *socket) Read(p []byte) (int, error) {
	s.mu.Lock()
	if s.detached != nil {
		defer s.mu.Unlock()
		return s.readNow(p)
	}
	conn, failed := s.conn, s.failed
	s.mu.Unlock()
	if failed != nil {
		return 0, failed
	}
	return conn.Read(p)
}

// readNow saves the system call that would say that there is no more.
func (s *socket) readNow(p []byte) (int, error) {
	switch {
	case s.closed:
		return 0, net.ErrClosed
	case s.failed != nil:
		return 0, s.failed
	case s.drained:
		return 0, ErrWouldBlock
	}
	n, err := s.detached.Read(p)
	s.drained = n < len(p)
	if err != nil && err != ErrWouldBlock {
		s.failed = err
	}
	return n, err
}

// Write takes everything: a TLS connection whose write failed is of no more use.
// What the kernel does not take waits for Flush.
func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	if s.detached != nil {
		defer s.mu.Unlock()
		return s.writeNow(p)
	}
	conn := s.conn
	s.mu.Unlock()
	if err := s.flush(); err != nil {
		return 0, err
	}
	return conn.Write(p)
}

func (s *socket) writeNow(p []byte) (int, error) {
	if s.closed {
		return 0, net.ErrClosed
	}
	n := 0
	if len(s.pending) == 0 {
		var err error
		if n, err = s.detached.Write(p); err != nil && err != ErrWouldBlock {
			return n, err
		}
	}
	s.pending = append(s.pending, p[n:]...)
	return len(p), nil
}

// flush waits until what was pending is written. Calls do not overlap: writes
// of one connection are serialised above.
func (s *socket) flush() error {
	s.mu.Lock()
	conn, pending := s.conn, s.pending
	s.pending = nil
	s.mu.Unlock()
	if len(pending) == 0 {
		return nil
	}
	_, err := conn.Write(pending)
	return err
}

// detach takes the connection out of Go's poller. Nobody may be reading or
// writing.
func (s *socket) detach() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return net.ErrClosed
	case s.detached != nil:
		return errors.New("the connection is detached already")
	}
	var err error
	if d, ok := s.conn.(detacher); ok {
		s.detached, err = d.Detach()
	} else {
		s.detached, err = detachDescriptor(s.conn)
	}
	s.drained = false
	return err
}

// attach gives it back, with the deadlines that were set meanwhile.
func (s *socket) attach() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.detached == nil {
		return nil
	}
	conn, err := s.detached.Attach()
	s.detached = nil
	if err != nil {
		s.closed = true
		return err
	}
	s.conn = conn
	if s.closed {
		conn.Close()
		return net.ErrClosed
	}
	if !s.readBy.IsZero() {
		conn.SetReadDeadline(s.readBy)
	}
	if !s.writeBy.IsZero() {
		conn.SetWriteDeadline(s.writeBy)
	}
	return nil
}

func (s *socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.detached != nil {
		s.detached.Shutdown() // attach closes it
		return nil
	}
	return s.conn.Close()
}

func (s *socket) LocalAddr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.LocalAddr()
}

func (s *socket) RemoteAddr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.RemoteAddr()
}

func (s *socket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

func (s *socket) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readBy = t
	if s.detached != nil {
		return nil
	}
	return s.conn.SetReadDeadline(t)
}

func (s *socket) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeBy = t
	if s.detached != nil {
		return nil
	}
	return s.conn.SetWriteDeadline(t)
}

// Detach takes the connection out of Go's poller: from here on Fill returns
// ErrWouldBlock instead of waiting, and Write takes everything and keeps what
// the socket does not (Stuck). Nobody may be reading or writing. Attach must
// follow; until then Close only makes the connection of no use.
func (c *Conn) Detach() error { return c.socket.detach() }

// Attach gives it back. Its error means that the connection is closed.
func (c *Conn) Attach() error { return c.socket.attach() }

// Ready tells a detached connection that its poller found it readable. Until
// then a Fill that follows one which emptied the socket reads nothing.
func (c *Conn) Ready() {
	c.socket.mu.Lock()
	defer c.socket.mu.Unlock()
	c.socket.drained = false
}

// Stuck reports whether something that was written waits for Flush.
func (c *Conn) Stuck() bool {
	c.socket.mu.Lock()
	defer c.socket.mu.Unlock()
	return len(c.socket.pending) > 0
}

// Flush writes, waiting, what was left over when the connection was detached.
func (c *Conn) Flush() error {
	c.write.Lock()
	defer c.write.Unlock()
	return c.socket.flush()
}

// Lend gives c a buffer to read into, until Settle, if it holds none.
func (c *Conn) Lend(b []byte) {
	if c.r == c.w && len(b) > 0 {
		c.release()
		c.buf, c.lent, c.r, c.w = b, true, 0, 0
	}
}

// Settle gives the buffer back. Unread bytes get one of their own; without any,
// c holds no buffer.
func (c *Conn) Settle() {
	have := c.w - c.r
	switch {
	case have == 0:
		c.release()
		c.buf, c.lent, c.r, c.w = nil, false, 0, 0
	case c.lent:
		own := make([]byte, max(smallBuffer, have))
		copy(own, c.buf[c.r:c.w])
		c.buf, c.lent, c.r, c.w = own, false, 0, have
	}
}

var _ io.ReadWriteCloser = (*socket)(nil)
