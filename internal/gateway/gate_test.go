package gateway

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/record"
)

// When a request goes upstream, it and its verdict are in the file already.
func TestRecordBeforeForward(t *testing.T) {
	for _, host := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(s *Setup) { s.Host = host })
			var seen []string
			w.lines.forward = func(string) { seen = w.eventsNow("s1") }
			c := w.login("planner", "s1")
			c.asks("read a", "ok read a")
			want := []string{"opened planner orders", "intent app", "request 1 read a", "verdict 1 allow reads"}
			if !slices.Equal(seen, want) {
				t.Errorf("host %t: on record when it was forwarded: %q", host, seen)
			}
		})
	}
}

// The use of an approval is on record before the request is forwarded.
func TestApprovalBeforeForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var seen []string
		w.lines.forward = func(string) { seen = w.eventsNow("s1") }
		c := w.login("planner", "s1")
		c.asks("write a", "pending writes")
		w.approve("ada", "ok")
		c.hears("ok write a")
		if len(seen) == 0 || seen[len(seen)-1] != "approval 1 consumed" {
			t.Errorf("on record when it was forwarded: %q", seen)
		}
	})
}

// A request that the quota leaves no room for is denied and not forwarded, and
// so is every later one of its session: nothing is left out of the middle.
func TestQuotaDenies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldWith(t, record.Options{AgentBytes: 48 << 10})
		c, other := w.login("planner", "s1"), w.login("coder", "s2")
		c.asks("read a", "ok read a")
		c.asks("read "+strings.Repeat("x", 64<<10), "denied unavailable the request cannot be put on record, so it was not sent")
		c.asks("read b", "denied unavailable the request cannot be put on record, so it was not sent")
		other.asks("read c", "ok read c") // another agent's quota is its own
		if got := fmt.Sprint(w.lines.sent()); got != "[read a read c]" {
			t.Error("forwarded", got)
		}
		w.counted("postern_audit_write_errors_total", "2")
		if !strings.Contains(w.log.String(), "quota") {
			t.Error("the log does not say why")
		}
	})
}

// Answers that cannot be put on record end the session.
func TestResultsBeyondTheQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldWith(t, record.Options{AgentBytes: 128 << 10})
		w.lines.relay = flood
		c := w.login("planner", "s1")
		c.hears("bye unavailable the request cannot be put on record, so it was not sent")
		c.ends()
	})
}

func TestLimitOfResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(s *Setup) { s.MaxSession = 100 << 10 })
		w.lines.relay = flood
		c := w.login("planner", "s1")
		c.hears("bye ended the session's recording has reached its limit")
		c.ends()
		events := w.events("s1")
		if n := len(events); events[n-2] != "denial 0 ended " || !strings.HasPrefix(events[n-1], "end relay: the session's recording") {
			t.Errorf("the recording ends with %q", events[n-2:])
		}
	})
}

// In observe mode verdicts are on record and not enforced, until its end: a
// session that was there before is no exception.
func TestObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(s *Setup) {
			s.Agents["planner"].Observe, s.Agents["planner"].Until = true, time.Now().Add(time.Minute)
		})
		c := w.login("planner", "s1")
		c.asks("drop a", "ok drop a")
		c.asks("write a", "ok write a")
		c.asks("mystery", "ok mystery")
		c.asks("garbled read", "denied malformed cannot be read")
		time.Sleep(time.Minute)
		c.asks("drop a", "denied policy nothing is dropped here (drop on a)")
		c.conn.Close()
		w.recorded("s1", "opened planner orders", "intent app",
			"request 1 drop a", "verdict 1 deny no-drops observed", "outcome 1 ok",
			"request 2 write a", "verdict 2 ask writes observed", "outcome 2 ok",
			"request 3 mystery", "verdict 3 deny  observed", "outcome 3 ok",
			"request 4 garbled read", "verdict 4 deny ", "denial 4 malformed ",
			"request 5 drop a", "verdict 5 deny no-drops", "denial 5 policy no-drops",
			"end relay: the client left")
	})
}

// Observe mode admits a session that the policy would refuse, and denies its
// requests once it is over.
func TestObserveAdmits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.gateway.Reload(w.setup(func(s *Setup) {
			s.Agents["planner"].Policy = w.policy()
			s.Agents["planner"].Observe, s.Agents["planner"].Until = true, time.Now().Add(time.Minute)
		}))
		c := w.login("planner", "s1")
		c.asks("read a", "ok read a")
		time.Sleep(time.Minute)
		c.says("read a")
		if got := c.line(); !strings.HasPrefix(got, "denied policy ") {
			t.Error("the client hears", got)
		}
		late := w.connect("planner", "s2")
		late.says("hello app")
		if got := late.line(); !strings.HasPrefix(got, "refused policy ") {
			t.Error("the client hears", got)
		}
	})
}

// Would says no where Submit is sure to, on record, and nothing otherwise.
func TestWould(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lines.relay = would
		c := w.login("planner", "s1")
		c.hears("read: nothing")
		c.hears("write: nothing")
		c.hears("drop: nothing is dropped here (drop on a)")
		c.hears("unknown: nothing")
		c.hears("refused: cannot be read")
		c.ends()
		w.recorded("s1", "opened planner orders", "intent app",
			"request 1 drop a", "verdict 1 deny no-drops", "denial 1 policy no-drops",
			"request 2 refused a", "verdict 2 deny ", "denial 2 malformed ", "end")
	})
}

// A setup that lost its agent denies what still comes.
func TestFollowWithoutAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &session{gateway: w.gateway, setup: &Setup{}, flow: engine.Flow{Agent: "planner"}, agent: &Agent{}, target: &Target{Name: "orders"}}
		g := newGate(s, &engine.Intent{})
		g.setup = w.gateway.Setup() // so that decide does not follow that one
		if v := g.decide(&engine.Request{Effects: []engine.Effect{{Verb: "read"}}}); v.Action.String() != "deny" {
			t.Error("the verdict is", v.Action)
		}
		if !g.Names("line") {
			t.Error("nothing is asked")
		}
	})
}
