package gateway

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/approval"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/mask"
	"github.com/postern/postern/internal/policy"
	"github.com/postern/postern/internal/wire"
)

// holding is a world whose writes are held; each line of a client is a write that
// has changed as many rows as it says, and "not N" one that turns out not to be
// one that can be run.
func holding(t *testing.T) *world {
	w := newWorld(t)
	p := w.policy(policy.Rule{
		Name: "writes", Target: "orders", Verbs: []string{"write"},
		Ask: &policy.Ask{Approvers: []string{"dba"}, Within: 10 * time.Minute, Preview: true},
	})
	w.lines.relay = func(ctx context.Context, c *wire.Conn, _ engine.Upstream, gate engine.Gate) error {
		for {
			line, err := readLine(c)
			if err != nil {
				return errBye
			}
			pending := func(p engine.Pending) { fmt.Fprintln(c, "pending", p.Rule) }
			x, err := gate.Submit(ctx, &engine.Request{
				Kind: "line", Text: "write", Holds: true, Effects: []engine.Effect{{Verb: "write", Object: "a"}}, Pending: pending,
			})
			if err != nil {
				fmt.Fprintln(c, "denied", err)
				continue
			}
			preview := engine.Preview{Ran: true}
			if _, err := fmt.Sscanf(line, "%d", &preview.Rows); err != nil {
				preview = engine.Preview{Why: "it has triggers"}
			}
			preview.Fields = []engine.Field{{Name: "email", Schema: "public", Table: "people", Column: "email", Type: "text"}, {Name: "id"}}
			preview.Sample = [][][]byte{{[]byte("ada@example.org"), nil}}
			status := engine.OK
			if x.Held() {
				if d := x.Settle(ctx, preview, pending); d != nil {
					status = engine.Failed
					fmt.Fprintln(c, "undone", d)
				}
			}
			x.End(engine.Outcome{Status: status})
			if status == engine.OK {
				fmt.Fprintln(c, "kept", line)
			}
		}
	}
	w.gateway.Reload(w.setup(func(s *Setup) {
		for _, a := range s.Agents {
			a.Policy = p
			a.Masks = map[string]*Masks{"orders": {Columns: []ColumnMask{{Pattern: "people.email", Kind: mask.Redact}}}}
		}
	}))
	return w
}

func (w *world) shown() *approval.Preview {
	w.t.Helper()
	id := w.pending()
	for _, a := range w.approvals.List() {
		if a.ID == id {
			return a.Preview
		}
	}
	return nil
}

func TestHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := holding(t)
		c := w.login("planner", "s1")
		c.asks("5", "pending writes")
		if p := w.shown(); !p.Ran || p.Rows != 5 || fmt.Sprint(p.Columns, p.Sample) != "[email id] [[[redacted] NULL]]" {
			t.Errorf("%+v", p)
		}
		w.approve("ada", "")
		c.hears("kept 5")
		c.asks("7", "pending writes")
		time.Sleep(maxHold)
		c.hears("undone rule writes: nobody decided within 1m0s")
		c.asks("not", "pending writes")
		if p := w.shown(); p.Ran || p.Why != "it has triggers" {
			t.Errorf("%+v", p)
		}
		time.Sleep(9 * time.Minute) // it holds no locks
		w.approve("ada", "")
		c.hears("kept not")
		c.conn.Close()
		w.recorded("s1", "opened planner orders", "intent app",
			"request 1 write", "verdict 1 ask writes", "approval 1 pending", "approval 1 approved ada", "approval 1 consumed", "outcome 1 ok",
			"request 2 write", "verdict 2 ask writes", "approval 2 pending", "approval 2 expired", "denial 2 expired writes", "outcome 2 failed",
			"request 3 write", "verdict 3 ask writes", "approval 3 pending", "approval 3 approved ada", "approval 3 consumed", "outcome 3 ok",
			"end relay: the client left")
	})
}

// TestHeldApprovalIsOfWhatWasShown: an approval that its client did not wait for
// lets through only a retry that does the same.
func TestHeldApprovalIsOfWhatWasShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := holding(t)
		c := w.login("planner", "s1")
		c.asks("5", "pending writes")
		for _, s := range w.gateway.all() {
			s.cancel(engine.ErrGone)
		}
		c.conn.Close()
		synctest.Wait()
		w.approve("ada", "")
		d := w.login("planner", "s2")
		d.asks("5000", "pending writes")
		if p := w.shown(); p.Rows != 5000 {
			t.Errorf("%+v", p)
		}
		if err := w.approvals.Deny(w.pending(), approval.Vote{Group: "dba", By: "ada"}); err != nil {
			t.Fatal(err)
		}
		d.hears("undone rule writes: denied by ada")
		d.asks("5", "kept 5")
	})
}

// One request of an agent is held at a time; the next one is asked about before
// it is run, and another agent's is its own.
func TestOneIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := holding(t)
		a := w.login("planner", "s1")
		a.asks("5", "pending writes")
		w.login("planner", "s2").asks("6", "pending writes")
		other := w.login("coder", "s3")
		other.asks("7", "pending writes")
		why := map[string]string{}
		for _, p := range w.approvals.List() {
			why[p.Session] = fmt.Sprint(p.Preview.Ran, " ", p.Preview.Why)
		}
		if why["s1"] != "true " || why["s3"] != "true " || !strings.HasPrefix(why["s2"], "false another transaction") {
			t.Error(why)
		}
	})
}
