package wire_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/postern/postern/internal/wire"
)

// tcp returns a connection under test and its other end.
func tcp(t *testing.T) (*wire.Conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	other, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	other.SetDeadline(time.Now().Add(10 * time.Second))
	c := wire.New(conn)
	t.Cleanup(func() { other.Close(); c.Close() })
	return c, other.(*net.TCPConn)
}

func poller(t *testing.T) wire.Poller {
	t.Helper()
	p, err := wire.NewEpoll()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// await waits for exactly these ids.
func await(t *testing.T, p wire.Poller, want ...uint64) {
	t.Helper()
	got, err := p.Wait(nil)
	if err != nil || len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
		t.Fatalf("%v, %v, want %v", got, err, want)
	}
}

func TestDetachedConnectionDoesNotWait(t *testing.T) {
	c, other := tcp(t)
	p := poller(t)
	address := c.RemoteAddr().String()
	if err := c.Detach(); err != nil {
		t.Fatal(err)
	}
	const id = 1<<40 | 7
	if err := p.Watch(c, id); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fill(100); err != wire.ErrWouldBlock {
		t.Fatalf("%v with nothing to read", err)
	}
	other.Write([]byte("ab"))
	await(t, p, id)
	await(t, p, id) // it has not been read
	if _, err := c.Fill(100); err != wire.ErrWouldBlock {
		t.Fatalf("%v before it was said to be ready", err)
	}
	c.Ready()
	if b, err := c.Fill(100); string(b) != "ab" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	c.Write([]byte("cd"))
	if got, err := exactly(other, 2); string(got) != "cd" {
		t.Fatalf("%q, %v", got, err)
	}
	if in, out := c.Counters(); in != 2 || out != 2 || c.RemoteAddr().String() != address {
		t.Errorf("%d in, %d out, from %s", in, out, c.RemoteAddr())
	}
	p.Wake()
	await(t, p)
	p.Forget(c)
	if err := c.Attach(); err != nil {
		t.Fatal(err)
	}
	other.Write([]byte("ef"))
	if b, err := c.Fill(100); string(b) != "abef" || err != nil {
		t.Fatalf("%q, %v after it was attached again", b, err)
	}
	p.Wake()
	await(t, p)
	if c.RemoteAddr().String() != address {
		t.Errorf("it is %s now", c.RemoteAddr())
	}
}

func exactly(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

// A write takes everything; what the socket does not take is sent, in order, by
// Flush and by whatever is written later.
func TestDetachedWriteKeepsTheRest(t *testing.T) {
	for name, flush := range map[string]func(*wire.Conn) error{
		"Flush": (*wire.Conn).Flush,
		"Write": func(c *wire.Conn) error { _, err := c.Write(nil); return err },
	} {
		t.Run(name, func(t *testing.T) {
			c, other := tcp(t)
			if err := c.Detach(); err != nil {
				t.Fatal(err)
			}
			var want []byte
			for i := byte(0); !c.Stuck() || i < 5; i++ {
				piece := bytes.Repeat([]byte{i}, 1<<20)
				if n, err := c.Write(piece); n != len(piece) || err != nil {
					t.Fatalf("%d, %v", n, err)
				}
				want = append(want, piece...)
			}
			if err := c.Attach(); err != nil {
				t.Fatal(err)
			}
			flushed := make(chan error, 1)
			go func() { flushed <- flush(c) }()
			if got, err := exactly(other, len(want)); !bytes.Equal(got, want) {
				t.Fatalf("what arrived is not what was written: %v", err)
			}
			if err := <-flushed; err != nil || c.Stuck() {
				t.Errorf("%v, stuck %t", err, c.Stuck())
			}
		})
	}
}

// The end, and an error that the kernel tells only once, are told again to
// whoever reads after the connection was attached.
func TestEndIsToldAgain(t *testing.T) {
	for name, end := range map[string]func(*net.TCPConn){
		"end":   func(c *net.TCPConn) { c.Close() },
		"reset": func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			c, other := tcp(t)
			p := poller(t)
			if err := errors.Join(c.Detach(), p.Watch(c, 2)); err != nil {
				t.Fatal(err)
			}
			end(other)
			await(t, p, 2)
			c.Ready()
			_, first := c.Fill(10)
			p.Forget(c)
			if err := c.Attach(); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Fill(10); err == nil || err.Error() != first.Error() {
				t.Errorf("%v after %v", err, first)
			}
		})
	}
}

// Deadlines that are set meanwhile hold afterwards, and Close wakes the poller.
func TestDetachedDeadlinesAndClose(t *testing.T) {
	c, _ := tcp(t)
	p := poller(t)
	if err := errors.Join(c.Detach(), p.Watch(c, 2), c.SetReadDeadline(time.Unix(1, 0))); err != nil {
		t.Fatal(err)
	}
	p.Forget(c)
	if err := c.Attach(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fill(10); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v after the deadline", err)
	}
	if err := errors.Join(c.Detach(), p.Watch(c, 4)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	await(t, p, 4)
	c.Ready()
	if _, err := c.Fill(10); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	p.Forget(c)
	if err := c.Attach(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("attach: %v", err)
	}
	if err := c.Detach(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("detach: %v", err)
	}
}

// Whoever closes does not know where the connection is. Its descriptor must not
// be closed twice, nor stay open, nor be used after another has its number.
func TestCloseWhileMoving(t *testing.T) {
	before := descriptors(t)
	for range 200 {
		func() {
			c, other := tcp(t)
			defer other.Close()
			var closing sync.WaitGroup
			closing.Go(func() { c.SetDeadline(time.Now().Add(time.Minute)); c.Close() })
			for c.Detach() == nil {
				c.Write([]byte("x"))
				if c.Attach() != nil {
					break
				}
			}
			closing.Wait()
			if _, err := c.Write([]byte("x")); err == nil {
				t.Error("it is still open")
			}
		}()
	}
	if now := descriptors(t); now > before {
		t.Errorf("%d descriptors, %d before", now, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestLentBuffer(t *testing.T) {
	c := reads("abc", "def", "ghi")
	lent := make([]byte, 64)
	c.Lend(lent)
	c.Fill(64)
	if string(lent[:3]) != "abc" {
		t.Error("it was not read into what was lent")
	}
	c.Discard(1)
	c.Settle()
	copy(lent, "xxx")
	if string(c.Buffered()) != "bc" {
		t.Errorf("%q is left after the buffer was given back", c.Buffered())
	}
	c.Lend(lent) // not while something is buffered
	if b, err := c.Fill(64); string(b) != "bcdef" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	c.Discard(5)
	c.Settle()
	if c.Room() != 0 {
		t.Errorf("%d bytes are held for nothing", c.Room())
	}
}
