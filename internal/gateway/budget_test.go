package gateway

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/budget"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/policy"
	"github.com/postern/postern/internal/wire"
)

// budgeted gives every agent budgets.
func budgeted(budgets ...Budget) func(*Setup) {
	return func(s *Setup) {
		for _, a := range s.Agents {
			a.Budgets = budgets
		}
	}
}

func hourly(most budget.Amounts, ask *policy.Ask) Budget {
	return Budget{budget.Limit{Name: "hourly", Target: "*", Per: time.Hour, Most: most, AskAt: 50}, ask}
}

// TestBudgetOfStatements: half of it is allowed, then a person is asked, then it
// is denied, in all of the agent's sessions, over reloads, until time has passed.
func TestBudgetOfStatements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := hourly(budget.Amounts{budget.Statements: 4}, &policy.Ask{Approvers: []string{"dba"}, Within: time.Minute})
		w := newWorld(t, budgeted(limit))
		a, b := w.login("planner", "s1"), w.login("planner", "s2")
		a.asks("read a", "ok read a")
		b.asks("read a", "ok read a")
		a.asks("read a", "pending budget hourly")
		w.approve("ada", "")
		a.hears("ok read a")
		b.asks("read b", "pending budget hourly")
		w.approve("ada", "")
		b.hears("ok read b")
		w.gateway.Reload(w.setup(budgeted(limit)))
		const over = "denied budget the statements of budget hourly are used up"
		a.asks("read a", over)
		b.asks("read a", over)
		b.asks("drop a", "denied policy nothing is dropped here (drop on a)") // what a rule denies is denied by the rule
		w.login("coder", "s3").asks("read a", "ok read a")                    // another agent has its own
		if got := w.exported(); !strings.Contains(got, `postern_budget_decisions_total{action="deny",agent="planner",budget="hourly"} 2`) ||
			!strings.Contains(got, `postern_budget_decisions_total{action="ask",agent="planner",budget="hourly"} 2`) {
			t.Error(got)
		}
		for _, s := range w.gateway.Budgets() {
			if want := map[string]int64{"planner": 4, "coder": 1}[s.Agent]; s.Used[budget.Statements] != want {
				t.Errorf("%s has used %d instead of %d", s.Agent, s.Used[budget.Statements], want)
			}
		}
		time.Sleep(62 * time.Minute)
		w.login("planner", "s4").asks("read a", "ok read a")
		a.conn.Close()
		w.recorded("s1", "opened planner orders", "intent app", "request 1 read a", "verdict 1 allow reads", "outcome 1 ok",
			"request 2 read a", "verdict 2 ask budget hourly", "approval 2 pending", "approval 2 approved ada", "approval 2 consumed", "outcome 2 ok",
			"request 3 read a", "verdict 3 deny budget hourly", "denial 3 budget budget hourly", "end relay: the client left")
	})
}

// Two requests that are decided while one statement is left: one goes on.
func TestBudgetIsTakenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, budgeted(hourly(budget.Amounts{budget.Statements: 1}, nil)))
		a, b := w.login("planner", "s1"), w.login("planner", "s2")
		a.asks("write a", "pending writes") // decided with one left
		b.asks("read a", "ok read a")
		w.approve("ada", "")
		a.hears("denied budget the statements of budget hourly are used up")
		if got := fmt.Sprint(w.lines.sent()); got != "[read a]" {
			t.Error("forwarded", got)
		}
	})
}

// A rule that asks anyway asks its own people, and an observed agent is not held.
func TestBudgetWhileObserving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, budgeted(hourly(budget.Amounts{budget.Statements: 1}, nil)), func(s *Setup) {
			s.Agents["planner"].Observe, s.Agents["planner"].Until = true, time.Now().Add(time.Hour)
		})
		c := w.login("planner", "s1")
		for range 3 {
			c.asks("read a", "ok read a")
		}
		standings := w.gateway.Budgets()
		i := slices.IndexFunc(standings, func(s Standing) bool { return s.Agent == "planner" })
		if i < 0 || standings[i].Used[budget.Statements] != 3 {
			t.Errorf("%+v", standings)
		}
		c.conn.Close()
		w.recorded("s1", "opened planner orders", "intent app", "request 1 read a", "verdict 1 allow reads", "outcome 1 ok",
			"request 2 read a", "verdict 2 deny budget hourly observed", "outcome 2 ok",
			"request 3 read a", "verdict 3 deny budget hourly observed", "outcome 3 ok", "end relay: the client left")
	})
}

// TestBudgetCutsAnswers: not one row over the budget is passed on, and it is on
// record that it was not.
func TestBudgetCutsAnswers(t *testing.T) {
	for _, tt := range []struct {
		most budget.Amounts
		want string
	}{
		{budget.Amounts{budget.Rows: 3}, "rows"},
		{budget.Amounts{budget.Bytes: int64(3*len(rowOf([]byte("0"))) + 5)}, "bytes"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, budgeted(hourly(tt.most, nil)))
			w.lines.relay = func(ctx context.Context, c *wire.Conn, _ engine.Upstream, gate engine.Gate) error {
				for i := range 2 {
					x, err := gate.Submit(ctx, &engine.Request{Kind: "line", Text: "read", Effects: []engine.Effect{{Verb: "read", Object: "a"}}})
					if err != nil {
						fmt.Fprintln(c, "denied", err)
						continue
					}
					x.Result([]engine.Field{{Name: "n"}})
					for n := range 5 {
						d := x.Row(rowOf([]byte("0")))
						if i == 0 && d != nil {
							fmt.Fprintln(c, "cut", n, d.Code, d.Reason)
							break
						}
					}
					x.End(engine.Outcome{Status: engine.Failed})
				}
				<-ctx.Done()
				return errBye
			}
			c := w.login("planner", "s1")
			c.hears("cut 3 budget the " + tt.want + " of budget hourly are used up")
			if tt.want == "rows" { // of the bytes there are five left, and nobody knows what the next answer takes
				c.hears("denied rule budget hourly: the rows of budget hourly are used up")
				if got := w.exported(); !strings.Contains(got, `postern_budget_decisions_total{action="cut",agent="planner",budget="hourly"} 1`) {
					t.Error(got)
				}
			}
			if got := strings.Join(w.events("s1"), " | "); !strings.Contains(got, "denial 1 budget budget hourly") {
				t.Error(got)
			}
		})
	}
}

// Conditions see what the session has had so far, and equal requests are decided
// anew.
func TestConditionsOnTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(s *Setup) {
			s.Agents["planner"].Policy = nil
		})
		p := w.policy(policy.Rule{Name: "few", Target: "orders", Verbs: []string{"read"}, When: "session.statements < 2 && session.rows < 10", Allow: true})
		w.gateway.Reload(w.setup(func(s *Setup) { s.Agents["planner"].Policy = p }))
		c := w.login("planner", "s1")
		c.asks("read a", "ok read a")
		c.asks("read a", "ok read a")
		c.asks("read a", "denied policy no rule of policy p allows read on a")
		w.login("planner", "s2").asks("read a", "ok read a")
	})
}
