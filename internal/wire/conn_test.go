package wire_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/wire"
	"github.com/postern/postern/internal/wiretest"
)

// chunks is a connection whose reads return one chunk each.
type chunks struct {
	net.Conn
	rest [][]byte
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.rest[0])
	if c.rest[0] = c.rest[0][n:]; len(c.rest[0]) == 0 {
		c.rest = c.rest[1:]
	}
	return n, nil
}

func reads(s ...string) *wire.Conn {
	c := &chunks{}
	for _, b := range s {
		c.rest = append(c.rest, []byte(b))
	}
	return wire.New(c)
}

func TestFillReadsBehindWhatIsBuffered(t *testing.T) {
	c := reads("ab", "cd")
	for _, want := range []string{"ab", "abcd"} {
		if b, err := c.Fill(100); string(b) != want || err != nil {
			t.Fatalf("%q, %v, want %q", b, err, want)
		}
	}
	c.Discard(3)
	if b, err := c.Fill(100); string(b) != "d" || err != io.EOF {
		t.Errorf("%q, %v at the end", b, err)
	}
}

func TestFillNeverExceedsItsLimit(t *testing.T) {
	c := reads("abcdefgh")
	if b, err := c.Fill(5); string(b) != "abcde" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	if b, err := c.Fill(5); string(b) != "abcde" || !errors.Is(err, wire.ErrTooLong) {
		t.Fatalf("%q, %v with the limit reached", b, err)
	}
	c.Discard(2)
	if b, err := c.Fill(5); string(b) != "cdefg" || err != nil {
		t.Fatalf("%q, %v after room was made", b, err)
	}
}

// A stream of pieces arrives whole and in order whatever the reader takes of
// it, through every growth and move of the buffer.
func TestFillKeepsEveryByte(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	want := make([]byte, 3<<20)
	for i := range want {
		want[i] = byte(random.Uint32())
	}
	c := &chunks{}
	for rest := want; len(rest) > 0; {
		n := min(len(rest), 1+random.IntN(200<<10))
		c.rest = append(c.rest, rest[:n])
		rest = rest[n:]
	}
	conn, got := wire.New(c), []byte(nil)
	for {
		b, err := conn.Fill(max(len(conn.Buffered())+1, random.IntN(1<<20)))
		n := random.IntN(len(b) + 1)
		if err == io.EOF {
			n = len(b)
		}
		got = append(got, b[:n]...)
		conn.Discard(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, want) {
		t.Fatal("the stream came out different")
	}
	if in, _ := conn.Counters(); in != int64(len(want)) {
		t.Errorf("counted %d of %d bytes", in, len(want))
	}
}

// One message near the limit must not cost an idle session its size for ever.
func TestIdleConnectionGivesLargeBufferBack(t *testing.T) {
	big := string(make([]byte, 1<<20))
	c := reads(big, "x")
	for len(c.Buffered()) < len(big) {
		if _, err := c.Fill(len(big)); err != nil {
			t.Fatal(err)
		}
	}
	if c.Room() < len(big) {
		t.Fatalf("room for %d bytes holds %d", c.Room(), len(big))
	}
	c.Discard(len(big))
	if c.Room() > wire.SmallBuffer {
		t.Errorf("an empty connection holds %d bytes", c.Room())
	}
	if b, err := c.Fill(10); string(b) != "x" || err != nil || c.Room() != wire.SmallBuffer {
		t.Errorf("%q, %v in a buffer of %d", b, err, c.Room())
	}
}

// A result of many small rows is read in large pieces: each read is a system
// call, and a system call costs more than what it brings.
func TestStreamIsReadInLargePieces(t *testing.T) {
	const total = 4 << 20
	c := &counted{chunks: chunks{rest: [][]byte{make([]byte, total)}}}
	conn := wire.New(c)
	for {
		b, err := conn.Fill(wire.LargeBuffer)
		if err != nil {
			break
		}
		conn.Discard(len(b) / 100 * 100) // whole rows
	}
	if most := total/wire.LargeBuffer*11/10 + 2; c.reads > most {
		t.Errorf("%d reads, at most %d are needed", c.reads, most)
	}
	conn.Discard(len(conn.Buffered()))
	if conn.Room() > wire.SmallBuffer {
		t.Errorf("an idle connection holds %d bytes", conn.Room())
	}
}

type counted struct {
	chunks
	reads int
}

func (c *counted) Read(p []byte) (int, error) {
	c.reads++
	return c.chunks.Read(p)
}

func TestPeekConsumesNothing(t *testing.T) {
	c := reads("a", "bc", "d")
	if b, err := c.Peek(3); string(b) != "abc" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	if b, err := c.Exactly(4); string(b) != "abcd" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	if b, err := c.Peek(1); len(b) != 0 || err != io.EOF {
		t.Errorf("%q, %v at the end", b, err)
	}
	if _, err := reads("ab").Peek(3); err != io.EOF {
		t.Errorf("%v for a stream that is too short", err)
	}
	if _, err := reads("ab").Exactly(3); err != io.ErrUnexpectedEOF {
		t.Errorf("%v for a stream that is too short", err)
	}
}

func TestReadTakesBufferedBytesFirst(t *testing.T) {
	c := reads("abc", "def")
	c.Peek(1)
	got, err := io.ReadAll(c)
	if string(got) != "abcdef" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestReadDeadlineEndsFillAndIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := wiretest.Pipe()
		c := wire.New(b)
		c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Fill(10); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Time{})
		a.Write([]byte("late"))
		if got, err := c.Fill(10); string(got) != "late" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestWriteCounts(t *testing.T) {
	a, b := wiretest.Pipe()
	c := wire.New(b)
	c.Write([]byte("abc"))
	c.Write([]byte("de"))
	got := make([]byte, 5)
	if _, err := io.ReadFull(a, got); string(got) != "abcde" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	if in, out := c.Counters(); in != 0 || out != 5 {
		t.Errorf("counted %d in, %d out", in, out)
	}
}
