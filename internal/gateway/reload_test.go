package gateway

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/policy"
)

// A reload ends the sessions that the new setup would not have begun, with a
// word, and no other; the rest is decided by it from the next request on.
func TestReload(t *testing.T) {
	masked := func(s *Setup) {
		s.Agents["planner"].Masks = map[string]*Masks{"orders": {Words: []string{"ssn redact"}}}
	}
	for _, c := range []struct {
		name   string
		change func(*world, *Setup)
		why    string // empty: the session goes on
	}{
		{"nothing", func(*world, *Setup) {}, ""},
		{"other limits", func(_ *world, s *Setup) { s.Limits.Sessions = 1 }, ""},
		{"a new agent", func(_ *world, s *Setup) { s.Agents["third"] = s.Agents["coder"] }, ""},
		{"the agent is gone", func(_ *world, s *Setup) { delete(s.Agents, "planner") }, "the agent is no longer configured"},
		{"the target is gone", func(_ *world, s *Setup) { s.Targets = nil }, "the target is no longer the same"},
		{"the target moved", func(_ *world, s *Setup) { s.Targets[0].Identity = "second" }, "the target is no longer the same"},
		{"the masks changed", func(_ *world, s *Setup) { masked(s) }, "the policy's masks changed"},
		{"nothing is allowed", func(w *world, s *Setup) { s.Agents["planner"].Policy = w.policy() }, "the policy no longer allows this target"},
		{"nothing is allowed, but it is observed", func(w *world, s *Setup) {
			a := s.Agents["planner"]
			a.Policy, a.Observe, a.Until = w.policy(), true, time.Now().Add(time.Hour)
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				client, other := w.login("planner", "s1"), w.login("coder", "s2")
				setup := w.setup(func(s *Setup) { c.change(w, s) })
				targets := len(setup.Targets)
				ended := make(chan int, 1)
				go func() { ended <- w.gateway.Reload(setup) }()
				if c.why == "" {
					client.asks("read a", "ok read a")
				} else {
					client.hears("bye ended the configuration changed: " + c.why)
					client.ends()
					w.recorded("s1", "opened planner orders", "intent app", "denial 0 ended ", "end relay: the configuration changed: "+c.why)
				}
				if n := <-ended; (n > 0) != (c.why != "") {
					t.Errorf("%d sessions were ended", n)
				}
				if targets > 0 && setup.Targets[0].Identity == "first" {
					other.asks("read a", "ok read a")
				}
			})
		})
	}
}

// The policy that decides is the newest, also for what was decided before.
func TestReloadDecidesAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.login("planner", "s1")
		c.asks("read a", "ok read a")
		w.gateway.Reload(w.setup(func(s *Setup) {
			deny := policy.Rule{Name: "no-a", Target: "orders", Verbs: []string{"read"}, Tables: []string{"a"}, Deny: "not a"}
			s.Agents["planner"].Policy = w.policy(append([]policy.Rule{deny}, rules()...)...)
		}))
		c.asks("read a", "denied policy not a (read on a)")
		c.asks("read b", "ok read b")
		if g := w.gateway.Setup().Generation; g != 1 {
			t.Error("the generation is", g)
		}
	})
}

// A session that began under the old setup while the new one was put in place
// ends as any other.
func TestReloadWhileASessionBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		reload := true
		w.gateway.Now = func() time.Time {
			if reload { // between the look at the setup and the place among the sessions
				reload = false
				w.gateway.Reload(w.setup(func(s *Setup) { s.Targets[0].Identity = "second" }))
			}
			return time.Now()
		}
		w.connect("planner", "s1").ends()
		w.recorded("s1", "opened planner orders", "denial 0 ended ", "end greet: the configuration changed")
		w.login("planner", "s2").asks("read a", "ok read a")
	})
}

// A client in its greeting does not keep a reload's decision waiting.
func TestReloadDuringGreeting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.connect("planner", "s1")
		synctest.Wait()
		began := time.Now()
		w.gateway.Reload(w.setup(func(s *Setup) { delete(s.Agents, "planner") }))
		c.ends()
		if took := time.Since(began); took != 0 {
			t.Error("it ended after", took)
		}
		w.recorded("s1", "opened planner orders", "denial 0 ended ", "end greet: the configuration changed: the agent")
	})
}
