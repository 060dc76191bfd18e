package postgres

import (
	"context"
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wiretest"
)

// cancels plays a connection that sends this CancelRequest; it returns what
// the upstream heard on it, nil when it was not dialled.
func (w *world) cancels(t *testing.T, agent string, key []byte) []byte {
	t.Helper()
	another := &world{protocol: w.protocol, agent: agent}
	s := another.start(t)
	s.Client.Send(special(codeCancel, string(key)))
	s.Client.HearNothing() // like PostgreSQL, it never answers
	if s.Dials() == 0 {
		s.Client.Gone()
		return nil
	}
	heard := s.Upstream().Take()
	s.Upstream().HangUp()
	s.Client.Gone()
	return heard
}

func TestCancelRequest(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		w := &world{}
		s, key := w.begin(t)
		if string(key[4:]) == "real" {
			t.Error("the agent was given the upstream's key")
		}
		if got := w.cancels(t, "planner", key); string(got) != string(special(codeCancel, long(7)+"real")) {
			t.Errorf("the upstream heard:\n%s", show(got))
		}
		s.Client.Say(terminate)
		s.Upstream().Hear(terminate)
		s.Upstream().HangUp()
		if got := w.cancels(t, "planner", key); got != nil {
			t.Error("a key outlives its session")
		}
	})
}

func TestCancelRequestOfAnotherAgent(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		w := &world{}
		_, key := w.begin(t)
		if got := w.cancels(t, "intruder", key); got != nil {
			t.Errorf("the upstream heard:\n%s", show(got))
		}
	})
}

func TestCancelRequestSpoofed(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		w := &world{}
		_, key := w.begin(t)
		for _, guess := range []string{
			long(7) + "real", string(key[:4]) + "\x00\x00\x00\x00", string(key[:7]) + string(key[7]^1), string(key) + "\x00",
			strings.Repeat("k", 256),
		} {
			if got := w.cancels(t, "planner", []byte(guess)); got != nil {
				t.Errorf("key %q: the upstream heard:\n%s", guess, show(got))
			}
		}
	})
}

func TestCancelRequestBeforeLogin(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		w := &world{}
		w.atLogin(t) // a session that is not registered yet
		if got := w.cancels(t, "planner", []byte(long(0)+"\x00\x00\x00\x00")); got != nil {
			t.Errorf("the upstream heard:\n%s", show(got))
		}
	})
}

// Protocol 3.2: the key toward the agent is ours and long, the upstream's may
// have up to 256 bytes.
func TestCancelKeyOf256Bytes(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		w := &world{}
		s := w.start(t)
		s.Client.Say(startup(3<<16|2, "user", "app", "database", "shop"))
		s.Client.Hear(authRequest(authClear))
		s.Client.Say(msg('p', placeholderPassword+"\x00"))
		s.Client.Hear(authRequest(authOK))
		s.Upstream().Take()
		real := strings.Repeat("k", 256)
		s.Upstream().Say(authRequest(authOK), backendKey(7, real), ready('I'))
		s.Upstream().Hear(query(catalogQuery(nil)))
		s.Upstream().Say(catalogAnswer(nil, 'I'))
		b := s.Client.Take()
		n, _, err := split(b)
		if err != nil || b[0] != 'K' || n != headerBytes+4+cancelKeyBytes {
			t.Fatalf("the agent heard:\n%s", show(b))
		}
		if got := w.cancels(t, "planner", b[headerBytes:n]); string(got) != string(special(codeCancel, long(7)+real)) {
			t.Errorf("the upstream heard:\n%s", show(got))
		}
	})
}

// A request that waits for a person never was upstream: it is taken back.
func TestCancelRequestWithdraws(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		var cause error
		w := &world{waits: true, decide: func(ctx context.Context, r *engine.Request) error {
			r.Pending(engine.Pending{ID: "a1"})
			<-ctx.Done()
			cause = context.Cause(ctx)
			return &engine.Denial{Code: engine.Cancelled, Reason: "cancelled"}
		}}
		s, key := w.begin(t)
		s.Client.Say(query("delete from orders"))
		s.Client.Take()
		if got := w.cancels(t, "planner", key); got != nil {
			t.Errorf("the upstream heard:\n%s", show(got))
		}
		s.Client.Hear(denied(&engine.Denial{Code: engine.Cancelled, Reason: "cancelled"}), ready('I'))
		s.Upstream().HearNothing()
		if cause != engine.ErrWithdrawn {
			t.Error(cause)
		}
	})
}
