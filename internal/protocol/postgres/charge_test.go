package postgres

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/sql"
	"github.com/postern/postern/internal/wiretest"
)

var noRows = &engine.Denial{Code: engine.Exhausted, Rule: "budget test", Reason: "no rows are left", Help: "wait"}

// limited plays a transcript in which so many rows may reach the client.
func limited(t *testing.T, rows int, transcript func(w *world, agent, up *wiretest.Peer)) {
	t.Helper()
	w := &world{}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		left := rows
		w.gate.Rows = &left
		transcript(w, agent, up)
	})
}

func beginBlock(agent, up *wiretest.Peer) {
	agent.Say(query("begin"))
	up.Hear(query("begin"))
	up.Say(complete("BEGIN"), ready('T'))
	agent.Hear(complete("BEGIN"), ready('T'))
}

const readIDs = "select id from orders"

var ids = rowDescription(from("id", oidOrders, 1))

// An answer that is cut ends with the denial, and the session goes on.
func TestCutQuery(t *testing.T) {
	limited(t, 2, func(w *world, agent, up *wiretest.Peer) {
		agent.Say(query(readIDs))
		up.Hear(query(readIDs))
		up.Say(ids, row("1"), row("2"), row("3"), row("4"))
		agent.Hear(ids, row("1"), row("2"), denied(noRows))
		up.Say(row("5"), complete("SELECT 5"))
		agent.HearNothing()
		up.Say(ready('I'))
		agent.Hear(ready('I'))
		w.gate.Saw(t, `submit query "`+readIDs+`" select(public.orders)`, `row "\x00\x01\x00\x00\x00\x011"`, `row "\x00\x01\x00\x00\x00\x012"`,
			`end "`+readIDs+`" failed "SQLSTATE 53400" rows=2`)
		agent.Say(query("select 1"))
		up.Hear(query("select 1"))
		up.Say(complete("SELECT 0"), ready('I'))
		agent.Hear(complete("SELECT 0"), ready('I'))
	})
}

// In a transaction both sides have it failed before the client goes on.
func TestCutQueryInATransaction(t *testing.T) {
	limited(t, 1, func(w *world, agent, up *wiretest.Peer) {
		beginBlock(agent, up)
		agent.Say(query(readIDs))
		up.Hear(query(readIDs))
		up.Say(ids, row("1"), row("2"), complete("SELECT 2"), ready('T'))
		agent.Hear(ids, row("1"), denied(noRows))
		up.Hear(refusedQuery)
		up.Say(syntaxError, ready('E'))
		agent.Hear(ready('E'))
	})
}

func TestCutExtendedQuery(t *testing.T) {
	unit := [][]byte{parse("", readIDs), bindTo("", ""), describePortal(""), execute("")}
	limited(t, 1, func(w *world, agent, up *wiretest.Peer) {
		agent.Say(append(unit, syncUnit)...)
		up.Hear(append(unit, syncUnit)...)
		up.Say(parseOK, bindOK, ids, row("1"), row("2"), complete("SELECT 2"), ready('I'))
		agent.Hear(parseOK, bindOK, ids, row("1"), denied(noRows), ready('I'))
	})
	// With Flush, the client sends more before it hears of it: PostgreSQL would
	// discard that up to Sync.
	limited(t, 1, func(w *world, agent, up *wiretest.Peer) {
		beginBlock(agent, up)
		agent.Say(append(unit, flush)...)
		up.Hear(append(unit, flush)...)
		up.Say(parseOK, bindOK, ids, row("1"), row("2"))
		agent.Hear(parseOK, bindOK, ids, row("1"), denied(noRows))
		agent.Say(bindTo("", ""), execute(""))
		up.HearNothing()
		up.Say(complete("SELECT 2"))
		agent.Say(syncUnit)
		up.Hear(syncUnit)
		up.Say(ready('T'))
		up.Hear(refusedQuery)
		up.Say(syntaxError, ready('E'))
		agent.Hear(ready('E'))
	})
}

func TestCutCopy(t *testing.T) {
	const text = "copy orders to stdout"
	limited(t, 1, func(w *world, agent, up *wiretest.Peer) {
		agent.Say(query(text))
		up.Take()
		up.Say(described(from("id", oidOrders, 1)), ready('I'), copyOutText, copyData("1\n2\n3\n"), copyData("4\n"), copyDone, complete("COPY 4"), ready('I'))
		agent.Hear(copyOutText, copyData("1\n"), denied(noRows), ready('I'))
	})
}

// What cannot be made to fail on both sides ends the session: what was done is
// not known to the client then, as with any lost connection.
func TestCutThatCannotBeUndone(t *testing.T) {
	for name, text := range map[string]string{
		"a batch": readIDs + "; " + readIDs, "a write": "update orders set total = 1 returning id",
	} {
		t.Run(name, func(t *testing.T) {
			limited(t, 1, func(w *world, agent, up *wiretest.Peer) {
				agent.Say(query(text))
				up.Take()
				up.Say(ids, row("1"), row("2"))
				agent.Hear(ids, row("1"), fatal(noRows))
				agent.Gone()
				up.Gone()
			})
		})
	}
	t.Run("more was sent", func(t *testing.T) {
		limited(t, 1, func(w *world, agent, up *wiretest.Peer) {
			agent.Say(query(readIDs), query("delete from orders"))
			up.Take()
			up.Say(ids, row("1"), row("2"))
			agent.Hear(ids, row("1"), fatal(noRows))
			agent.Gone()
			up.Gone()
		})
	})
	t.Run("the unit has written", func(t *testing.T) {
		limited(t, 1, func(w *world, agent, up *wiretest.Peer) {
			agent.Say(parse("", "delete from orders"), bindTo("", ""), execute(""), parse("", readIDs), bindTo("", ""), execute(""), syncUnit)
			up.Take()
			up.Say(parseOK, bindOK, noData, complete("DELETE 3"), parseOK, bindOK, ids, row("1"), row("2"))
			if b := agent.Take(); !bytes.Contains(b, []byte("SFATAL")) || bytes.Contains(b, row("2")) {
				t.Errorf("the agent heard\n%s", show(b))
			}
			agent.Gone()
			up.Gone()
		})
	})
	t.Run("the rest is endless", func(t *testing.T) {
		limited(t, 1, func(w *world, agent, up *wiretest.Peer) {
			agent.Say(query(readIDs))
			up.Take()
			up.Say(ids, row("1"), row("2"))
			agent.Hear(ids, row("1"), denied(noRows))
			big := row(strings.Repeat("x", 900<<10))
			for range maxDropped/len(big) + 1 {
				up.Say(big)
			}
			if b := agent.Take(); !bytes.Contains(b, []byte("SFATAL")) || bytes.Contains(b, []byte("xxx")) {
				t.Errorf("the agent heard\n%s", show(b))
			}
			agent.Gone()
			up.Gone()
		})
	})
}

// TestCharges: what a text is charged as.
func TestCharges(t *testing.T) {
	part := func(verbs ...string) (out []sql.Part) {
		for _, v := range verbs {
			out = append(out, sql.Part{Verb: v})
		}
		return out
	}
	for _, tt := range []struct {
		kinds, verbs string
		parts        []sql.Part
		want         charge
	}{
		{"select", "session", nil, charge{1, 0, true}},
		{"begin commit", "session", nil, charge{2, 0, true}},
		{"begin select", "session select", part("select"), charge{2, 0, false}},
		{"select select delete", "select delete", part("select", "select", "delete"), charge{3, 1, false}},
		{"insert", "select delete insert", part("delete", "select", "insert"), charge{1, 2, false}},
		{"update update", "update", part("update", "update"), charge{2, 2, false}},
		{"explain", "explain delete", nil, charge{1, 1, false}},
		{"select select", "select function", part("select", "select"), charge{2, 2, false}},
		{"drop", "ddl", nil, charge{1, 1, false}},
		{"do", "do", nil, charge{1, 1, false}},
		{"", "unknown", nil, charge{0, 1, false}},
		{"copy", "insert copy-in", nil, charge{1, 1, false}},
		{"copy", "select copy-out", part("select"), charge{1, 0, false}},
	} {
		s := &sql.Statement{Kinds: strings.Fields(tt.kinds), Parts: tt.parts}
		for _, v := range strings.Fields(tt.verbs) {
			s.Effects = append(s.Effects, engine.Effect{Verb: v})
		}
		if got := chargeOf(s); got != tt.want {
			t.Errorf("%s (%s): %+v, want %+v", tt.kinds, tt.verbs, got, tt.want)
		}
	}
}

// TestInTransaction: the fact is that of the moment at which the request is sent,
// and unknown where answers that are owed decide it.
func TestInTransaction(t *testing.T) {
	var saw []any
	w := &world{decide: func(_ context.Context, r *engine.Request) error {
		v, known := r.Passing[sql.FactInTransaction]
		if !known {
			v = "unknown"
		}
		saw = append(saw, v)
		return nil
	}}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(query(readIDs))
		up.Take()
		up.Say(ids, complete("SELECT 0"), ready('I'))
		agent.Take()
		beginBlock(agent, up)
		agent.Say(query(readIDs), query(readIDs), query("commit"), query(readIDs))
		up.Take()
		up.Say(ids, complete("SELECT 0"), ready('T'), failure("22012", "division by zero"), ready('E'), complete("ROLLBACK"), ready('I'), ids, complete("SELECT 0"), ready('I'))
		agent.Take()
		agent.Say(query(readIDs))
		up.Take()
		up.Say(ids, complete("SELECT 0"), ready('I'))
		agent.Take()
	})
	want := []any{false, false, true, true, true, "unknown", false}
	if len(saw) != len(want) {
		t.Fatalf("%v", saw)
	}
	for i := range want {
		if saw[i] != want[i] {
			t.Errorf("%v, want %v", saw, want)
			break
		}
	}
}
