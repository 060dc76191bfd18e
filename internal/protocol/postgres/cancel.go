package postgres

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
)

// cancelWait is how long the upstream may take to close a cancel connection.
const cancelWait = 5 * time.Second

// owner is a session that may be cancelled, by its own agent only.
type owner struct {
	agent, target string
	relay         *messages.Session
	pid           uint32 // upstream
	key           []byte
}

// register gives a session the key under which its agent may cancel it.
func (s *shared) register(o *owner, minor int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		key := newCancelKey(minor)
		if _, taken := s.sessions[string(key)]; !taken {
			s.sessions[string(key)] = o
			return key
		}
	}
}

func (s *shared) unregister(key []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, string(key))
}

// find returns the session of a cancel key if it is this agent's.
func (s *shared) find(key []byte, agent, target string) *owner {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.sessions[string(key)]
	if o == nil || o.agent != agent || o.target != target {
		return nil
	}
	return o
}

// forwardCancel serves a CancelRequest. A request that waits for a person is
// taken back; otherwise the upstream is asked to cancel, with its own key. Like
// PostgreSQL it never answers, so a guessed key learns nothing.
func (c *conn) forwardCancel(ctx context.Context, up engine.Upstream) error {
	o := c.shared.find(c.cancel, c.env.Flow.Agent, c.env.Target)
	if o == nil {
		return &engine.Denial{Code: engine.Misuse, Reason: "a cancel request with a key of no session of this agent"}
	}
	if o.relay.Withdraw() {
		return nil
	}
	upstream, how, err := up.Conn(ctx)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	defer upstream.Close()
	l := &login{shared: c.shared, conn: upstream, Login: how}
	upstream.SetDeadline(time.Now().Add(cancelWait))
	if err := l.encrypt(ctx); err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	if _, err := upstream.Write(cancelRequest(o.pid, o.key)); err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	io.Copy(io.Discard, upstream) //nolint:errcheck // the upstream closes when it has taken note
	return nil
}
