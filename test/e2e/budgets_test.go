package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern/postern/pkg/control"
)

// TestBudgets: an answer is cut where the budget ends, in a transaction that has
// failed on both sides then; what is used outlives the daemon; a person is asked
// before that.
func TestBudgets(t *testing.T) {
	w := theWorld
	whole := w.configuration()
	t.Cleanup(func() { w.apply(t, whole) })
	with := strings.Replace(whole, "trust:", "    budgets:\n      - {name: cut, target: orders, per: 1h, rows: 30, bytes: 1MiB}\ntrust:", 1)
	with = strings.Replace(with, "  - name: reader\n    rules:", "    budgets:\n"+
		"      - {name: asking, per: 1h, statements: 4, ask: {at: 50%, approvers: [dba], within: 1m}}\n  - name: reader\n    rules:", 1)
	w.apply(t, with)

	s := w.psqlSession(t, "reader", "orders")
	mustContain(t, s.do("\\set VERBOSITY verbose\nSELECT id FROM orders;"), "20")
	s.do("BEGIN;")
	out := s.do("SELECT id FROM orders;")
	mustContain(t, out, "ERROR:  53400: postern: the rows of budget cut are used up", "HINT:  budget cut has 0 of 30 rows, ", "left within 1h; some of it is free again in 1h")
	mustContain(t, s.do("SELECT 1;"), "25P02") // PostgreSQL's own words
	mustNotContain(t, s.do("ROLLBACK;\nBEGIN;\nROLLBACK;"), "ERROR", "WARNING")
	mustContain(t, s.do("SELECT count(*) FROM orders;"), "53400", "Decided by rule \"budget cut\"")

	var budgets []control.Budget
	if err := json.Unmarshal([]byte(w.cli(t, "budgets", "reader", "--json")), &budgets); err != nil || len(budgets) != 1 {
		t.Fatal(budgets, err)
	}
	if rows := budgets[0].Amounts["rows"]; rows != (control.Amount{Used: 30, Most: 30}) || budgets[0].State != "deny" {
		t.Errorf("%+v", budgets[0])
	}
	mustContain(t, w.cli(t, "budgets"), "0 of 30 rows, ", "denied", "planner", "4 of 4 statements", "as the rules say")
	mustContain(t, w.metrics(t), `postern_budget_used_ratio{agent="reader",budget="cut",kind="rows"} 1`,
		`postern_budget_decisions_total{action="cut",agent="reader",budget="cut"} 1`)

	planner := w.psqlSession(t, "planner", "orders")
	for range 2 {
		mustContain(t, planner.do("SELECT count(*) FROM orders;"), "20")
	}
	planner.send("SELECT count(*) FROM orders;")
	id := planner.asked()
	mustContain(t, planner.expect("HINT"), "postern approve "+id)
	mustContain(t, planner.expect("budget asking has 2 of 4 statements left within 1h"), "")
	w.cli(t, "approve", id)
	mustContain(t, planner.answer(), "20")
	mustContain(t, w.cli(t, "budgets", "planner"), "1 of 4 statements", "asks")

	saved := filepath.Join(w.postern.State, "budgets.json")
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if b, _ := os.ReadFile(saved); strings.Contains(string(b), "reader") && strings.Contains(string(b), "[3,") {
			break
		}
		if time.Now().After(deadline) {
			b, err := os.ReadFile(saved)
			t.Fatalf("%s %v", b, err)
		}
	}
	w.postern.StopDaemon(syscall.SIGKILL) //nolint:errcheck // it was killed
	if err := w.postern.StartDaemon(); err != nil {
		t.Fatal(err)
	}
	out, _ = w.psql("reader", "orders", "SELECT count(*) FROM orders")
	mustContain(t, out, "53400", "the rows of budget cut are used up")
}
