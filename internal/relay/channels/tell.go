package channels

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
)

// sayTime bounds how long the last words to an agent that does not read may take.
const sayTime = 2 * time.Second

// lastWordTime is how long the end of a command's output waits for the end of its
// input, which is under way at the same time as a rule.
const lastWordTime = time.Second

// Text is a denial in full, for standard error.
func Text(d *engine.Denial, session string) string {
	s := "postern: " + d.Reason + "\n"
	if d.Rule != "" {
		s += "postern: decided by rule \"" + d.Rule + "\" of the policy\n"
	}
	if d.Help != "" {
		s += "postern: " + d.Help + "\n"
	}
	return s + "postern: session " + session + "\n"
}

// Line is a denial on one line, for where there is room for no more.
func Line(d *engine.Denial, session string) string {
	s := "postern: " + d.Reason
	if d.Rule != "" {
		s += "; rule " + d.Rule
	}
	if d.Help != "" {
		s += "; " + d.Help
	}
	return s + " (session " + session + ")"
}

// Pending says that a request waits, and for whom.
func Pending(p engine.Pending) string {
	s := fmt.Sprintf("postern: waiting for approval %s (rule %q), until %s\n", p.ID, p.Rule, p.DecideBy.Format(time.RFC3339))
	if p.Help != "" {
		s += "postern: " + p.Help + "\n"
	}
	return s + "postern: an operator decides with: postern approve " + p.ID + "\n"
}

// say shows text to the agent's user: on the terminal, where there is one.
func (c *channel) say(text string) {
	c.mu.Lock()
	terminal := c.terminal != nil
	c.mu.Unlock()
	if terminal {
		c.out.Write([]byte(strings.ReplaceAll(text, "\n", "\r\n"))) //nolint:errcheck // the channel is gone then
		return
	}
	c.err.Write([]byte(text)) //nolint:errcheck // the channel is gone then
}

// tell ends a channel with a denial: its text, an exit status and the end, after
// which nothing of the upstream's comes. Where there is no session, an end is all
// that can be said.
func (c *channel) tell(d *engine.Denial, status uint32) {
	c.mu.Lock()
	told := c.told
	c.told = true
	c.mu.Unlock()
	if told {
		return
	}
	late := time.AfterFunc(sayTime, func() { c.agent.Close() })
	defer late.Stop()
	if c.session {
		c.out.stop()
		c.err.stop()
		c.say(Text(d, c.ID))
		c.last.Lock()
		c.agent.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status})) //nolint:errcheck // the channel is gone then
		c.last.Unlock()
	}
	c.endOutput()
	c.agent.Close()
}

// flooded ends a channel on which the upstream asks too much: after the answer to
// what is forwarded right now, without which a client hears nothing of a command.
// That answer may be behind more requests, so that whoever takes those off the
// connection does not wait for it.
func (c *channel) flooded() {
	c.running.Go(func() {
		c.began()
		c.tell(&engine.Denial{Code: engine.Limit, Reason: "too many requests of the upstream wait on one channel"}, statusBroken)
		c.up.Close()
	})
}

// lastWord waits for how a command ends that has closed its output before, where
// the agent has nothing more to say either: with both directions at their end,
// OpenSSH's multiplexing client closes the channel, which the library answers at
// once, and a status that came later would be lost. An agent that still speaks is
// told of the end, for which it may wait, unless its own end comes a little later.
func (c *channel) lastWord() {
	late := time.NewTimer(lastWordTime)
	defer late.Stop()
	select {
	case <-c.upEnded:
	case <-c.said:
		<-c.upEnded
	case <-late.C:
	}
}

// endOutput says that nothing more follows, once nothing does.
func (c *channel) endOutput() {
	c.output.Do(func() {
		c.out.close()
		c.err.close()
		c.agent.CloseWrite() //nolint:errcheck // the channel is gone then
	})
}

// tellAll ends channels that are open with a denial of all of them.
func (s *Session) tellAll(d *engine.Denial, which func(*channel) bool) {
	s.mu.Lock()
	all := make([]*channel, 0, len(s.channels))
	for c := range s.channels {
		if which(c) {
			all = append(all, c)
		}
	}
	s.mu.Unlock()
	over := make(chan struct{}, len(all))
	for _, c := range all {
		s.running.Go(func() {
			c.tell(d, statusBroken)
			over <- struct{}{}
		})
	}
	late := time.NewTimer(sayTime)
	defer late.Stop()
	for range all {
		select {
		case <-over:
		case <-late.C:
			return
		}
	}
}

var (
	closed = &engine.Denial{Code: engine.Unavailable, Reason: "the upstream closed the channel"}
	lost   = &engine.Denial{Code: engine.Unavailable, Reason: "the upstream's connection ended"}
)

// unreachable is what an agent is told of an upstream that could not be had.
func unreachable(err error) *engine.Denial {
	var d *engine.Denial
	if errors.As(err, &d) {
		return d
	}
	return &engine.Denial{
		Code: engine.Unavailable, Reason: "the upstream cannot be reached",
		Help: "an operator finds the reason in the daemon's log under this session's id",
	}
}

// refusedBy is what an agent is told of a channel that the upstream refused.
func (c *channel) refusedBy(err error) *engine.Denial {
	var no *ssh.OpenChannelError
	if !errors.As(err, &no) {
		return lost
	}
	words := cmp.Or(string(c.gate.Scrub([]byte(no.Message))), "no reason given")
	return &engine.Denial{Code: engine.Unavailable, Reason: fmt.Sprintf("the upstream refused the channel: %s: %s", no.Reason, words)}
}

// serve decides the opening of a channel, and goes on with what it is.
func (s *Session) serve(ctx context.Context, gate engine.Gate, from From, n ssh.NewChannel) {
	step, codec := s.Codec.Open(from, n.ChannelType(), n.ExtraData())
	if step.Main && step.Request == nil {
		step.Do = Refuse
	}
	x, d := decide(ctx, gate, step.Request)
	c := s.channel(gate, codec, n.ChannelType(), orElse(step.Payload, n.ExtraData()))
	switch {
	case d != nil:
		n.Reject(ssh.Prohibited, Line(d, s.ID)) //nolint:errcheck // the connection is gone then
	case step.Do == Refuse:
		n.Reject(ssh.UnknownChannelType, "postern: channels of this kind are not passed on") //nolint:errcheck // as above
		end(x, false)
	case step.Forward != nil:
		c.lead(ctx, n, x, step.Forward)
	case step.Main:
		c.whole(ctx, from, n, x)
	default:
		c.lazy(ctx, n, x)
	}
}
