package channels

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
)

const (
	// closeGrace is how long what the agent has said on a channel that it closed
	// may take to go on.
	closeGrace = 5 * time.Second

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
	out, err *pump // to the agent
	in       *pump // to the upstream, once that is there
	terminal *engine.Terminal

	up       ssh.Channel   // nil before anything is forwarded
	upEnded  chan struct{} // closed when all of the upstream's half has gone on
	answered chan struct{} // closed when the agent has all that it gets of the channel

	mu       sync.Mutex
	exchange engine.Exchange // whose the streams are, nil before Main and after the end
	ended    *Ended
	told     bool
}

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
	defer c.remove(c)
	waiting := newQueue()
	c.running.Go(func() {
		if !waiting.fill(requests) {
			c.tell(&engine.Denial{Code: engine.Limit, Reason: "too many requests wait on one channel"}, statusDenied)
		}
		cancel(engine.ErrGone) // what waits for a person does so for nobody
	})
	for r := waiting.take(); r != nil; r = waiting.take() {
		c.request(ctx, r)
	}
	c.hangUp()
	c.finish()
}

// hangUp closes the upstream's half when what the agent said has gone on.
func (c *channel) hangUp() {
	if c.up == nil {
		return
	}
	if c.in != nil {
		timer := time.AfterFunc(closeGrace, func() { c.up.Close() })
		c.in.finish()
		timer.Stop()
	}
	c.up.Close()
	<-c.upEnded
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
	replied := false
	reply := func(ok bool) {
		if !replied {
			r.Reply(ok, nil) //nolint:errcheck // the channel is gone then
		}
		replied = true
	}
	if step.Main && step.Request != nil {
		step.Request.Pending = func(p engine.Pending) {
			reply(true) // or a client would not show what it is told
			c.say(pendingText(p))
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
	ok, d := c.forward(ctx, r, step)
	if d == nil && !ok && step.Main && replied {
		d = &engine.Denial{Code: engine.Unavailable, Reason: "the upstream refused the request"}
	}
	reply(ok || d != nil && step.Main)
	switch {
	case d != nil && step.Main:
		c.tell(d, statusBroken)
	case ok && step.Main:
		c.begin(ctx, x, step.Handler)
		return
	case ok && step.Terminal != nil:
		c.shownOn(*step.Terminal)
	}
	end(x, ok)
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
func (c *channel) forward(ctx context.Context, r *ssh.Request, step Step) (ok bool, d *engine.Denial) {
	switch {
	case step.Do == Refuse, step.Do == Echo && c.up == nil:
		return false, nil
	case step.Do == Grant:
		return true, nil
	}
	if c.up == nil {
		if d := c.reachUp(ctx); d != nil {
			return false, d
		}
	}
	payload := r.Payload
	if step.Payload != nil {
		payload = step.Payload
	}
	wants := r.WantReply || step.Main
	ok, err := c.up.SendRequest(r.Type, wants, payload)
	if err != nil {
		return false, &engine.Denial{Code: engine.Unavailable, Reason: "the upstream closed the channel"}
	}
	if step.Then != nil {
		step.Then(ok, nil)
	}
	return ok || !wants, nil
}

// reachUp opens the upstream's half.
func (c *channel) reachUp(ctx context.Context) *engine.Denial {
	side, err := c.reach(ctx)
	if err != nil {
		return unreachable(err)
	}
	up, requests, err := side.Conn.OpenChannel(c.kind, c.extra)
	if err != nil {
		return c.refusedBy(err)
	}
	c.joined(up, requests)
	return nil
}

// joined takes the upstream's half.
func (c *channel) joined(up ssh.Channel, requests <-chan *ssh.Request) {
	c.up = up
	c.running.Go(func() {
		defer close(c.upEnded)
		c.answers(requests)
		c.mu.Lock()
		began := c.exchange != nil
		c.mu.Unlock()
		if !began {
			c.agent.Close()
		}
	})
}

// answers passes on what the upstream asks and tells on a channel, until it
// closes it.
func (c *channel) answers(requests <-chan *ssh.Request) {
	waiting := newQueue()
	c.running.Go(func() { waiting.fill(requests) })
	for r := waiting.take(); r != nil; r = waiting.take() {
		out, send, ended := c.codec.Answer(r.Type, r.Payload, c.clean)
		if ended != nil {
			c.mu.Lock()
			c.ended = ended
			c.mu.Unlock()
		}
		ok := false
		if send {
			ok, _ = c.agent.SendRequest(r.Type, r.WantReply, out)
		}
		r.Reply(ok, nil) //nolint:errcheck // the channel is gone then
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
func (c *channel) begin(ctx context.Context, x engine.Exchange, handler Handler) {
	c.mu.Lock()
	c.exchange = x
	c.mu.Unlock()
	if c.terminal != nil {
		x.Terminal(*c.terminal)
	}
	var down sync.WaitGroup // streams to the agent
	c.err.belongs(x.Stream(engine.Stderr))
	down.Go(func() { c.move(c.err, c.up.Stderr()) })
	if handler != nil {
		down.Go(func() { c.handle(ctx, x, handler) })
	} else {
		c.out.belongs(x.Stream(engine.Stdout))
		c.in = &pump{to: c.up, stream: x.Stream(engine.Stdin)}
		down.Go(func() { c.move(c.out, c.up) })
		c.running.Go(func() {
			c.in.run(c.agent)
			c.up.CloseWrite() //nolint:errcheck // the channel is gone then
		})
	}
	c.running.Go(func() {
		down.Wait()
		c.agent.CloseWrite() //nolint:errcheck // the channel is gone then
		<-c.upEnded
		c.complete()
		c.agent.Close()
		c.finish()
	})
}

// move is a stream to the agent.
func (c *channel) move(p *pump, from io.Reader) {
	p.run(from)
	if d := p.denied(); d != nil {
		c.tell(d, statusDenied)
		c.up.Close()
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
		o.Tag, o.Status = c.ended.Tag, engine.OK
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
