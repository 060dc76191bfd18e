package messages

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wire"
	"github.com/postern/postern/internal/wiretest"
)

// toy is a protocol of lines. A client's "ask x" is decided and answered by a
// line, "prep x" is checked with Would, "bye" is goodbye, all else passes. An
// upstream's "inject" makes the codec ask something itself.
type toy struct {
	held   string
	owed   []engine.Exchange
	denied []string // by text of the request, in order
	broken bool
	open   bool // a transaction
}

func lines(buf []byte) (n, need int, err error) {
	if i := bytes.IndexByte(buf, '\n'); i >= 0 {
		return i + 1, i + 1, nil
	}
	if at := bytes.IndexByte(buf, '#'); at >= 0 { // announces its length
		fmt.Sscanf(string(buf[at+1:]), "%d", &need)
		return 0, need, nil
	}
	return 0, len(buf) + 4096, nil
}

func (c *toy) SplitRequest(buf []byte) (int, int, error)  { return lines(buf) }
func (c *toy) SplitResponse(buf []byte) (int, int, error) { return lines(buf) }

func (c *toy) Request(out *Out, msg []byte) (Step, error) {
	c.held = string(msg)
	verb, text, _ := strings.Cut(strings.TrimSuffix(c.held, "\n"), " ")
	switch verb {
	case "ask":
		return Step{Decide: &engine.Request{Kind: "ask", Text: text}}, nil
	case "prep":
		return Step{Prepare: &engine.Request{Kind: "prep", Text: text}}, nil
	case "bye":
		out.Up = append(out.Up, msg...)
		return Step{End: true}, nil
	case "begin", "commit":
		c.open = verb == "begin"
	case "bad":
		return Step{}, &engine.Denial{Code: engine.Malformed, Reason: "bad line"}
	}
	out.Up = append(out.Up, msg...)
	return Step{}, nil
}

func (c *toy) Allowed(out *Out, x engine.Exchange) {
	out.Up = append(out.Up, c.held...)
	if x != nil {
		c.owed = append(c.owed, x)
	}
}

func (c *toy) Denied(out *Out, d *engine.Denial) {
	c.denied = append(c.denied, c.held)
	out.Down = append(out.Down, "denied: "+d.Reason+"\n"...)
}

func (c *toy) Pending(out *Out, p engine.Pending) {
	out.Down = append(out.Down, "waiting for "+p.ID+"\n"...)
}

func (c *toy) Response(out *Out, msg []byte) error {
	if string(msg) == "inject\n" {
		out.Up = append(out.Up, "injected\n"...)
		return nil
	}
	if len(c.owed) > 0 {
		c.owed[0].End(engine.Outcome{Tag: strings.TrimSpace(string(msg))})
		c.owed = c.owed[1:]
	}
	out.Down = append(out.Down, msg...)
	return nil
}

func (c *toy) Held() Held { return nil }

func (c *toy) Idle() bool { return len(c.owed) == 0 }

func (c *toy) InTransaction() bool { return c.open }

func (c *toy) Goodbye(out *Out, d *engine.Denial) {
	out.Down = append(out.Down, "goodbye: "+d.Reason+"\n"...)
}

func (c *toy) Broken() {
	c.broken = true
	for _, x := range c.owed {
		x.End(engine.Outcome{Status: engine.Broken})
	}
}

// slow knows nothing until it is asked, except in a loop that is not to be left;
// "riddle" it never understands.
type slow struct{ known map[string]bool }

func (s *slow) Known(r *engine.Request) bool {
	return r.Refused != nil || s.known[r.Text] || driver == wiretest.Looping && r.Text != "riddle"
}

func (s *slow) Resolve(_ context.Context, r *engine.Request) *engine.Denial {
	if r.Text == "riddle" {
		return &engine.Denial{Reason: "not understood"}
	}
	s.known[r.Text] = true
	return nil
}

// toyEngine relays lines at once.
type toyEngine struct {
	codec *toy
	relay chan *Session
	loop  *Loop
}

func (toyEngine) Greet(context.Context, *wire.Conn) (engine.Intent, error) {
	return engine.Intent{}, nil
}
func (toyEngine) Refuse(*wire.Conn, *engine.Denial) {}

func (e toyEngine) Relay(ctx context.Context, client *wire.Conn, up engine.Upstream, gate engine.Gate) error {
	upstream, _, err := up.Conn(ctx)
	if err != nil {
		return err
	}
	s := &Session{
		Client: client, Upstream: upstream, Codec: e.codec, Resolver: &slow{map[string]bool{}},
		Gate: gate, Limits: wiretest.Limits, Loop: e.loop,
	}
	e.relay <- s
	return s.Run(ctx)
}

// play runs a transcript around a toy session.
func play(t *testing.T, gate *wiretest.Gate, transcript func(s *wiretest.Session, relay *Session, codec *toy)) {
	t.Helper()
	wiretest.Play(t, func(t *testing.T) {
		e := toyEngine{&toy{}, make(chan *Session, 1), looping(t)}
		s := wiretest.Start(t, wiretest.Options{
			Protocol: engine.Protocol{New: func(engine.Env) (engine.Engine, error) { return e, nil }},
			Gate:     gate,
			Login:    engine.Login{Credential: secret.Credential{User: "real"}},
		})
		transcript(s, <-e.relay, e.codec)
	})
}

// driver is how the tests' sessions are relayed in this run.
var driver wiretest.Driver

func TestMain(m *testing.M) {
	os.Exit(wiretest.EachDriver(m, func(d wiretest.Driver) { driver = d }))
}

// looping returns a loop that runs until the test ends, nil when the driver is
// goroutines.
func looping(t *testing.T) *Loop {
	if driver == wiretest.Goroutines {
		return nil
	}
	return running(t, NewLoop(1, wiretest.NewPoller))
}

func running(t *testing.T, l *Loop) *Loop {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	for !l.threads[0].runs() {
		runtime.Gosched()
	}
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l
}

func (t *thread) runs() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.poller != nil
}

func line(s string) []byte { return []byte(s + "\n") }
