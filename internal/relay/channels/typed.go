package channels

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/postern/postern/internal/engine"
)

// Keys lets through what is typed at a terminal, and holds what has a program at
// the other end read a line. It does no I/O.
type Keys interface {
	// Feed takes what was typed and returns what of it goes on now. Where line is
	// not nil it is asked of the gate first, and all that is typed from there on
	// waits for Answer, after which Feed(nil) goes on.
	Feed(p []byte) (forward []byte, line *engine.Request)
	// Answer returns what goes on in place of what was held.
	Answer(allow bool) []byte
}

const (
	// interrupt is Ctrl-C, by which somebody at a terminal gives up.
	interrupt = 0x03
	// settles is how long a shell has to take in what was typed before it is taken
	// away: bash heeds an interrupt that comes meanwhile with the next key only, and
	// shows no prompt until then.
	settles = 100 * time.Millisecond
)

// typed is where what is typed goes. A line waits for its decision here and not in
// the pump, so that somebody who waits may still give up.
type typed struct {
	*channel
	ctx  context.Context
	gate engine.Gate
	verb string // of the lines
	keys Keys

	deciding sync.WaitGroup
	mu       sync.Mutex
	withdraw context.CancelCauseFunc // ends the wait of the line that is held; nil: none is
	behind   int                     // bytes that wait behind it
	flooded  bool                    // some were dropped: nothing of it counts, nor the line
}

// Write is for the pump.
func (t *typed) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.withdraw != nil {
		if t.behind += len(p); t.behind > t.Limits.HeldBytes || bytes.IndexByte(p, interrupt) >= 0 {
			t.withdraw(engine.ErrWithdrawn)
		}
		if t.behind > t.Limits.HeldBytes {
			t.flooded = true
			return len(p), nil
		}
	}
	return len(p), t.feed(p)
}

// feed writes what goes on, and has a line decided; t.mu is held. Where no rule
// names lines none is asked for.
func (t *typed) feed(p []byte) error {
	for {
		forward, line := t.keys.Feed(p)
		if err := t.send(forward); err != nil || line == nil {
			return err
		}
		if t.gate.Names(t.verb) {
			ctx, withdraw := context.WithCancelCause(t.ctx)
			t.withdraw, t.behind, t.flooded = withdraw, 0, false
			t.deciding.Go(func() { t.decide(ctx, line) })
			return nil
		}
		if err := t.send(t.keys.Answer(true)); err != nil {
			return err
		}
		p = nil
	}
}

func (t *typed) send(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	_, err := t.up.Write(p)
	return err
}

// decide asks for a line. What it says of it stands below the line, and above what
// comes of it.
func (t *typed) decide(ctx context.Context, line *engine.Request) {
	line.Pending = func(p engine.Pending) { t.say("\n" + Pending(p)) }
	x, d := decide(ctx, t.gate, line)
	if d != nil {
		end(x, false)
		t.say("\n" + Text(d, t.ID))
		wait(t.upEnded, settles)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.withdraw(nil)
	t.withdraw = nil
	allow := d == nil && !t.flooded
	if d == nil {
		end(x, allow)
	}
	if t.send(t.keys.Answer(allow)) == nil {
		t.feed(nil) //nolint:errcheck // the channel is gone then, as the pump finds by itself
	}
}

// asScript says whether a shell's input is decided whole: where it would surely get
// no shell, or would read lines that a rule names without a terminal at which they
// could be told.
func (c *channel) asScript(step Step) bool {
	return step.Script != nil && (c.gate.Names(step.LineVerb) || c.gate.Would(step.Request) != nil)
}

// script makes a step of all that the agent has to say. It takes as much as may
// be held for a request that waits.
func (c *channel) script(step Step) (Step, *engine.Denial) {
	hint := time.AfterFunc(scriptHint, func() {
		c.say("postern: no such shell is allowed here; what is sent is decided as a script, when it ends\n")
	})
	defer hint.Stop()
	input, err := io.ReadAll(io.LimitReader(c.agent, int64(c.Limits.HeldBytes)+1))
	if err == nil && len(input) <= c.Limits.HeldBytes {
		// An input that was cut off ends like one that is whole, but for whether the
		// agent is still there to answer.
		_, err = c.agent.SendRequest("keepalive@openssh.com", true, nil)
	}
	switch {
	case err != nil:
		return step, &engine.Denial{Code: engine.Cancelled, Reason: "the client is gone"}
	case len(input) > c.Limits.HeldBytes:
		return step, &engine.Denial{
			Code: engine.Limit, Reason: fmt.Sprintf("a script of more than %d bytes is not decided", c.Limits.HeldBytes), Help: "send it as a file, and run that",
		}
	}
	return step.Script(input), nil
}
