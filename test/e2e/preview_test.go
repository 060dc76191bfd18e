package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

const (
	askWithout  = "ask: {approvers: [dba], within: 10m, reason: required}"
	updateState = "UPDATE orders SET state = '%s' WHERE customer = 1;"
)

// previewed has the policy hold writes, and takes everything back at the end.
func previewed(t *testing.T, within string) *world {
	t.Helper()
	w := theWorld
	whole := w.configuration()
	restart := func() { // so that the denials of other tests do not count for these, nor these for others
		t.Helper()
		w.postern.StopDaemon(syscall.SIGTERM) //nolint:errcheck // it ends as it does
		if err := w.postern.StartDaemon(); err != nil {
			t.Fatal(err)
		}
	}
	restart()
	t.Cleanup(func() {
		w.apply(t, whole)
		restart()
		w.query(t, "UPDATE orders SET state = 'new'")
	})
	w.apply(t, strings.Replace(whole, askWithout, "ask: {approvers: [dba], within: "+within+", preview: rows}", 1))
	return w
}

// states counts the orders in a state, as others see them.
func (w *world) states(t *testing.T, state string) string {
	t.Helper()
	return w.query(t, "SELECT count(*) FROM orders WHERE state = '"+state+"'")
}

// nothingOpen waits until PostgreSQL has no transaction open but those that ask.
func (w *world) nothingOpen(t *testing.T) {
	t.Helper()
	const open = "SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
	for deadline := time.Now().Add(patience); w.query(t, open) != "0"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a transaction is still open")
		}
	}
}

// TestHeldTransaction: what waits for a person has run, nobody else sees it, and
// the decision commits or rolls back.
func TestHeldTransaction(t *testing.T) {
	w := previewed(t, "10m")
	s := w.psqlSession(t, "planner", "orders")
	s.do("\\set VERBOSITY verbose")
	t.Run("approved", func(t *testing.T) {
		s.send(fmt.Sprintf(updateState, "approved"))
		id := s.asked()
		mustContain(t, w.cli(t, "approvals"), id, "changed  10 rows, not committed yet", "before   id | customer | state", "10 | 1 | ")
		if n := w.states(t, "approved"); n != "0" {
			t.Errorf("%s rows were changed before anyone approved", n)
		}
		w.cli(t, "approve", id)
		mustNotContain(t, s.answer(), "ERROR")
		if n := w.states(t, "approved"); n != "10" {
			t.Errorf("%s rows were changed", n)
		}
		mustContain(t, s.do("SHOW lock_timeout;"), "0")
	})
	t.Run("denied", func(t *testing.T) {
		s.send(fmt.Sprintf(updateState, "denied"))
		w.cli(t, "deny", s.asked(), "--reason", "no")
		mustContain(t, s.answer(), "42501", "denied by root: no")
		if n := w.states(t, "denied"); n != "0" {
			t.Errorf("%s rows were changed", n)
		}
		mustContain(t, s.do("SELECT 'goes ' || 'on';"), "goes on")
	})
	t.Run("masked", func(t *testing.T) {
		s.send("UPDATE customers SET name = 'nobody' WHERE id < 100;")
		id := s.asked()
		shown := w.cli(t, "approvals")
		mustContain(t, shown, "changed  2 rows", "Grace")
		mustNotContain(t, shown, "ada@example.org", "078-05-1120")
		w.cli(t, "deny", id, "--reason", "no")
		s.answer()
	})
	t.Run("an error", func(t *testing.T) {
		s.send("UPDATE orders SET id = 3 WHERE customer = 2;")
		id := s.asked()
		mustContain(t, w.cli(t, "approvals"), "failed   duplicate key value violates unique constraint", "orders_pkey")
		w.cli(t, "deny", id, "--reason", "no")
		mustNotContain(t, s.answer(), "duplicate", "orders_pkey")
	})
	t.Run("taken back", func(t *testing.T) {
		s.send(fmt.Sprintf(updateState, "cancelled"))
		s.asked()
		for _, pid := range w.pids(t, "planner") {
			n, _ := strconv.Atoi(pid)
			unix.Kill(n, unix.SIGINT)
		}
		s.expect("cancelled while it waited for approval") // psql that reads a pipe ends then
		w.nothingOpen(t)
		if n := w.states(t, "cancelled"); n != "0" {
			t.Errorf("%s rows were changed", n)
		}
	})
}

// TestHeldSavepoint: in the client's own transaction it is a savepoint that is
// held, and the client's COMMIT or ROLLBACK has the last word.
func TestHeldSavepoint(t *testing.T) {
	w := previewed(t, "10m")
	s := w.psqlSession(t, "planner", "orders")
	s.do("\\set VERBOSITY verbose\nBEGIN; SET LOCAL lock_timeout = '7s';")
	s.send(fmt.Sprintf(updateState, "inside"))
	w.cli(t, "approve", s.asked())
	mustNotContain(t, s.answer(), "ERROR")
	mustContain(t, s.do("SHOW lock_timeout;"), "7s")
	mustContain(t, s.do("SELECT count(*) FROM orders WHERE state = 'inside';"), "10")
	if n := w.states(t, "inside"); n != "0" {
		t.Errorf("%s rows are committed before the client did", n)
	}
	s.send(fmt.Sprintf(updateState, "denied"))
	w.cli(t, "deny", s.asked(), "--reason", "no")
	mustContain(t, s.answer(), "denied by root: no")
	mustContain(t, s.do("SELECT 1;"), "25P02")
	s.do("COMMIT;") // which rolls back: the transaction has failed
	if n := w.states(t, "inside"); n != "0" {
		t.Errorf("%s rows of a failed transaction are committed", n)
	}
	s.send("BEGIN;\n" + fmt.Sprintf(updateState, "kept"))
	w.cli(t, "approve", s.asked())
	s.answer()
	s.do("COMMIT;")
	if n := w.states(t, "kept"); n != "10" {
		t.Errorf("%s rows are committed", n)
	}
}

// TestHeldNobodyDecides: what nobody decides is rolled back.
func TestHeldNobodyDecides(t *testing.T) {
	w := previewed(t, "2s")
	s := w.psqlSession(t, "planner", "orders")
	s.send(fmt.Sprintf(updateState, "expired"))
	s.asked()
	mustContain(t, s.answer(), "nobody decided within")
	w.nothingOpen(t)
	if n := w.states(t, "expired"); n != "0" {
		t.Errorf("%s rows were changed", n)
	}
}

// TestHeldEndsDie: whoever dies, nothing is committed.
func TestHeldEndsDie(t *testing.T) {
	w := previewed(t, "10m")
	t.Run("the client", func(t *testing.T) {
		s := w.psqlSession(t, "planner", "orders")
		s.send(fmt.Sprintf(updateState, "dead"))
		s.asked()
		for _, pid := range w.pids(t, "planner") {
			n, _ := strconv.Atoi(pid)
			unix.Kill(n, unix.SIGKILL)
		}
		w.nothingOpen(t)
		if n := w.states(t, "dead"); n != "0" {
			t.Errorf("%s rows were changed", n)
		}
	})
	t.Run("the daemon", func(t *testing.T) {
		s := w.psqlSession(t, "planner", "orders")
		s.send(fmt.Sprintf(updateState, "gone"))
		s.asked()
		w.postern.StopDaemon(syscall.SIGKILL) //nolint:errcheck // it was killed
		w.nothingOpen(t)
		if err := w.postern.StartDaemon(); err != nil {
			t.Fatal(err)
		}
		if n := w.states(t, "gone"); n != "0" {
			t.Errorf("%s rows were changed", n)
		}
	})
}

// TestHeldClients: drivers that bind parameters see what they would see.
func TestHeldClients(t *testing.T) {
	w := previewed(t, "10m")
	for name, args := range map[string][]string{
		"pgx": {filepath.Join(w.dir, "client")},
		"psycopg": {"/usr/bin/python3", "-c", `
import os, psycopg
c = psycopg.connect(os.environ["DSN"])
for want in "approved", "denied":
    try:
        n = c.execute("UPDATE orders SET state = %s WHERE customer = %s RETURNING id", ("psycopg-" + want, 1)).fetchall()
        print(want, len(n), c.info.transaction_status.name)
        c.commit()
    except psycopg.errors.InsufficientPrivilege:
        print(want, "denied", c.info.transaction_status.name)
        c.rollback()
print(c.execute("SELECT count(*) FROM orders WHERE state = 'psycopg-approved'").fetchone()[0])
print("the end")
`},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := w.agent("planner", "orders", args...)
			cmd.Env = append(cmd.Env, clientEnv+"=held")
			s := startAgent(t, cmd)
			w.decideNext(t, "approve")
			w.decideNext(t, "deny")
			want := map[string]string{"pgx": "approved UPDATE 10 I\ndenied 42501 I\n10\n", "psycopg": "approved 10 INTRANS\ndenied denied INERROR\n10\n"}[name]
			if got := s.expect("the end"); strings.TrimSuffix(got, "the end\n") != want {
				t.Errorf("it said %q instead of %q", got, want)
			}
			if n := w.states(t, name+"-denied"); n != "0" {
				t.Errorf("%s rows were changed", n)
			}
		})
	}
}

// decideNext waits for an approval and decides it.
func (w *world) decideNext(t *testing.T, verb string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		pending, err := w.postern.Control.Approvals(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range pending {
			if a.State != "pending" {
				continue
			}
			if a.Preview == nil || !a.Preview.Ran || a.Preview.Rows != 10 || len(a.Preview.Sample) != 5 {
				t.Errorf("the preview is %+v", a.Preview)
			}
			w.cli(t, verb, a.ID, "--reason", "as tested")
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing waits\n%s", w.daemonLog())
		}
	}
}

// heldClient is pgx with prepared statements.
func heldClient(ctx context.Context) error {
	c, err := pgx.Connect(ctx, os.Getenv("DSN"))
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	for _, want := range []string{"approved", "denied"} {
		tag, err := c.Exec(ctx, "UPDATE orders SET state = $1 WHERE customer = $2", "pgx-"+want, 1)
		said := tag.String()
		if err != nil {
			var refused *pgconn.PgError
			if !errors.As(err, &refused) {
				return err
			}
			said = refused.Code
		}
		fmt.Println(want, said, string(c.PgConn().TxStatus()))
	}
	var n int
	if err := c.QueryRow(ctx, "SELECT count(*) FROM orders WHERE state = 'pgx-approved'").Scan(&n); err != nil {
		return err
	}
	fmt.Printf("%d\nthe end\n", n)
	return nil
}
