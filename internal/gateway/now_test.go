package gateway

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wire"
)

// submitsNow asks about a request of each kind without waiting.
func submitsNow(_ context.Context, c *wire.Conn, _ engine.Upstream, gate engine.Gate) error {
	for _, verb := range []string{"read", "write", "drop", "refused write"} {
		r := &engine.Request{Kind: "line", Text: verb + " a", Effects: []engine.Effect{{Verb: verb, Object: "a"}}}
		if verb == "refused write" {
			r.Effects[0].Verb = "write"
			r.Refused = &engine.Denial{Code: engine.Malformed, Reason: "cannot be read"}
		}
		x, now, err := gate.SubmitNow(r)
		var d *engine.Denial
		switch {
		case !now:
			fmt.Fprintf(c, "%s: later\n", verb)
		case errors.As(err, &d):
			fmt.Fprintf(c, "%s: %s\n", verb, d.Reason)
		default:
			x.End(engine.Outcome{Status: engine.OK})
			fmt.Fprintf(c, "%s: ok\n", verb)
		}
	}
	return nil
}

// What a person is asked about is not decided now, and leaves nothing on record;
// while a policy is only observed neither, because the observation may end
// between two looks at the clock.
func TestSubmitNow(t *testing.T) {
	record := []string{
		"opened planner orders", "intent app",
		"request 1 read a", "verdict 1 allow reads", "outcome 1 ok",
		"request 2 drop a",
	}
	refused := []string{"verdict 3 ask writes", "denial 3 malformed ", "end"}
	for name, tt := range map[string]struct {
		change func(*Setup)
		drop   string
		want   []string
	}{
		"enforced": {func(*Setup) {}, "nothing is dropped here (drop on a)", append([]string{"verdict 2 deny no-drops", "denial 2 policy no-drops", "request 3 refused write a"}, refused...)},
		"observed": {func(s *Setup) {
			s.Agents["planner"].Observe, s.Agents["planner"].Until = true, time.Now().Add(time.Minute)
		}, "ok", append([]string{"verdict 2 deny no-drops observed", "outcome 2 ok", "request 3 refused write a"}, refused...)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.gateway.Reload(w.setup(tt.change))
				w.lines.relay = submitsNow
				c := w.login("planner", "s1")
				c.hears("read: ok")
				c.hears("write: later")
				c.hears("drop: " + tt.drop)
				c.hears("refused write: cannot be read")
				c.ends()
				w.recorded("s1", append(record[:len(record):len(record)], tt.want...)...)
			})
		})
	}
}

// Whoever wants each request on the disk before it is sent waits for the disk.
func TestSubmitNowWithDurability(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.gateway.Reload(w.setup(func(s *Setup) { s.Host = true }))
		w.lines.relay = submitsNow
		c := w.login("planner", "s1")
		for _, verb := range []string{"read", "write", "drop", "refused write"} {
			c.hears(verb + ": later")
		}
		c.ends()
		w.recorded("s1", "opened planner orders", "intent app", "end")
	})
}
