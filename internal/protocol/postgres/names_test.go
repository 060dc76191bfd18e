package postgres

import (
	"bytes"
	"context"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wiretest"
)

// ok is the upstream's answer to Parse, Bind, Describe and Execute of a portal
// with one computed column, and to Sync.
func ok(value string) [][]byte {
	return [][]byte{parseOK, bindOK, rowDescription(computed("x")), row(value), complete("SELECT 1"), ready('I')}
}

func noSuch(what, name string) []byte { return denied(unknownName(what, name)) }

// The decision is made when a statement runs, not when it was prepared.
func TestExecuteOfStatementPreparedBeforePolicyChange(t *testing.T) {
	strict := false
	w := &world{decide: func(ctx context.Context, r *engine.Request) error {
		if strict {
			return denyDelete(ctx, r)
		}
		return nil
	}}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(parse("d", "delete from orders"), syncUnit)
		up.Hear(parse("d", "delete from orders"), syncUnit)
		up.Say(parseOK, ready('I'))
		agent.Hear(parseOK, ready('I'))
		strict = true
		agent.Say(bindTo("", "d"), describePortal(""), execute(""), syncUnit)
		agent.Hear(denied(noDelete), ready('I'))
		up.HearNothing()
	})
}

// So is that of a portal that was bound in an earlier unit.
func TestExecuteOfPortalBoundBeforePolicyChange(t *testing.T) {
	strict := false
	w := &world{decide: func(ctx context.Context, r *engine.Request) error {
		if strict {
			return denyDelete(ctx, r)
		}
		return nil
	}}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(query("begin"))
		up.Hear(query("begin"))
		up.Say(complete("BEGIN"), ready('T'))
		agent.Hear(complete("BEGIN"), ready('T'))
		agent.Say(parse("", "delete from orders"), bindTo("p", ""), syncUnit)
		up.Hear(parse("", "delete from orders"), bindTo("p", ""), syncUnit)
		up.Say(parseOK, bindOK, ready('T'))
		agent.Hear(parseOK, bindOK, ready('T'))
		strict = true
		agent.Say(execute("p"), syncUnit)
		up.Hear(refusedParse, syncUnit)
		up.Say(syntaxError, ready('E'))
		agent.Hear(denied(noDelete), ready('E'))
	})
}

// A Parse of a name that is taken fails upstream, and the name keeps its
// meaning: what a Bind sent behind it would run is not what was decided.
func TestNameOverwritten(t *testing.T) {
	w := &world{decide: denyDelete}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(parse("n", "delete from orders"), syncUnit) // may be prepared: it may be allowed when it runs
		up.Hear(parse("n", "delete from orders"), syncUnit)
		up.Say(parseOK, ready('I'))
		agent.Hear(parseOK, ready('I'))
		agent.Say(parse("n", "select 1"), syncUnit, bindTo("", "n"), execute(""), syncUnit)
		up.Hear(parse("n", "select 1"), syncUnit, refusedParse, syncUnit)
		up.Say(failure("42P05", "exists"), ready('I'), syntaxError, ready('I'))
		heard := agent.Take()
		if !bytes.HasPrefix(heard, append(failure("42P05", "exists"), ready('I')...)) || !bytes.Contains(heard, []byte("not known yet")) {
			t.Errorf("the agent heard:\n%s", show(heard))
		}
		agent.Say(bindTo("", "n"), execute(""), syncUnit) // it still is the delete
		agent.Hear(denied(noDelete), ready('I'))
		up.HearNothing()
	})
}

// The same by an error earlier in the unit, with the unnamed statement, which
// then is not replaced.
func TestUnnamedStatementKeptByAnError(t *testing.T) {
	w := &world{decide: denyDelete}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(parse("", "delete from orders"), syncUnit)
		up.Hear(parse("", "delete from orders"), syncUnit)
		up.Say(parseOK, ready('I'))
		agent.Hear(parseOK, ready('I'))
		agent.Say(bindTo("", ""), syncUnit)
		agent.Hear(denied(noDelete), ready('I'))
		unit := [][]byte{closeStatement("x"), parse("", "select 1"), syncUnit}
		agent.Say(append(unit, bindTo("", ""), execute(""), syncUnit)...)
		up.Hear(append(unit, refusedParse, syncUnit)...)
		up.Say(failure("XX000", "close failed"), ready('I'), syntaxError, ready('I'))
		if heard := agent.Take(); !bytes.Contains(heard, []byte("not known yet")) {
			t.Errorf("the agent heard:\n%s", show(heard))
		}
	})
}

// Within a unit there is no doubt: what a failed Parse would have been is
// discarded with it.
func TestPipelinedWithinUnit(t *testing.T) {
	w := &world{}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		unit := [][]byte{
			parse("a", "select 1"), bindTo("", "a"), describePortal(""), execute(""),
			parse("b", "select 2"), bindTo("", "b"), describePortal(""), execute(""), syncUnit,
		}
		agent.Say(unit...)
		up.Hear(unit...)
		first := ok("1")
		up.Say(append(first[:5], failure("42601", "no"), ready('I'))...)
		agent.Hear(append(first[:5], failure("42601", "no"), ready('I'))...)
		agent.Say(bindTo("", "a"), execute(""), syncUnit) // was prepared
		up.Hear(bindTo("", "a"), describePortal(""), execute(""), syncUnit)
		up.Say(bindOK, rowDescription(computed("x")), row("1"), complete("SELECT 1"), ready('I'))
		agent.Hear(bindOK, row("1"), complete("SELECT 1"), ready('I'))
		agent.Say(bindTo("", "b"), execute(""), syncUnit) // was not
		agent.Hear(noSuch("prepared statement", "b"), ready('I'))
	})
}

func TestBindAfterError(t *testing.T) {
	w := &world{}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(parse("", "select 1"), flush)
		up.Hear(parse("", "select 1"), flush)
		up.Say(failure("42601", "no"))
		agent.Hear(failure("42601", "no"))
		agent.Say(bindTo("", ""), execute(""), query("delete from orders"), parse("x", "select 2"))
		up.HearNothing() // PostgreSQL discards all of it, and so it is not decided either
		agent.HearNothing()
		agent.Say(syncUnit)
		up.Hear(syncUnit)
		up.Say(ready('I'))
		agent.Hear(ready('I'))
		w.gate.Saw(t, `would prepare "select 1"`)
	})
}

// SQL's PREPARE shares the names of Parse: the statement that was decided by
// the name must be the one that runs.
func TestSQLPrepareOverTheNameOfParse(t *testing.T) {
	w := &world{masked: []string{"customers.email"}}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(parse("n", "select 1"), describeStatement("n"), syncUnit)
		up.Hear(parse("n", "select 1"), describeStatement("n"), syncUnit)
		up.Say(parseOK, noParameters, rowDescription(computed("x")), ready('I'))
		agent.Hear(parseOK, noParameters, rowDescription(computed("x")), ready('I'))
		const swap = "deallocate n; prepare n as select email from customers"
		agent.Say(query(swap))
		up.Hear(query(swap))
		up.Say(complete("DEALLOCATE"), complete("PREPARE"), ready('I'))
		agent.Hear(complete("DEALLOCATE"), complete("PREPARE"), ready('I'))
		agent.Say(bindTo("", "n"), execute(""), syncUnit)
		agent.Hear(noSuch("prepared statement", "n"), ready('I'))
		up.HearNothing()
	})
}

// EXECUTE is decided by what the name stands for, and only when that is known.
func TestSQLExecute(t *testing.T) {
	w := &world{}
	w.decide = func(_ context.Context, r *engine.Request) error {
		for _, e := range r.Effects {
			if e.Verb == engine.Unknown {
				return noDelete
			}
		}
		return nil
	}
	say := func(agent, up *wiretest.Peer, text string, answer ...[]byte) {
		agent.Say(query(text))
		if answer == nil {
			agent.Hear(denied(noDelete), ready('I'))
			up.HearNothing()
			return
		}
		up.Hear(query(text))
		up.Say(answer...)
		if text != "discard all" {
			agent.Take()
		}
	}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		say(agent, up, "execute n")
		say(agent, up, "prepare n as select id from orders", complete("PREPARE"), ready('I'))
		say(agent, up, "execute n", complete("SELECT 0"), ready('I'))
		// Fails, since the name is taken; whatever it stands for now is not followed.
		say(agent, up, "prepare n as select 1", failure("42P05", "exists"), ready('I'))
		say(agent, up, "execute n")
		// One text may prepare and run: the order is not known.
		say(agent, up, "deallocate n; prepare n as delete from orders; execute n")
		say(agent, up, "deallocate n; prepare n as select 1", complete("PREPARE"), ready('I'))
		say(agent, up, "execute n")
		say(agent, up, "deallocate n", complete("DEALLOCATE"), ready('I'))
		say(agent, up, "prepare n as select 1", complete("PREPARE"), ready('I'))
		say(agent, up, "execute n", complete("SELECT 0"), ready('I'))
		say(agent, up, "discard all", complete("DISCARD ALL"), ready('I'))
		up.Hear(query(catalogQuery(nil)))
		agent.Hear(complete("DISCARD ALL"))
		up.Say(catalogAnswer(nil, 'I'))
		agent.Hear(ready('I'))
		say(agent, up, "execute n")
	})
}

// A portal's name may come to stand for a cursor: its rows are not those that
// were described.
func TestPortalBecomesCursor(t *testing.T) {
	w := &world{masked: []string{"customers.email"}}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(query("begin"))
		up.Hear(query("begin"))
		up.Say(complete("BEGIN"), ready('T'))
		agent.Hear(complete("BEGIN"), ready('T'))
		agent.Say(parse("", "select 1"), bindTo("p", ""), describePortal("p"), flush)
		up.Hear(parse("", "select 1"), bindTo("p", ""), describePortal("p"), flush)
		up.Say(parseOK, bindOK, rowDescription(computed("x")))
		agent.Hear(parseOK, bindOK, rowDescription(computed("x")))
		const swap = "close p; declare p cursor for select lower(email) from customers"
		agent.Say(query(swap))
		up.Hear(query(swap))
		up.Say(complete("CLOSE CURSOR"), complete("DECLARE CURSOR"), ready('T'))
		agent.Hear(complete("CLOSE CURSOR"), complete("DECLARE CURSOR"), ready('T'))
		agent.Say(execute("p"), syncUnit)
		up.Hear(describePortal("p"), execute("p"), syncUnit)
		up.Say(rowDescription(computed("lower")), row("bob@example.com"), complete("SELECT 1"), ready('T'))
		agent.Hear(row("[masked]"), complete("SELECT 1"), ready('T'))
	})
}

// A DO block may do the same out of sight.
func TestStatementIsSuspectAfterDo(t *testing.T) {
	w := &world{masked: []string{"customers.email"}}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(parse("n", "select 1"), describeStatement("n"), syncUnit)
		up.Hear(parse("n", "select 1"), describeStatement("n"), syncUnit)
		up.Say(parseOK, noParameters, rowDescription(computed("x")), ready('I'))
		agent.Hear(parseOK, noParameters, rowDescription(computed("x")), ready('I'))
		agent.Say(query("do something"))
		up.Hear(query("do something"))
		up.Say(complete("DO"), ready('I'))
		up.Hear(query(catalogQuery(w.masked)))
		agent.Hear(complete("DO"))
		up.Say(catalogAnswer(w.masked, 'I'))
		agent.Hear(ready('I'))
		agent.Say(bindTo("", "n"), execute(""), syncUnit)
		up.Hear(bindTo("", "n"), describePortal(""), execute(""), syncUnit)
		up.Say(bindOK, rowDescription(computed("x")), row("bob@example.com"), complete("SELECT 1"), ready('I'))
		agent.Hear(bindOK, row("[masked]"), complete("SELECT 1"), ready('I'))
	})
}

// What an unqualified table is depends on the search path when a statement
// runs, whenever it was prepared.
func TestPreparedStatementFollowsTheSearchPath(t *testing.T) {
	w := &world{}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(parse("n", "delete from orders"), syncUnit)
		up.Hear(parse("n", "delete from orders"), syncUnit)
		up.Say(parseOK, ready('I'))
		agent.Hear(parseOK, ready('I'))
		const set = "set search_path = evil"
		agent.Say(query(set))
		up.Hear(query(set))
		w.gate.Events()
		// Sent before the path has been read again: the table is not known.
		agent.Send(bindTo("", "n"), execute(""), syncUnit)
		up.Hear(bindTo("", "n"), describePortal(""), execute(""), syncUnit)
		w.gate.Saw(t, `submit execute "delete from orders" delete(orders)`)
		up.Say(complete("SET"), ready('I'), bindOK, noData, complete("DELETE 0"), ready('I'))
		up.Hear(query(catalogQuery(nil)))
		evil := bytes.Replace(catalogAnswer(nil, 'I'), []byte("\x06public"), []byte("\x06myevil"), 1)
		agent.Hear(complete("SET"), ready('I'), bindOK, complete("DELETE 0"))
		up.Say(evil)
		agent.Hear(ready('I'))
		w.gate.Events()
		agent.Say(bindTo("", "n"), execute(""), syncUnit)
		up.Take()
		w.gate.Saw(t, `submit execute "delete from orders" delete(orders)`) // myevil.orders does not exist
		up.Say(bindOK, noData, complete("DELETE 0"), ready('I'))
		agent.Take()
	})
}

func TestNameLimits(t *testing.T) {
	w := &world{}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		for i := range wiretest.Limits.Statements {
			agent.Say(parse(string(rune('a'+i)), "select 1"))
			up.Take()
			up.Say(parseOK)
			agent.Take()
		}
		agent.Say(parse("a", "select 1"), syncUnit) // no new name; that it is taken the upstream says
		up.Hear(parse("a", "select 1"), syncUnit)
		up.Say(failure("42P05", "exists"), ready('I'))
		agent.Hear(failure("42P05", "exists"), ready('I'))
		agent.Say(parse("z", "select 1"))
		if b := agent.Take(); !bytes.Contains(b, []byte("more than 16 prepared statements")) {
			t.Errorf("the agent heard:\n%s", show(b))
		}
		agent.Gone()
		up.HearNothing()
	})
}
