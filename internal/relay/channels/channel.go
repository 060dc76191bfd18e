package channels

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
)

const (
	// closeGrace is how long what the agent has said on a channel that it closed
	// may take to go on.
	closeGrace = 5 * time.Second

	// scriptHint is how long an input may go on before its sender is told that its
	// end is waited for.
	scriptHint = 3 * time.Second

	statusDenied = 126 // what shells say for "cannot execute"
	statusBroken = 255 // what ssh says when there is no connection
)

// channel is one channel of the agent's and its other half at the upstream.
type channel struct {
	*Session
	gate  engine.Gate
	codec ChannelCodec
	kind  string
	extra []byte

	agent    ssh.Channel
	session  bool  // it has a user who can be shown text
	out, err *pump // to the agent
	in       *pump // to the upstream, once that is there
	terminal *engine.Terminal
	deferred []deferred
	output   sync.Once // ends it

	up       ssh.Channel   // nil before anything is forwarded
	said     chan struct{} // closed when what the agent said has gone on, nil before Main
	upEnded  chan struct{} // closed when all of the upstream's half has gone on
	answered chan struct{} // closed when the agent has all that it gets of the channel

	// order is held from before a request goes on until its answer has gone back,
	// so that what an upstream sends after its answer comes after it.
	order sync.Mutex
	// last is held while the agent is sent how a command ended: a denial has the
	// last word.
	last sync.Mutex

	mu       sync.Mutex
	begun    bool            // a request had Main
	lines    string          // the verb of the lines that are typed; empty: there is no shell at a terminal
	exchange engine.Exchange // whose the streams are, nil before Main and after the end
	ended    *Ended
	told     bool
}

// deferred is a request that goes ahead of the one with Main.
type deferred struct {
	request  *ssh.Request
	step     Step
	exchange engine.Exchange
}

// maxDeferred is how many requests a channel may have deferred: OpenSSH's server
// takes 128 variables of an environment.
const maxDeferred = 160

// decide asks the gate.
func decide(ctx context.Context, gate engine.Gate, r *engine.Request) (engine.Exchange, *engine.Denial) {
	if r == nil {
		return nil, nil
	}
	x, err := gate.Submit(ctx, r)
	var d *engine.Denial
	if err != nil && !errors.As(err, &d) {
		d = &engine.Denial{Code: engine.Unavailable, Reason: "the request could not be decided"}
	}
	return x, d
}

func (s *Session) channel(gate engine.Gate, codec ChannelCodec, kind string, extra []byte) *channel {
	return &channel{
		Session: s, gate: gate, codec: codec, kind: kind, extra: extra,
		upEnded: make(chan struct{}), answered: make(chan struct{}),
	}
}

// with takes the agent's half.
func (c *channel) with(agent ssh.Channel) {
	c.agent = agent
	c.out, c.err = &pump{to: agent}, &pump{to: agent.Stderr()}
	c.add(c)
}

// asked goes through what the agent asks of a channel of its own, in order, and
// returns when both halves have ended.
func (c *channel) asked(ctx context.Context, requests <-chan *ssh.Request) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	waiting := queue{most: c.Limits.HeldBytes, handle: func(r *ssh.Request) { c.request(ctx, r) }}
	waiting.fill(requests, func() {
		// An agent that does not read is not waited for: the rest has to be taken off
		// the connection.
		c.running.Go(func() {
			c.tell(&engine.Denial{Code: engine.Limit, Reason: "too many requests wait on one channel"}, statusDenied)
			cancel(engine.ErrGone)
		})
	})
	cancel(engine.ErrGone) // what waits for a person does so for nobody
	waiting.done()
	for _, d := range c.deferred {
		end(d.exchange, false)
	}
	c.hangUp()
	c.finish()
}

// hangUp closes the upstream's half when what the agent said has gone on.
func (c *channel) hangUp() {
	if c.said != nil {
		wait(c.said, closeGrace)
	}
	c.remove(c)
	if c.up != nil {
		c.up.Close()
		<-c.upEnded
	}
}

// finish is called when nothing more comes of the upstream's half.
func (c *channel) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.answered:
	default:
		close(c.answered)
	}
}

// request is the order, for one request of the agent's.
func (c *channel) request(ctx context.Context, r *ssh.Request) {
	step := c.codec.Request(r.Type, r.Payload)
	reply := replies(r)
	if c.refuses(step) {
		reply(false)
		return
	}
	if c.asScript(step) {
		reply(true) // or a client would not send its input
		var d *engine.Denial
		if step, d = c.script(step); d != nil {
			c.tell(d, statusDenied)
			return
		}
	}
	if step.Main && step.Request != nil {
		step.Request.Pending = func(p engine.Pending) {
			reply(true) // or a client would not show what it is told
			c.say(Pending(p))
		}
	}
	x, d := decide(ctx, c.gate, step.Request)
	if d != nil {
		reply(step.Main)
		if step.Main {
			c.tell(d, statusDenied)
		}
		return
	}
	if step.Do == Defer {
		reply(c.postpone(deferred{r, step, x}))
		return
	}
	ok, d := c.carryOut(ctx, r, step, x, reply)
	switch {
	case d != nil && step.Main:
		c.tell(d, statusBroken)
	case ok && step.Main: // the exchange ends with the channel
		return
	case ok && step.Terminal != nil:
		c.shownOn(*step.Terminal)
	}
	end(x, ok)
}

// refuses says whether a step comes too late, or may not come at all.
func (c *channel) refuses(step Step) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.told || step.Main && (c.begun || step.Request == nil) || step.Interrupts && c.lines != "" && c.gate.Names(c.lines)
}

// carryOut forwards what was allowed and answers it.
func (c *channel) carryOut(ctx context.Context, r *ssh.Request, step Step, x engine.Exchange, reply func(bool) bool) (bool, *engine.Denial) {
	c.order.Lock()
	defer c.order.Unlock()
	ok, d := c.forward(r, step)
	if d == nil && !ok && step.Main && reply(false) {
		d = &engine.Denial{Code: engine.Unavailable, Reason: "the upstream refused the request"}
	}
	reply(ok || d != nil && step.Main)
	if ok && step.Main {
		c.begin(ctx, x, step)
	}
	return ok, d
}

// began says whether the streams of the channel have begun, not counting what is
// forwarded right now.
func (c *channel) began() bool {
	c.order.Lock()
	defer c.order.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.begun
}

// replies returns what answers a request, once. It says whether it was answered
// with yes before.
func replies(r *ssh.Request) func(ok bool) (already bool) {
	replied, yes := false, false
	return func(ok bool) bool {
		already := yes
		if !replied {
			r.Reply(ok, nil) //nolint:errcheck // the channel is gone then
			replied, yes = true, ok
		}
		return already
	}
}

// postpone notes what goes ahead of the request with Main.
func (c *channel) postpone(d deferred) (ok bool) {
	// A terminal there always has to be: what is typed is decided as at one.
	if terminal := d.step.Terminal != nil && d.step.Needed != ""; len(c.deferred) >= maxDeferred && !terminal {
		end(d.exchange, false)
		return false
	}
	c.deferred = append(c.deferred, d)
	if d.step.Terminal != nil {
		c.shownOn(*d.step.Terminal)
	}
	return true
}

// ahead sends what was deferred.
func (c *channel) ahead() (denied *engine.Denial) {
	for _, d := range c.deferred {
		ok, err := false, error(nil)
		if denied == nil {
			ok, err = c.up.SendRequest(d.request.Type, d.step.Needed != "" || d.step.Then != nil, orElse(d.step.Payload, d.request.Payload))
		}
		switch {
		case denied != nil:
		case err != nil:
			denied = closed
		case !ok && d.step.Needed != "":
			denied = &engine.Denial{Code: engine.Unavailable, Reason: "the upstream gives no " + d.step.Needed}
		case d.step.Then != nil:
			d.step.Then(ok)
		}
		end(d.exchange, denied == nil && (ok || d.step.Then == nil))
	}
	c.deferred = nil
	return denied
}

func orElse(b, other []byte) []byte {
	if b != nil {
		return b
	}
	return other
}

// end ends the exchange of a request that has no streams.
func end(x engine.Exchange, ok bool) {
	if x == nil {
		return
	}
	status := engine.OK
	if !ok {
		status = engine.Failed
	}
	x.End(engine.Outcome{Status: status})
}

// forward carries out what was allowed.
func (c *channel) forward(r *ssh.Request, step Step) (ok bool, d *engine.Denial) {
	switch {
	case step.Do == Refuse, step.Do == Echo && c.up == nil:
		return false, nil
	case step.Do == Grant:
		return true, nil
	}
	if c.up == nil {
		if d := c.reachUp(); d != nil {
			return false, d
		}
	}
	if step.Main {
		if d := c.ahead(); d != nil {
			return false, d
		}
	}
	wants := r.WantReply || step.Main
	ok, err := c.up.SendRequest(cmp.Or(step.Type, r.Type), wants, orElse(step.Payload, r.Payload))
	if err != nil {
		return false, closed
	}
	if step.Then != nil {
		step.Then(ok)
	}
	return ok || !wants, nil
}

// reachUp opens the upstream's half.
func (c *channel) reachUp() *engine.Denial {
	side, err := c.reach()
	if err != nil {
		return unreachable(err)
	}
	up, requests, err := side.Conn.OpenChannel(c.kind, c.extra)
	if err != nil {
		return c.refusedBy(err)
	}
	c.up = up
	c.joined(requests)
	return nil
}

// joined listens to the upstream's half.
func (c *channel) joined(requests <-chan *ssh.Request) {
	c.running.Go(func() {
		c.answers(requests)
		close(c.upEnded)
		if !c.began() { // or the end of the streams is the channel's
			c.tell(closed, statusBroken)
		}
	})
}

// answers passes on what the upstream asks and tells on a channel, until it
// closes it.
func (c *channel) answers(requests <-chan *ssh.Request) {
	waiting := queue{most: c.Limits.HeldBytes, handle: c.answer}
	waiting.fill(requests, c.flooded)
	waiting.done()
}

func (c *channel) answer(r *ssh.Request) {
	c.began() // when it came after an answer, that has gone back
	out, send, ended := c.codec.Answer(r.Type, r.Payload, c.clean)
	ok := false
	switch {
	case ended != nil:
		c.endsWith(r, *ended, send, out)
	case send:
		ok, _ = c.agent.SendRequest(r.Type, r.WantReply, out)
	}
	r.Reply(ok, nil) //nolint:errcheck // the channel is gone then
}

// endsWith tells the agent how a command ended, unless it was told of a denial.
func (c *channel) endsWith(r *ssh.Request, ended Ended, send bool, out []byte) {
	c.last.Lock()
	defer c.last.Unlock()
	c.mu.Lock()
	told := c.told
	c.ended = &ended
	c.mu.Unlock()
	if send && !told {
		c.agent.SendRequest(r.Type, false, out) //nolint:errcheck // the channel is gone then
	}
}

func (c *channel) clean(b []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.exchange == nil {
		return nil
	}
	return c.exchange.Text(b)
}

// begin starts the streams, which belong to the exchange from here on.
func (c *channel) begin(ctx context.Context, x engine.Exchange, step Step) {
	ctx, over := context.WithCancelCause(ctx)
	c.mu.Lock()
	c.begun, c.exchange = true, x
	if step.Keys != nil {
		c.lines = step.LineVerb
	}
	c.mu.Unlock()
	if c.terminal != nil {
		x.Terminal(*c.terminal)
	}
	down := c.down(step.Handler, over) // streams to the agent
	c.err.belongs(x.Stream(engine.Stderr), c.up.Close)
	down(func() { c.move(c.err, c.up.Stderr()) })
	c.said = make(chan struct{})
	if step.Handler != nil {
		gate := c.gate.Beside()
		down(func() { c.handle(ctx, x, gate, step.Handler) })
		close(c.said) // what is on its way ends with ctx
	} else {
		c.out.belongs(x.Stream(engine.Stdout), c.up.Close)
		c.in = &pump{to: c.up, stream: x.Stream(engine.Stdin), hangUp: c.agent.Close}
		decided := func() {}
		if step.Keys != nil {
			t := &typed{channel: c, ctx: ctx, gate: c.gate.Beside(), verb: step.LineVerb, keys: step.Keys}
			c.in.to, decided = t, t.deciding.Wait
		}
		down(func() { c.move(c.out, c.up) })
		c.running.Go(func() {
			defer close(c.said)
			c.move(c.in, c.agent)
			decided()
			c.up.CloseWrite() //nolint:errcheck // the channel is gone then
		})
	}
}

// down returns what runs each of the two streams to the agent. The one that ends
// last ends the channel.
func (c *channel) down(handler Handler, over context.CancelCauseFunc) func(func()) {
	var left atomic.Int32
	left.Store(2)
	return func(stream func()) {
		c.running.Go(func() {
			stream()
			if left.Add(-1) > 0 {
				return
			}
			if c.session && handler == nil {
				c.lastWord()
			}
			c.endOutput()
			<-c.upEnded
			over(engine.ErrGone)
			c.complete()
			c.agent.Close()
			c.finish()
		})
	}
}

// move is one stream, whose denial is the channel's.
func (c *channel) move(p *pump, from io.Reader) {
	p.run(from)
	if d := p.denied(); d != nil {
		c.up.Close()
		c.tell(d, statusDenied)
	}
}

// complete puts the end of a channel on record.
func (c *channel) complete() {
	if c.in != nil {
		c.in.stop()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o := engine.Outcome{Status: engine.Broken}
	if c.ended != nil {
		o.Tag, o.Exit, o.Status = c.ended.Tag, c.ended.Exit, engine.OK
		if !c.ended.OK {
			o.Status = engine.Failed
		}
	}
	x := c.exchange
	c.exchange = nil
	x.End(o)
}

// shownOn notes a terminal and its sizes.
func (c *channel) shownOn(t engine.Terminal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.Type != "" || c.terminal == nil {
		c.terminal = &t
	} else {
		c.terminal.Columns, c.terminal.Rows = t.Columns, t.Rows
	}
	if c.exchange != nil {
		c.exchange.Terminal(t)
	}
}
