// Package wire is the connection under every protocol: peeking, bounded
// reading, TLS started in place, byte counters. It knows no protocol.
//
// Start with Conn. Codecs read through Fill and Discard, handshakes through
// Read or Exactly.
package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// smallBuffer is what an idle connection keeps: one statement of the usual
	// size fits, and a thousand idle sessions cost little.
	smallBuffer = 2 << 10
	// largeBuffer is borrowed from a pool while data is streaming. 64 KiB is
	// where larger reads stop saving system calls on loopback.
	largeBuffer = 64 << 10
)

// ErrTooLong is returned when a message does not fit the limit of its reader.
var ErrTooLong = errors.New("message is longer than allowed")

// ErrEarlyBytes is returned by the StartTLS functions when the peer sent bytes
// before the handshake that a man in the middle could have put there
// (CVE-2021-23214 and its kin).
var ErrEarlyBytes = errors.New("unencrypted bytes before the TLS handshake")

var largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}

// Conn is one end of a session. Reads belong to one goroutine, writes to one
// goroutine at a time (Write locks); deadlines and Close may come from any.
type Conn struct {
	socket socket
	now    net.Conn // what is read and written: the socket, or TLS over it
	tls    atomic.Pointer[tls.Conn]

	buf   []byte  // the window's storage
	large *[]byte // buf's owner when it came from the pool
	lent  bool    // buf is somebody else's until Settle
	r, w  int     // unread bytes are buf[r:w]
	busy  bool    // the last Fill brought all that there was room for: there is more

	write sync.Mutex

	in, out atomic.Int64
}

// New wraps a connected socket.
func New(conn net.Conn) *Conn {
	c := &Conn{socket: socket{conn: conn}}
	c.now = &c.socket
	return c
}

// Detached returns the connection as Detach made it, for a Poller; nil while it
// is attached.
func (c *Conn) Detached() Detached {
	c.socket.mu.Lock()
	defer c.socket.mu.Unlock()
	return c.socket.detached
}

// Read returns buffered bytes first and then reads the connection.
func (c *Conn) Read(p []byte) (int, error) {
	if c.w > c.r {
		n := copy(p, c.buf[c.r:c.w])
		c.Discard(n)
		if c.w == 0 && c.large == nil && !c.lent {
			c.buf = nil // who reads so has a buffer of his own
		}
		return n, nil
	}
	n, err := c.now.Read(p)
	c.in.Add(int64(n))
	return n, err
}

// Buffered returns the unread bytes, valid until the next call that reads.
func (c *Conn) Buffered() []byte { return c.buf[c.r:c.w] }

// Discard drops n buffered bytes; n is at most len(Buffered()). A buffer beyond
// the smallest is given back when it runs empty and no stream is under way, one
// beyond the pooled size in any case.
func (c *Conn) Discard(n int) {
	c.r += n
	if c.r < c.w {
		return
	}
	c.r, c.w = 0, 0
	if len(c.buf) > largeBuffer || len(c.buf) > smallBuffer && !c.busy {
		c.release()
		c.buf, c.lent = nil, false
	}
}

// release gives buf back to the pool if that is where it came from.
func (c *Conn) release() {
	if c.large != nil {
		largeBuffers.Put(c.large)
		c.large = nil
	}
}

// Fill reads once, blocking, behind the bytes that are buffered already, and
// returns all of them, limit bytes at most. With limit bytes buffered it returns
// ErrTooLong, having read nothing.
func (c *Conn) Fill(limit int) ([]byte, error) {
	if err := c.room(limit); err != nil {
		return c.Buffered(), err
	}
	n, err := c.now.Read(c.buf[c.w:min(len(c.buf), c.r+limit)])
	c.in.Add(int64(n))
	c.w += n
	c.busy = c.w == len(c.buf) && c.w <= largeBuffer
	if n == 0 && err == nil {
		err = io.ErrNoProgress
	}
	if n > 0 {
		err = nil // the next Fill says it again
	}
	return c.Buffered(), err
}

// room makes space behind the unread bytes: by a pooled buffer while data is
// streaming, by moving them to the front, then by growth to no more than limit.
func (c *Conn) room(limit int) error {
	have := c.w - c.r
	if have >= limit {
		return fmt.Errorf("%w: %d bytes", ErrTooLong, limit)
	}
	streaming := c.busy && len(c.buf) < largeBuffer && have < largeBuffer/2
	if c.buf == nil && !streaming {
		c.buf = make([]byte, smallBuffer)
	}
	if c.w < len(c.buf) && !streaming {
		return nil
	}
	if !streaming && c.r > 0 && have <= len(c.buf)/2 {
		copy(c.buf, c.buf[c.r:c.w])
		c.r, c.w = 0, have
		return nil
	}
	grown, pooled := c.grow(have, limit)
	copy(grown, c.buf[c.r:c.w])
	c.release()
	c.buf, c.large, c.lent, c.r, c.w = grown, pooled, false, 0, have
	return nil
}

// grow returns more room than have bytes need, and its owner if it is pooled.
func (c *Conn) grow(have, limit int) ([]byte, *[]byte) {
	if have < largeBuffer/2 {
		b := largeBuffers.Get().(*[]byte)
		return *b, b
	}
	return make([]byte, min(max(have*2, largeBuffer*2), max(limit, have+1))), nil
}

// Peek returns the next n bytes without consuming them, reading as needed.
func (c *Conn) Peek(n int) ([]byte, error) {
	for c.w-c.r < n {
		if _, err := c.Fill(n + largeBuffer); err != nil {
			return c.Buffered(), err
		}
	}
	return c.buf[c.r : c.r+n], nil
}

// Exactly reads n bytes into a slice of its own. n is a declared length that
// the caller has checked against its limit.
func (c *Conn) Exactly(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, err
	}
	return b, nil
}

// Write writes all of p.
func (c *Conn) Write(p []byte) (int, error) {
	c.write.Lock()
	defer c.write.Unlock()
	n, err := c.now.Write(p)
	c.out.Add(int64(n))
	return n, err
}

// StartTLSServer does the server's side of a handshake in place.
func (c *Conn) StartTLSServer(ctx context.Context, cfg *tls.Config) error {
	return c.startTLS(ctx, func(raw net.Conn) *tls.Conn { return tls.Server(raw, cfg) })
}

// StartTLSClient does the client's side of a handshake in place.
func (c *Conn) StartTLSClient(ctx context.Context, cfg *tls.Config) error {
	if c.w > c.r {
		return ErrEarlyBytes
	}
	return c.startTLS(ctx, func(raw net.Conn) *tls.Conn { return tls.Client(raw, cfg) })
}

// startTLS hands buffered bytes to the handshake: with direct TLS a server has
// peeked at the ClientHello. A server that has *answered* a plaintext upgrade
// request checks NothingBuffered before its answer.
func (c *Conn) startTLS(ctx context.Context, side func(net.Conn) *tls.Conn) error {
	if c.tls.Load() != nil {
		return errors.New("TLS is already on")
	}
	early := append([]byte(nil), c.Buffered()...)
	c.Discard(len(early))
	var raw net.Conn = &c.socket
	if len(early) > 0 {
		raw = &replayed{Conn: raw, head: early}
	}
	t := side(raw)
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	c.now = t
	c.tls.Store(t)
	return nil
}

// NothingBuffered returns ErrEarlyBytes when bytes have come that were not due.
func (c *Conn) NothingBuffered() error {
	if c.w > c.r {
		return ErrEarlyBytes
	}
	return nil
}

// TLS returns the state of the TLS connection, nil without one.
func (c *Conn) TLS() *tls.ConnectionState {
	t := c.tls.Load()
	if t == nil {
		return nil
	}
	s := t.ConnectionState()
	return &s
}

// Counters returns the bytes read and written, after TLS.
func (c *Conn) Counters() (in, out int64) { return c.in.Load(), c.out.Load() }

func (c *Conn) LocalAddr() net.Addr                { return c.socket.LocalAddr() }
func (c *Conn) RemoteAddr() net.Addr               { return c.socket.RemoteAddr() }
func (c *Conn) SetDeadline(t time.Time) error      { return c.socket.SetDeadline(t) }
func (c *Conn) SetReadDeadline(t time.Time) error  { return c.socket.SetReadDeadline(t) }
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.socket.SetWriteDeadline(t) }

// Close closes the connection; with TLS it tries to say goodbye first.
func (c *Conn) Close() error {
	if t := c.tls.Load(); t != nil {
		return t.Close()
	}
	return c.socket.Close()
}

// replayed gives back bytes that were read before the handshake.
type replayed struct {
	net.Conn
	head []byte
}

func (r *replayed) Read(p []byte) (int, error) {
	if len(r.head) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.head)
	r.head = r.head[n:]
	return n, nil
}
