package gateway

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/approval"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/policy"
)

// pending is the one approval that waits.
func (w *world) pending() string {
	w.t.Helper()
	synctest.Wait()
	id := ""
	for _, a := range w.approvals.List() {
		if a.State != approval.Pending {
			continue
		}
		if id != "" {
			w.t.Fatal("several approvals wait")
		}
		id = a.ID
	}
	if id == "" {
		w.t.Fatal("no approval waits")
	}
	return id
}

func (w *world) approve(by, reason string) {
	w.t.Helper()
	if err := w.approvals.Approve(w.pending(), approval.Vote{Group: "dba", By: by, Reason: reason}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) nothingSent() {
	w.t.Helper()
	synctest.Wait()
	if sent := w.lines.sent(); len(sent) > 0 {
		w.t.Error("forwarded", sent)
	}
}

func TestApproved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.login("planner", "s1")
		c.asks("write a", "pending writes")
		time.Sleep(9 * time.Minute)
		w.nothingSent()
		w.approve("ada", "as agreed")
		c.hears("ok write a")
		// An approval is for one request: the same again asks again.
		c.asks("write a", "pending writes")
		if got := fmt.Sprint(w.lines.sent()); got != "[write a]" {
			t.Error("forwarded", got)
		}
		c.conn.Close()
		w.lines.withdraw(engine.ErrGone)
		w.recorded("s1", "opened planner orders", "intent app",
			"request 1 write a", "verdict 1 ask writes", "approval 1 pending", "approval 1 approved ada as agreed", "approval 1 consumed", "outcome 1 ok",
			"request 2 write a", "verdict 2 ask writes", "approval 2 pending", "approval 2 pending", "denial 2 cancelled writes", "end relay: the client left")
	})
}

func TestDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.login("planner", "s1")
		c.asks("write a", "pending writes")
		if err := w.approvals.Deny(w.pending(), approval.Vote{Group: "dba", By: "ada", Reason: "not on a Friday"}); err != nil {
			t.Fatal(err)
		}
		c.hears("denied person denied by ada: not on a Friday")
		w.nothingSent()
		w.recorded("s1", "opened planner orders", "intent app", "request 1 write a", "verdict 1 ask writes",
			"approval 1 pending", "approval 1 denied ada not on a Friday", "denial 1 person writes")
	})
}

func TestExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.login("planner", "s1")
		c.asks("write a", "pending writes")
		began := time.Now()
		c.hears("denied expired nobody decided within 10m0s")
		if took := time.Since(began); took != 10*time.Minute {
			t.Error("expired after", took)
		}
		w.nothingSent()
		w.recorded("s1", "opened planner orders", "intent app", "request 1 write a", "verdict 1 ask writes",
			"approval 1 pending", "approval 1 expired", "denial 1 expired writes")
	})
}

// A client that takes its request back takes the approval with it.
func TestWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.login("planner", "s1")
		c.asks("write a", "pending writes")
		id := w.pending()
		w.lines.withdraw(engine.ErrWithdrawn)
		c.hears("denied cancelled cancelled while it waited for approval")
		if err := w.approvals.Approve(id, approval.Vote{Group: "dba", By: "ada"}); err == nil {
			t.Error("a withdrawn request was approved")
		}
		w.nothingSent()
		w.recorded("s1", "opened planner orders", "intent app", "request 1 write a", "verdict 1 ask writes",
			"approval 1 pending", "approval 1 withdrawn", "denial 1 cancelled writes")
	})
}

// A client that is gone leaves its approval to its retry, from another session.
func TestRetryFindsApproval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.login("planner", "s1")
		c.asks("write a", "pending writes")
		c.conn.Close()
		w.lines.withdraw(engine.ErrGone)
		w.approve("ada", "")
		again := w.login("planner", "s2")
		again.asks("write b", "pending writes") // another request is another approval
		w.lines.withdraw(engine.ErrWithdrawn)
		again.hears("denied cancelled cancelled while it waited for approval")
		again.asks("write a", "ok write a")
		again.conn.Close()
		w.recorded("s2", "opened planner orders", "intent app",
			"request 1 write b", "verdict 1 ask writes", "approval 1 pending", "approval 1 withdrawn", "denial 1 cancelled writes",
			"request 2 write a", "verdict 2 ask writes", "approval 2 approved ada", "approval 2 consumed", "outcome 2 ok",
			"end relay: the client left")
	})
}

// Another agent's identical request is not what was approved.
func TestApprovalIsTheAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.login("planner", "s1")
		c.asks("write a", "pending writes")
		c.conn.Close()
		w.lines.withdraw(engine.ErrGone)
		w.approve("ada", "")
		other := w.login("coder", "s2")
		other.asks("write a", "pending writes")
		w.nothingSent()
	})
}

// What a new policy denies stays denied, whatever people said meanwhile.
func TestPolicyChangedWhileWaiting(t *testing.T) {
	ask := func(group string) policy.Rule {
		return policy.Rule{Name: "writes", Target: "orders", Verbs: []string{"write"}, Ask: &policy.Ask{Approvers: []string{group}, Within: time.Minute}}
	}
	for _, c := range []struct {
		name string
		rule policy.Rule
		want string
		sent int
	}{
		{"denies now", policy.Rule{Name: "frozen", Target: "orders", Verbs: []string{"write"}, Deny: "frozen"}, "denied policy frozen (write on a)", 0},
		{"allows now", policy.Rule{Name: "open", Target: "orders", Verbs: []string{"write"}, Allow: true}, "ok write a", 1},
		{"asks the same", ask("dba"), "ok write a", 1},
		{"asks others", ask("security"), "denied expired the policy changed while the request waited, and asks others now", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				client := w.login("planner", "s1")
				client.asks("write a", "pending writes")
				id := w.pending()
				w.gateway.Reload(w.setup(func(s *Setup) {
					s.Agents["planner"].Policy = w.policy(rules()[1], c.rule)
				}))
				if err := w.approvals.Approve(id, approval.Vote{Group: "dba", By: "ada"}); err != nil {
					t.Fatal(err)
				}
				client.hears(c.want)
				if got := len(w.lines.sent()); got != c.sent {
					t.Errorf("%d requests were forwarded", got)
				}
			})
		})
	}
}

// Beyond the limit of waiting approvals nobody is bothered, and none is noted.
func TestTooManyApprovals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range approval.DefaultPerAgent {
			w.login("planner", fmt.Sprint("s", i)).asks(fmt.Sprint("write ", i), "pending writes")
		}
		c := w.login("planner", "late")
		c.says("write more")
		if got, want := c.line(), "denied limit too many requests wait for approval: 16 of agent planner"; got != want {
			t.Errorf("the client hears %q", got)
		}
		w.recorded("late", "opened planner orders", "intent app", "request 1 write more", "verdict 1 ask writes", "denial 1 limit writes")
		w.nothingSent()
	})
}
