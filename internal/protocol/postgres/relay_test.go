package postgres

import (
	"bytes"
	"context"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/sql"
	"github.com/postern/postern/internal/wiretest"
)

var noDelete = &engine.Denial{Rule: "no-delete", Reason: "rows are not deleted here", Help: "mark them"}

// denyDelete is a policy.
func denyDelete(_ context.Context, r *engine.Request) error {
	for _, e := range r.Effects {
		if e.Verb == sql.Delete || e.Verb == sql.DDL {
			return noDelete
		}
	}
	return nil
}

func TestQueryPasses(t *testing.T) {
	w := &world{}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Trickle(query("select id from orders"))
		up.Hear(query("select id from orders"))
		answer := [][]byte{rowDescription(from("id", oidOrders, 1)), row("1"), row("2"), complete("SELECT 2"), ready('I')}
		for _, m := range answer {
			up.Trickle(m)
			agent.Hear(m)
		}
		w.gate.Saw(t,
			`submit query "select id from orders" select(public.orders)`,
			`row "\x00\x01\x00\x00\x00\x011"`, `row "\x00\x01\x00\x00\x00\x012"`,
			`end "select id from orders" ok "SELECT 2" rows=2`)
	})
}

func TestExtendedQueryPassesUnchanged(t *testing.T) {
	w := &world{}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		unit := [][]byte{parse("", "select id from orders"), bindTo("", ""), describePortal(""), execute(""), syncUnit}
		agent.Say(unit...)
		up.Hear(unit...)
		answer := [][]byte{parseOK, bindOK, rowDescription(from("id", oidOrders, 1)), row("1"), complete("SELECT 1"), ready('I')}
		up.Say(answer...)
		agent.Hear(answer...)
		w.gate.Saw(t,
			`would prepare "select id from orders"`,
			`submit execute "select id from orders" select(public.orders)`,
			`row "\x00\x01\x00\x00\x00\x011"`,
			`end "select id from orders" ok "SELECT 1" rows=1`)
	})
}

func TestDeniedQuery(t *testing.T) {
	w := &world{decide: denyDelete}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(query("delete from orders"))
		agent.Hear(denied(noDelete), ready('I'))
		up.HearNothing()
	})
}

// denySets is a policy that lets no parameter be set.
func denySets(d *engine.Denial) func(context.Context, *engine.Request) error {
	return func(_ context.Context, r *engine.Request) error {
		for _, e := range r.Effects {
			if e.Verb == sql.Set {
				return d
			}
		}
		return nil
	}
}

// transaction opens one on both sides.
func transaction(agent, up *wiretest.Peer) {
	agent.Say(query("begin"))
	up.Hear(query("begin"))
	up.Say(complete("BEGIN"), ready('T'))
	agent.Hear(complete("BEGIN"), ready('T'))
}

// A denial inside of a transaction must leave both sides failed, or COMMIT
// would commit half of what the agent believes dead.
func TestDenialInsideTransactionFailsBothSides(t *testing.T) {
	w := &world{decide: denyDelete}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		transaction(agent, up)
		agent.Say(query("delete from orders"))
		up.Hear(refusedQuery)
		up.Say(syntaxError, ready('E'))
		agent.Hear(denied(noDelete), ready('E'))
		agent.Say(query("commit"))
		up.Hear(query("commit"))
		up.Say(complete("ROLLBACK"), ready('I'))
		agent.Hear(complete("ROLLBACK"), ready('I'))
	})
}

func TestDenialInsideTransactionExtended(t *testing.T) {
	w := &world{decide: denyDelete}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		transaction(agent, up)
		unit := [][]byte{parse("", "delete from orders"), bindTo("", ""), describePortal(""), execute(""), syncUnit}
		agent.Say(unit...)
		up.Hear(unit[0], refusedParse, syncUnit)
		up.Say(parseOK, syntaxError, ready('E'))
		agent.Hear(parseOK, denied(noDelete), ready('E'))
	})
}

// In a transaction that has failed already there is nothing to fail.
func TestDenialInsideFailedTransaction(t *testing.T) {
	w := &world{decide: denyDelete}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		transaction(agent, up)
		agent.Say(query("select id from nowhere"))
		up.Hear(query("select id from nowhere"))
		up.Say(failure("42P01", "no such table"), ready('E'))
		agent.Hear(failure("42P01", "no such table"), ready('E'))
		agent.Say(query("delete from orders"))
		agent.Hear(denied(noDelete), ready('E'))
		up.HearNothing()
	})
}

// A denial is told in its turn: not before the answers that are owed.
func TestDenialIsAnsweredInTurn(t *testing.T) {
	w := &world{decide: denyDelete}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(query("select id from orders"), query("delete from orders"), query("select total from orders"))
		up.Hear(query("select id from orders"), refusedQuery, query("select total from orders"))
		agent.HearNothing()
		up.Say(complete("SELECT 0"), ready('I'))
		agent.Hear(complete("SELECT 0"), ready('I'))
		up.Say(syntaxError)
		agent.Hear(denied(noDelete))
		up.Say(ready('I'), complete("SELECT 0"), ready('I'))
		agent.Hear(ready('I'), complete("SELECT 0"), ready('I'))
	})
}

// What the upstream says to the refused statement is an error, or the session
// ends: a denial never turns into an answer.
func TestRefusedStatementNeverSucceeds(t *testing.T) {
	for name, says := range map[string][]byte{
		"rows": rowDescription(computed("x")), "a row": row("x"), "completion": complete("DELETE 1"), "copy": copyOutText,
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{decide: denyDelete}
			w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
				transaction(agent, up)
				agent.Say(query("delete from orders"))
				up.Hear(refusedQuery)
				up.Say(says, ready('T'))
				if b := agent.Take(); b[0] != 'E' {
					t.Errorf("the agent heard:\n%s", show(b))
				}
				agent.Gone()
			})
		})
	}
}

func TestDenialOfExtendedQueryStaysHere(t *testing.T) {
	w := &world{decide: denyDelete, sure: func(*engine.Request) *engine.Denial { return noDelete }}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(parse("", "delete from orders"), bindTo("", ""), describePortal(""), execute(""), flush)
		agent.Hear(denied(noDelete)) // without waiting for Sync
		agent.Say(syncUnit)
		agent.Hear(ready('I'))
		up.HearNothing()
		w.gate.Saw(t, `would prepare "delete from orders"`)
	})
}

func TestExecuteWithoutDescribeIsDescribed(t *testing.T) {
	w := &world{masked: []string{"customers.email"}}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(parse("", "select email from customers"), bindTo("", ""), execute(""), syncUnit)
		up.Hear(parse("", "select email from customers"), bindTo("", ""), describePortal(""), execute(""), syncUnit)
		up.Say(parseOK, bindOK, rowDescription(from("email", oidCustomers, 2)), row("bob@example.com"), complete("SELECT 1"), ready('I'))
		agent.Hear(parseOK, bindOK, row("[masked]"), complete("SELECT 1"), ready('I'))
	})
}

// Clients that flush and wait for each answer must get it.
func TestFlushThenWait(t *testing.T) {
	(&world{}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		for _, step := range []struct{ ask, answer []byte }{
			{parse("", "select 1"), parseOK},
			{bindTo("", ""), bindOK},
			{describePortal(""), rowDescription(computed("x"))},
			{execute(""), append(row("1"), complete("SELECT 1")...)},
		} {
			agent.Say(step.ask, flush)
			up.Hear(step.ask, flush)
			up.Say(step.answer)
			agent.Hear(step.answer)
		}
		agent.Say(syncUnit)
		up.Hear(syncUnit)
		up.Say(ready('I'))
		agent.Hear(ready('I'))
	})
}

// With a denial in the middle as well: nothing the client waits for is held.
func TestFlushThenWaitAfterDenial(t *testing.T) {
	w := &world{decide: denyDelete}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(parse("", "delete from orders"), flush)
		up.Hear(parse("", "delete from orders"), flush)
		up.Say(parseOK)
		agent.Hear(parseOK)
		agent.Say(bindTo("", ""), flush)
		up.Hear(refusedParse)
		up.Say(syntaxError) // PostgreSQL flushes its errors
		agent.Hear(denied(noDelete))
		agent.Say(execute(""), syncUnit)
		up.Hear(syncUnit)
		up.Say(ready('I'))
		agent.Hear(ready('I'))
	})
}

func TestFetchingIsDecidedEachTime(t *testing.T) {
	w := &world{}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		some := msg('E', "\x00\x00\x00\x00\x01")
		agent.Say(parse("", "select 1"), bindTo("", ""), describePortal(""), some, flush)
		up.Take()
		up.Say(parseOK, bindOK, rowDescription(computed("x")), row("1"), msg('s', ""))
		agent.Take()
		w.gate.Events()
		agent.Say(some, syncUnit)
		up.Hear(some, syncUnit)
		up.Say(row("2"), complete("SELECT 1"), ready('I'))
		agent.Hear(row("2"), complete("SELECT 1"), ready('I'))
		w.gate.Saw(t, `submit fetch "select 1" select()`, `row "\x00\x01\x00\x00\x00\x012"`, `end "select 1" ok "SELECT 1" rows=1`)
	})
}

func TestUnknownNamesAreRefused(t *testing.T) {
	w := &world{}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(bindTo("", "made_by_sql"), execute(""), syncUnit)
		agent.Hear(noSuch("prepared statement", "made_by_sql"), ready('I'))
		agent.Say(execute("a_cursor"), syncUnit)
		agent.Hear(noSuch("portal", "a_cursor"), ready('I'))
		up.HearNothing()
	})
}

// What looks like a message inside of COPY data is data.
func TestFakeMessagesInCopyData(t *testing.T) {
	w := &world{decide: denyDelete}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(query("copy orders from stdin"))
		up.Hear(query("copy orders from stdin"))
		up.Say(copyInText)
		agent.Hear(copyInText)
		fake := copyData(string(query("delete from orders")))
		agent.Trickle(fake, copyDone)
		up.Hear(fake, copyDone)
		up.Say(complete("COPY 1"), ready('I'))
		agent.Hear(complete("COPY 1"), ready('I'))
		agent.Say(fake) // outside of COPY it goes nowhere
		up.HearNothing()
		w.gate.Saw(t, `submit query "copy orders from stdin" insert(public.orders) copy-in(public.orders)`,
			`up "Q\x00\x00\x00\x17delete from orders\x00"`, `end "copy orders from stdin" ok "COPY 1" rows=0`)
	})
}

// A real statement in the middle of COPY data is decided all the same.
func TestQueryInsideOfCopyIsDecided(t *testing.T) {
	w := &world{decide: denyDelete}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(query("copy orders from stdin"))
		up.Hear(query("copy orders from stdin"))
		up.Say(copyInText)
		agent.Hear(copyInText)
		agent.Say(query("delete from orders"))
		up.Hear(refusedQuery)
		up.Say(failure("08P01", "unexpected message type"))
		agent.Take()
	})
}

func TestMalformedRequests(t *testing.T) {
	for name, bad := range map[string][]byte{
		"Query, bytes after NUL":       msg('Q', "select 1\x00; delete from orders\x00"),
		"Query, no NUL":                msg('Q', "select 1"),
		"Parse, bytes after":           msg('P', "\x00select 1\x00\x00\x00x"),
		"Parse, negative count":        msg('P', "\x00select 1\x00\xff\xff"),
		"Bind, negative formats":       msg('B', "\x00\x00\xff\xff\x00\x00\x00\x00"),
		"Bind, negative parameters":    msg('B', "\x00\x00\x00\x00\xff\xff\x00\x00"),
		"Bind, parameter of -2":        msg('B', "\x00\x00\x00\x00\x00\x01\xff\xff\xff\xfe\x00\x00"),
		"Bind, format 2":               msg('B', "\x00\x00\x00\x01\x00\x02\x00\x00\x00\x00"),
		"Bind, formats do not fit":     msg('B', "\x00\x00\x00\x02\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff\x00\x00"),
		"Describe, kind":               msg('D', "Xname\x00"),
		"Execute, short":               msg('E', "\x00\x00"),
		"Close, bytes after NUL":       msg('C', "Sname\x00x"),
		"Sync, body":                   msg('S', "x"),
		"Flush, body":                  msg('H', "x"),
		"Terminate, body":              msg('X', "x"),
		"FunctionCall, negative count": msg('F', long(1)+"\xff\xff\x00\x00\x00\x00"),
		"FunctionCall, short":          msg('F', "\x00"),
		"password in a session":        msg('p', "x\x00"),
		"a type nobody knows":          msg('~', ""),
	} {
		t.Run(name, func(t *testing.T) {
			(&world{}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
				agent.Say(bad)
				if b := agent.Take(); len(b) > 0 && b[0] != 'E' {
					t.Errorf("the agent heard:\n%s", show(b))
				}
				agent.Gone()
				up.HearNothing()
			})
		})
	}
}

func TestStatementThatIsNotUnderstood(t *testing.T) {
	w := &world{}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(query("selekt 1"))
		agent.Hear(denied(notUnderstood(&sql.ErrSyntax{Message: `syntax error at or near "selekt"`, Position: 1})), ready('I'))
		up.HearNothing()
		w.gate.Saw(t, `submit query "selekt 1"`, "refused")
	})
}

// While a request waits the agent is told so, and what it already may have is
// not held up.
func TestHeldRequestIsAnnounced(t *testing.T) {
	var p engine.Pending
	say := make(map[string]func())
	w := &world{waits: true, decide: func(ctx context.Context, r *engine.Request) error {
		if r.Text != "delete from orders" {
			return nil
		}
		wait, done := context.WithCancel(ctx)
		say["yes"] = done
		r.Pending(p)
		<-wait.Done()
		return context.Cause(ctx)
	}}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		p = engine.Pending{ID: "a1", Rule: "ask"}
		agent.Say(query("delete from orders"), query("select 1"))
		b := agent.Take()
		if b[0] != 'N' || !bytes.Contains(b, []byte("waiting for approval a1")) {
			t.Errorf("the agent heard:\n%s", show(b))
		}
		up.HearNothing()
		say["yes"]()
		up.Hear(query("delete from orders"), query("select 1"))
	})
}

func TestTerminate(t *testing.T) {
	(&world{}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(terminate)
		up.Hear(terminate)
		up.HangUp()
		agent.Gone()
		if _, err := s.End(); err != nil {
			t.Error(err)
		}
	})
}

// One denied effect denies the whole text: nothing before it has run.
func TestMultiStatement(t *testing.T) {
	w := &world{decide: denyDelete}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(query("select id from orders; delete from orders; select 1"))
		agent.Hear(denied(noDelete), ready('I'))
		up.HearNothing()
		both := query("select id from orders; select total from orders")
		agent.Say(both)
		up.Hear(both)
		answer := [][]byte{
			rowDescription(from("id", oidOrders, 1)), row("1"), complete("SELECT 1"),
			rowDescription(from("total", oidOrders, 2), from("id", oidOrders, 1)), row("2", "1"), complete("SELECT 1"), ready('I'),
		}
		up.Say(answer...)
		agent.Hear(answer...)
	})
}
