package wiretest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wire"
)

// parrot greets with what it is told and sends upstream what comes next.
type parrot struct{ leak bool }

func (parrot) Greet(_ context.Context, c *wire.Conn) (engine.Intent, error) {
	b, err := c.Exactly(2)
	if err == nil {
		_, err = c.Write(b)
	}
	return engine.Intent{User: string(b)}, err
}

func (p parrot) Relay(ctx context.Context, c *wire.Conn, up engine.Upstream, gate engine.Gate) error {
	upstream, _, err := up.Conn(ctx)
	if err != nil {
		return err
	}
	defer upstream.Close()
	b, err := c.Exactly(3)
	if err != nil {
		return err
	}
	x, err := gate.Submit(ctx, &engine.Request{Kind: "say", Text: string(b)})
	if err != nil {
		return err
	}
	upstream.Write(b)
	if !p.leak {
		x.End(engine.Outcome{Tag: "done"})
	}
	return nil
}

func (parrot) Refuse(*wire.Conn, *engine.Denial) {}

func parrots(leak bool) engine.Protocol {
	return engine.Protocol{New: func(engine.Env) (engine.Engine, error) { return parrot{leak}, nil }}
}

func TestTranscript(t *testing.T) {
	Play(t, func(t *testing.T) {
		s := Start(t, Options{Protocol: parrots(false)})
		s.Client.Say([]byte("hi"))
		s.Client.Hear([]byte("hi"))
		s.Upstream().HearNothing()
		s.Client.Trickle([]byte("abc"))
		s.Upstream().Hear([]byte("abc"))
		s.Upstream().Gone()
		s.Client.Gone()
		s.Gate.Saw(t, `submit say "abc"`, `end "abc" ok "done" rows=0`)
		if intent, err := s.End(); intent.User != "hi" || err != nil {
			t.Errorf("%v, %v", intent, err)
		}
	})
}

func TestUnreachableUpstream(t *testing.T) {
	Play(t, func(t *testing.T) {
		s := Start(t, Options{Protocol: parrots(false), Unreachable: io.ErrUnexpectedEOF})
		s.Client.Say([]byte("hi"))
		s.Client.Hear([]byte("hi"))
		if _, err := s.End(); !errors.Is(err, io.ErrUnexpectedEOF) || s.Dials() != 0 {
			t.Errorf("%v after %d dials", err, s.Dials())
		}
	})
}

// failures collects what a transcript would have failed with.
type failures struct {
	testing.TB
	text []string
}

func (f *failures) Helper() {}
func (f *failures) Errorf(format string, args ...any) {
	f.text = append(f.text, fmt.Sprintf(format, args...))
}

// A runner that does not notice what nobody expected proves nothing.
func TestSomethingElseFailsTheTranscript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &failures{}
		s := &script{t: f, show: quoted}
		a, b := Pipe()
		s.peer("client", a)
		b.Write([]byte("surprise"))
		s.settled("x spoke")
		if len(f.text) != 1 || !strings.Contains(f.text[0], "surprise") {
			t.Errorf("%q", f.text)
		}
	})
}

func TestUnendedExchangeFailsTheTranscript(t *testing.T) {
	for ends, want := range []int{1, 0, 1} {
		g := &Gate{}
		x, err := g.Submit(t.Context(), &engine.Request{})
		if err != nil {
			t.Fatal(err)
		}
		for range ends {
			x.End(engine.Outcome{})
		}
		f := &failures{}
		if g.check(f); len(f.text) != want {
			t.Errorf("ended %d times: %q", ends, f.text)
		}
	}
}

func TestPipeDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe()
		a.SetReadDeadline(time.Now().Add(time.Minute))
		began := time.Now()
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("read: %v after %s", err, time.Since(began))
		}
		b.Stall(true)
		a.SetWriteDeadline(time.Now().Add(time.Minute))
		if _, err := a.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		a.SetDeadline(time.Time{})
		go func() { time.Sleep(time.Second); b.Stall(false) }()
		if _, err := a.Write([]byte("x")); err != nil {
			t.Errorf("write after a stall: %v", err)
		}
		a.Close()
		got, err := io.ReadAll(b)
		if string(got) != "x" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := b.Write([]byte("y")); err == nil {
			t.Error("a write to a closed end succeeded")
		}
	})
}
