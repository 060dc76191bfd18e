package channels

import (
	"cmp"
	"context"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
)

// globals handles the agent's requests that belong to no channel, in order:
// their answers have nothing else by which they are told apart.
//
// One that waits for a person lets those after it wait, keepalives among them.
func (s *Session) globals(ctx context.Context, gate engine.Gate) *queue {
	return &queue{most: s.Limits.HeldBytes, handle: func(r *ssh.Request) {
		step := s.Codec.Global(Agent, r.Type, r.Payload)
		x, d := decide(ctx, gate, step.Request)
		ok, answer := false, []byte(nil)
		if d == nil {
			ok, answer = s.global(r, step)
			end(x, ok || !r.WantReply)
		}
		r.Reply(ok, answer) //nolint:errcheck // the connection is gone then
	}}
}

func (s *Session) global(r *ssh.Request, step Step) (ok bool, answer []byte) {
	switch {
	case step.Do == Refuse, step.Do == Echo && s.reached() == nil:
		return false, nil
	case step.Do == Grant:
		return true, nil
	}
	up, err := s.reach()
	if err != nil {
		return false, nil
	}
	ok, words, err := up.Conn.SendRequest(cmp.Or(step.Type, r.Type), r.WantReply || step.Then != nil, orElse(step.Payload, r.Payload))
	if err != nil {
		return false, nil
	}
	if ok && step.Answer != nil {
		answer = step.Answer(words)
	}
	if step.Then != nil {
		step.Then(ok)
	}
	return ok, answer
}

// attend takes what the upstream begins, until its connection ends: channels, and
// requests that belong to none. None of those goes on to the agent: the host keys
// that it tells are its own.
func (s *Session) attend(ctx context.Context, gate engine.Gate, up Side) {
	for up.Channels != nil || up.Requests != nil {
		select {
		case c, more := <-up.Channels:
			if !more {
				up.Channels = nil
				continue
			}
			s.opened(ctx, gate, Upstream, c)
		case r, more := <-up.Requests:
			if !more {
				up.Requests = nil
				continue
			}
			step := s.Codec.Global(Upstream, r.Type, r.Payload)
			r.Reply(step.Do == Grant, nil) //nolint:errcheck // the connection is gone then
		}
	}
}
