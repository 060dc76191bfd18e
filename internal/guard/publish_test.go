package guard

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// TestPublishedIsPaused: a connection on which nothing is on its way goes on after a
// pause, whatever was said meanwhile; one whose receiver takes nothing ends, and
// delays nobody for long.
func TestPublishedIsPaused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to enter a network namespace")
	}
	p, inside, outside := publishedHere(t)
	connect := func() (near, far net.Conn) {
		t.Helper()
		near, err := net.Dial("tcp", outside)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { near.Close() })
		if far, err = inside.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { far.Close() })
		near.SetDeadline(time.Now().Add(time.Minute))
		far.SetDeadline(time.Now().Add(time.Minute))
		return near, far
	}
	idle, idleFar := connect()
	fmt.Fprintln(idle, "before")
	far := bufio.NewReader(idleFar)
	hears := func(want string) {
		t.Helper()
		if line, err := far.ReadString('\n'); line != want+"\n" {
			t.Errorf("heard %q, %v; want %q", line, err, want)
		}
	}
	hears("before")
	slow, slowFar := connect()
	fillUp(slowFar)

	began := time.Now()
	p.pause()
	if took := time.Since(began); took > 2*pauseTime {
		t.Errorf("it took %s", took)
	}
	var along luggage
	for c := range p.carried {
		along.copied(c.outside)
		along.copied(c.inside)
	}
	closeAll(along.files)
	if len(p.carried) != 1 || len(along.files) != 2 || along.errs[0] != nil || along.errs[1] != nil {
		t.Errorf("%d connections are left, %d descriptors, %v", len(p.carried), len(along.files), along.errs)
	}
	fmt.Fprintln(idle, "meanwhile")
	late, err := net.Dial("tcp", outside) // who comes now waits
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	p.resume()
	hears("meanwhile")
	fmt.Fprintln(idle, "after")
	hears("after")
	slow.(*net.TCPConn).SetReadBuffer(1 << 20)
	if n, err := io.Copy(io.Discard, slow); n >= 64<<20 {
		t.Errorf("the slow one had all: %d, %v", n, err)
	}
	c, err := inside.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// publishedHere leads from an address to a listener at the same port of 127.0.0.1.
func publishedHere(t *testing.T) (p *published, inside net.Listener, outside string) {
	t.Helper()
	inside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p = newPublished()
	t.Cleanup(func() { p.close(); inside.Close() })
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.2:%d", inside.Addr().(*net.TCPAddr).Port))
	if err != nil {
		t.Fatal(err)
	}
	p.listeners = []*net.TCPListener{l.(*net.TCPListener)}
	if err := p.serve(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	return p, inside, l.Addr().String()
}

// fillUp writes more than all buffers hold, until nobody takes any more.
func fillUp(c net.Conn) {
	var written atomic.Int64
	go func() {
		piece := make([]byte, 64<<10)
		for range 1024 {
			n, err := c.Write(piece)
			if written.Add(int64(n)); err != nil {
				return
			}
		}
	}()
	for before := int64(-1); before <= 0 || before != written.Load(); {
		before = written.Load()
		time.Sleep(300 * time.Millisecond)
	}
}
