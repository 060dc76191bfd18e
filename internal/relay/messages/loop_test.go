package messages

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wire"
	"github.com/postern/postern/internal/wiretest"
)

// inLoop runs a transcript around a session that knows what it is asked, and
// tells how many sessions are in the loop.
func inLoop(t *testing.T, gate *wiretest.Gate, transcript func(s *wiretest.Session, relay *Session, in func() int)) {
	t.Helper()
	before := driver
	defer func() { driver = before }()
	driver = wiretest.Looping
	play(t, gate, func(s *wiretest.Session, relay *Session, _ *toy) {
		in := func() int {
			synctest.Wait()
			return relay.Loop.threads[0].sessions()
		}
		if in() != 1 {
			t.Fatal("the session did not enter the loop")
		}
		transcript(s, relay, in)
	})
}

func TestSteadySessionStaysInTheLoop(t *testing.T) {
	_, gate := asking()
	inLoop(t, gate, func(s *wiretest.Session, relay *Session, in func() int) {
		for range 3 {
			s.Client.Say(line("ask 1"), line("prep 2"), line("ask deny 3"), []byte("as"))
			s.Upstream().Hear(line("ask 1"), line("prep 2"))
			s.Client.Hear(line("denied: no deny 3"))
			s.Client.Say([]byte("k 4\n"))
			s.Upstream().Hear(line("ask 4"))
			s.Upstream().Trickle(line("answer 1"), line("answer 4"), line("inject"))
			s.Upstream().Hear(line("injected"))
			s.Client.Hear(line("answer 1"), line("answer 4"))
		}
		if in() != 1 {
			t.Error("the session left")
		}
		if out := relay.out; out.Up != nil || out.Down != nil || len(relay.Client.Buffered()) > 0 {
			t.Error("the session holds buffers")
		}
	})
}

// What has to be found out first is found out outside of the loop, and the
// session comes back when all is answered.
func TestUnknownRequestLeavesTheLoopAndComesBack(t *testing.T) {
	_, gate := asking()
	inLoop(t, gate, func(s *wiretest.Session, _ *Session, in func() int) {
		s.Client.Say(line("ask 1"), line("ask riddle"), line("ask 2"))
		s.Upstream().Hear(line("ask 1"), line("ask 2"))
		s.Client.Hear(line("denied: not understood"))
		if in() != 0 {
			t.Error("it did not leave")
		}
		s.Upstream().Say(line("answer 1"))
		s.Client.Hear(line("answer 1"))
		if in() != 0 {
			t.Error("it came back while an answer was owed")
		}
		s.Upstream().Say(line("answer 2"))
		s.Client.Hear(line("answer 2"))
		if in() != 1 {
			t.Error("it did not come back")
		}
		gate.Saw(t, `submit ask "1"`, `submit ask "riddle"`, "refused", `submit ask "2"`,
			`end "1" ok "answer 1" rows=0`, `end "2" ok "answer 2" rows=0`)
	})
}

func TestRequestThatWaitsForAPersonLeavesTheLoop(t *testing.T) {
	p, gate := asking()
	inLoop(t, gate, func(s *wiretest.Session, _ *Session, in func() int) {
		for range 2 {
			s.Client.Say(line("ask 1"), line("ask wait"), line("ask 3"))
			s.Upstream().Hear(line("ask 1"))
			s.Client.Hear(line("waiting for a1"))
			if in() != 0 {
				t.Error("it waits in the loop")
			}
			p.say() <- nil
			s.Upstream().Hear(line("ask wait"), line("ask 3"))
			s.Upstream().Say(line("a"), line("b"), line("c"))
			s.Client.Hear(line("a"), line("b"), line("c"))
			if in() != 1 {
				t.Error("it did not come back")
			}
		}
	})
}

// What a client does not read waits outside, and arrives whole and once.
func TestStalledClientLeavesTheLoop(t *testing.T) {
	_, gate := asking()
	inLoop(t, gate, func(s *wiretest.Session, _ *Session, in func() int) {
		s.Client.Stall(true)
		s.Upstream().Say(line("answer 1"))
		if in() != 0 {
			t.Error("it waits in the loop")
		}
		s.Upstream().Say(line("answer 2"))
		s.Client.Say(line("pass"))
		s.Upstream().Hear(line("pass"))
		s.Client.Stall(false)
		s.Client.Hear(line("answer 1"), line("answer 2"))
		if in() != 1 {
			t.Error("it did not come back")
		}
	})
}

func TestStalledUpstreamLeavesTheLoop(t *testing.T) {
	_, gate := asking()
	inLoop(t, gate, func(s *wiretest.Session, _ *Session, in func() int) {
		s.Upstream().Stall(true)
		s.Client.Say(line("pass 1"))
		s.Client.Say(line("pass 2"))
		if in() != 0 {
			t.Error("it waits in the loop")
		}
		s.Upstream().Say(line("news"))
		s.Client.Hear(line("news"))
		s.Upstream().Stall(false)
		s.Upstream().Hear(line("pass 1"), line("pass 2"))
	})
}

func TestEndsInTheLoop(t *testing.T) {
	gone := func(t *testing.T, s *wiretest.Session, in func() int) {
		s.Client.Gone()
		s.Upstream().Gone()
		if in() != 0 {
			t.Error("it is still in the loop")
		}
	}
	for name, end := range map[string]func(t *testing.T, s *wiretest.Session){
		"client leaves":   func(_ *testing.T, s *wiretest.Session) { s.Client.HangUp() },
		"upstream leaves": func(_ *testing.T, s *wiretest.Session) { s.Upstream().HangUp() },
		"goodbye": func(_ *testing.T, s *wiretest.Session) {
			s.Client.Say(line("bye"))
			s.Upstream().Hear(line("bye"))
			s.Upstream().Say(line("farewell"))
			s.Client.Hear(line("farewell"))
			s.Upstream().HangUp()
		},
		"reload": func(_ *testing.T, s *wiretest.Session) {
			s.Interrupt(&engine.Denial{Code: engine.Ended, Reason: "reload"})
			s.Client.Hear(line("goodbye: reload"))
		},
		"protocol error": func(_ *testing.T, s *wiretest.Session) {
			s.Client.Say(line("pass"), line("bad"))
			s.Client.Hear(line("goodbye: bad line"))
			s.Upstream().HearNothing()
		},
		"cancelled": func(_ *testing.T, s *wiretest.Session) { s.Interrupt(context.Canceled) },
	} {
		t.Run(name, func(t *testing.T) {
			_, gate := asking()
			inLoop(t, gate, func(s *wiretest.Session, _ *Session, in func() int) {
				end(t, s)
				gone(t, s, in)
				s.End()
			})
		})
	}
}

// Long messages and long answers are for goroutines; the answer arrives whole
// in any case.
func TestMuchLeavesTheLoop(t *testing.T) {
	for name, much := range map[string][]byte{
		"announced":    []byte("#90100" + strings.Repeat("x", 90000) + "\n"),
		"not foreseen": []byte(strings.Repeat("x", 200000) + "\n"),
		"many":         bytes.Repeat(line("row of a long answer"), 20000),
	} {
		t.Run(name, func(t *testing.T) {
			_, gate := asking()
			inLoop(t, gate, func(s *wiretest.Session, _ *Session, in func() int) {
				s.Client.Say(line("ask 1"))
				s.Upstream().Hear(line("ask 1"))
				s.Upstream().Say(much)
				if got := s.Client.Take(); !bytes.Equal(got, much) {
					t.Errorf("%d bytes arrived of %d", len(got), len(much))
				}
				s.Client.Say(much)
				if got := s.Upstream().Take(); !bytes.Equal(got, much) {
					t.Errorf("%d bytes arrived of %d", len(got), len(much))
				}
			})
		})
	}
}

// A loop that stops lets its sessions go on without it.
func TestLoopEndsBeforeItsSessions(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		l := NewLoop(2, wiretest.NewPoller)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()
		synctest.Wait()
		client, upstream, done := between(t, l, wiretest.Pipe)
		synctest.Wait()
		if l.threads[0].sessions()+l.threads[1].sessions() != 1 {
			t.Fatal("it did not enter")
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		client.Write(line("pass"))
		if got := make([]byte, 5); !reads(upstream, got) || string(got) != "pass\n" {
			t.Errorf("%q", got)
		}
		client.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestLoopThatCannotOpenItsPoller(t *testing.T) {
	broken := errors.New("too many files")
	l := NewLoop(1, func() (wire.Poller, error) { return nil, broken })
	if err := l.Run(t.Context()); !errors.Is(err, broken) {
		t.Error(err)
	}
	if _, ok := l.threads[0].enter(&Session{}); ok {
		t.Error("a session entered")
	}
}

func reads(c net.Conn, b []byte) bool {
	_, err := io.ReadFull(c, b)
	return err == nil
}

// between relays through a session of its own; the ends are the test's.
func between[C net.Conn](t *testing.T, l *Loop, pipe func() (C, C)) (client, upstream C, done chan error) {
	t.Helper()
	client, clientEnd := pipe()
	upstream, upstreamEnd := pipe()
	s := &Session{
		Client: wire.New(clientEnd), Upstream: wire.New(upstreamEnd), Codec: &clumsy{},
		Gate: &wiretest.Gate{}, Resolver: &slow{map[string]bool{"1": true}}, Limits: wiretest.Limits, Loop: l,
	}
	done = make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- p.(error)
			}
		}()
		done <- s.Run(t.Context())
	}()
	return client, upstream, done
}

// sockets returns the two ends of a TCP connection.
func sockets(t *testing.T) func() (net.Conn, net.Conn) {
	return func() (net.Conn, net.Conn) {
		t.Helper()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		a, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close() })
		for _, c := range []net.Conn{a, b} {
			c.(*net.TCPConn).SetDeadline(time.Now().Add(patience))
		}
		b.SetDeadline(time.Time{})
		return a, b
	}
}

// With the kernel's poller: many sessions on one thread, of which one does not
// read, one sends half a message and one panics.
func TestManySessionsOnOneThread(t *testing.T) {
	l := running(t, NewLoop(1, wire.NewEpoll))
	pipe := sockets(t)
	stalled, flood, _ := between(t, l, pipe)
	half, _, _ := between(t, l, pipe)
	half.Write([]byte("pa"))
	clumsy, _, panicked := between(t, l, pipe)
	clumsy.Write(line("panic"))
	var p *Panic
	if err := <-panicked; !errors.As(err, &p) {
		t.Fatalf("%v", err)
	}
	answer := bytes.Repeat([]byte("x"), 100<<10)
	answer[len(answer)-1] = '\n'
	written := make(chan error, 1)
	go func() {
		flood.SetDeadline(time.Now().Add(10 * patience))
		var err error
		for i := 0; i < 160 && err == nil; i++ {
			_, err = flood.Write(answer)
		}
		written <- err
	}()
	for range 20 {
		client, upstream, done := between(t, l, pipe)
		for range 50 {
			client.Write(line("ask 1"))
			expectOf(t, upstream, "ask 1\n")
			upstream.Write(line("answer"))
			expectOf(t, client, "answer\n")
		}
		client.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	stalled.SetDeadline(time.Now().Add(10 * patience))
	for range 160 {
		got := make([]byte, len(answer))
		if !reads(stalled, got) || !bytes.Equal(got, answer) {
			t.Fatal("what was not read at first arrived otherwise")
		}
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

func expectOf(t *testing.T, from net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if !reads(from, got) || string(got) != want {
		t.Fatalf("heard %q, want %q", got, want)
	}
}

// A TLS client's records may come in any pieces, several at once, or longer than
// the buffers of the loop.
func TestTLSInTheLoop(t *testing.T) {
	serverTLS, clientTLS := wiretest.TLS("db.internal")
	l := running(t, NewLoop(1, wire.NewEpoll))
	pipe := sockets(t)
	mine, theirs := pipe()
	upstream, upstreamEnd := pipe()
	s := &Session{
		Client: wire.New(theirs), Upstream: wire.New(upstreamEnd), Codec: &toy{},
		Gate: &wiretest.Gate{}, Resolver: &slow{map[string]bool{"1": true}}, Limits: wiretest.Limits, Loop: l,
	}
	served := make(chan error, 1)
	done := make(chan error, 1)
	go func() {
		served <- s.Client.StartTLSServer(t.Context(), serverTLS)
		done <- s.Run(t.Context())
	}()
	split := &splitting{Conn: mine}
	client := tls.Client(split, clientTLS)
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 3, 7, 1000, 1 << 20} {
		split.size = size
		client.Write(bytes.Repeat(line("pass 1"), 3))
		client.Write(line("pass 2"))
		expectOf(t, upstream, strings.Repeat("pass 1\n", 3)+"pass 2\n")
		upstream.Write(bytes.Repeat(line("a row"), 9000))
		expectOf(t, client, strings.Repeat("a row\n", 9000))
	}
	client.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// splitting writes in pieces.
type splitting struct {
	net.Conn
	size int
}

func (s *splitting) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		var k int
		k, err = s.Conn.Write(p[:min(len(p), max(s.size, 1))])
		n, p = n+k, p[k:]
	}
	return n, err
}

// A session that left the loop for half a long message must not go back and
// forth until the other half comes: it rests only after an answer.
func TestHalfALongMessageDoesNotSpin(t *testing.T) {
	_, gate := asking()
	inLoop(t, gate, func(s *wiretest.Session, _ *Session, in func() int) {
		long := []byte("#90100" + strings.Repeat("x", 90000) + "\n")
		s.Client.Say(long[:1000]) // returns when all is quiet
		if in() != 0 {
			t.Error("it is in the loop")
		}
		s.Upstream().Say(line("news"))
		s.Client.Hear(line("news"))
		s.Client.Say(long[1000:])
		s.Upstream().Hear(long)
		s.Upstream().Say(line("answer"))
		s.Client.Hear(line("answer"))
		if in() != 1 {
			t.Error("it did not come back")
		}
	})
}

// A loop whose threads turn says so; one that is stuck does not.
func TestLoopTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLoop(2, wiretest.NewPoller)
		if err := l.Turn(t.Context()); err != nil {
			t.Error("a loop that does not run:", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()
		synctest.Wait()
		for range 3 {
			if err := l.Turn(t.Context()); err != nil {
				t.Error(err)
			}
		}
		stuck := NewLoop(1, nil)
		poller, err := wiretest.NewPoller() // nobody waits for it
		if err != nil {
			t.Fatal(err)
		}
		stuck.threads[0].poller = poller
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := stuck.Turn(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a loop that is stuck: %v", err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
