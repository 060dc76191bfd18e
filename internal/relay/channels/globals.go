package channels

import (
	"cmp"
	"context"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
)

// globals goes through the agent's requests that belong to no channel, in order:
// their answers have nothing else by which they are told apart.
//
// One that waits for a person lets those after it wait, keepalives among them.
func (s *Session) globals(ctx context.Context, gate engine.Gate, requests <-chan *ssh.Request) {
	waiting := newQueue(s.Limits.HeldBytes)
	s.running.Go(func() {
		waiting.fill(requests, func() {
			s.cancel(&engine.Denial{Code: engine.Limit, Reason: "too many requests wait on the connection"})
		})
	})
	for r := waiting.take(); r != nil; r = waiting.take() {
		step := s.Codec.Global(Agent, r.Type, r.Payload)
		x, d := decide(ctx, gate, step.Request)
		ok, answer := false, []byte(nil)
		if d == nil {
			ok, answer = s.global(r, step)
			end(x, ok || !r.WantReply)
		}
		r.Reply(ok, answer) //nolint:errcheck // the connection is gone then
	}
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

// upstreamGlobals answers the upstream's requests that belong to no channel. None
// goes on to the agent: the host keys that it tells are its own.
func (s *Session) upstreamGlobals(requests <-chan *ssh.Request) {
	for r := range requests {
		step := s.Codec.Global(Upstream, r.Type, r.Payload)
		r.Reply(step.Do == Grant, nil) //nolint:errcheck // the connection is gone then
	}
}
