package postgres

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/sql"
	"github.com/postern/postern/internal/wiretest"
)

// heldWorld is one whose policy holds every delete; answer is what people say to
// each preview, in order, nil being yes.
type heldWorld struct {
	world
	previews []engine.Preview
	answers  chan *engine.Denial
}

func newHeldWorld() *heldWorld { return &heldWorld{} }

func (w *heldWorld) play(t *testing.T, transcript func(agent, up *wiretest.Peer)) {
	t.Helper()
	w.waits = true
	w.decide = func(_ context.Context, r *engine.Request) error { return nil }
	w.world.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		w.answers = make(chan *engine.Denial, 10) // of the bubble
		w.gate.Waits = func(r *engine.Request) bool {
			return slices.ContainsFunc(r.Effects, func(e engine.Effect) bool { return e.Verb == sql.Delete })
		}
		w.gate.Hold = w.gate.Waits
		w.gate.Settle = func(ctx context.Context, p engine.Preview) *engine.Denial {
			w.previews = append(w.previews, p)
			select {
			case d := <-w.answers:
				return d
			case <-ctx.Done():
				return &engine.Denial{Code: engine.Cancelled, Reason: "cancelled"}
			}
		}
		transcript(agent, up)
	})
}

const deleteOrders = "delete from orders"

var (
	saidNo      = &engine.Denial{Code: engine.ByPerson, Rule: "held", Reason: "denied by ada"}
	checkOrders = checkQuery(sql.Table{Schema: "public", Name: "orders"}, sql.Delete)
	opens       = "; " + holdSettings + "; " + holdLimits + "; " + checkOrders
)

// openedAnswer is the upstream's answer to opening.
func openedAnswer(found string, status byte) []byte {
	return slices.Concat(complete("BEGIN"), rowDescription(computed("a"), computed("b")), row("0", "30s"), complete("SELECT 1"),
		complete("SET"), complete("SET"), rowDescription(computed("case")), row(found), complete("SELECT 1"), ready(status))
}

// heardPending takes the notice that it waits.
func heardPending(t *testing.T, agent *wiretest.Peer) {
	t.Helper()
	if b := agent.Take(); !strings.Contains(string(b), "waiting for approval a1") || b[0] != 'N' {
		t.Fatalf("the agent heard\n%s", show(b))
	}
}

// holds plays opening, sample and statement up to the point where people decide.
func holds(t *testing.T, agent, up *wiretest.Peer, begin string) {
	t.Helper()
	agent.Say(query(deleteOrders))
	up.Hear(query(begin + opens))
	up.Say(openedAnswer("", 'T'))
	up.Hear(query("sample from orders"))
	up.Say(rowDescription(from("id", oidOrders, 1), from("total", oidOrders, 2)), row("1", "10"), row("2", "20"), complete("SELECT 2"), ready('T'))
	up.Hear(query(deleteOrders))
	agent.HearNothing()
	up.Say(complete("DELETE 7"), ready('T'))
	heardPending(t, agent)
	up.HearNothing()
}

func TestHeldIsCommitted(t *testing.T) {
	w := newHeldWorld()
	w.play(t, func(agent, up *wiretest.Peer) {
		holds(t, agent, up, "BEGIN")
		agent.Say(query("select 1")) // what comes behind it waits
		up.HearNothing()
		w.answers <- nil
		up.Hear(query("COMMIT"))
		agent.HearNothing()
		up.Say(complete("COMMIT"), ready('I'))
		agent.Hear(complete("DELETE 7"), ready('I'))
		up.Hear(query("select 1"))
		up.Say(complete("SELECT 0"), ready('I'))
		agent.Hear(complete("SELECT 0"), ready('I'))
		p := w.previews[0]
		if !p.Ran || p.Rows != 7 || len(p.Sample) != 2 || string(p.Sample[1][1]) != "20" || p.Fields[1].Column != "" && p.Fields[1].Column != "total" {
			t.Errorf("%+v", p)
		}
	})
}

func TestHeldIsRolledBack(t *testing.T) {
	w := newHeldWorld()
	w.play(t, func(agent, up *wiretest.Peer) {
		holds(t, agent, up, "BEGIN")
		w.answers <- saidNo
		up.Hear(query("ROLLBACK"))
		up.Say(complete("ROLLBACK"), ready('I'))
		agent.Hear(denied(saidNo), ready('I'))
	})
}

// In the client's own transaction a savepoint is held: released, the settings are
// put back; denied, the transaction has failed on both sides.
func TestHeldInATransaction(t *testing.T) {
	w := newHeldWorld()
	w.play(t, func(agent, up *wiretest.Peer) {
		beginBlock(agent, up)
		holds(t, agent, up, "SAVEPOINT postern_hold")
		w.answers <- nil
		up.Hear(query("RELEASE SAVEPOINT postern_hold; SET LOCAL lock_timeout = '0'; SET LOCAL statement_timeout = '30s'"))
		up.Say(complete("RELEASE"), complete("SET"), complete("SET"), ready('T'))
		agent.Hear(complete("DELETE 7"), ready('T'))
		holds(t, agent, up, "SAVEPOINT postern_hold")
		w.answers <- saidNo
		up.Hear(refusedQuery)
		up.Say(syntaxError, ready('E'))
		agent.Hear(denied(saidNo), ready('E'))
	})
}

// The agent hears of an error only when people let it.
func TestHeldThatFails(t *testing.T) {
	violation := failure("23503", "key is still referenced")
	for _, tt := range []struct {
		name   string
		answer *engine.Denial
		heard  []byte
	}{{"approved", nil, violation}, {"denied", saidNo, denied(saidNo)}} {
		t.Run(tt.name, func(t *testing.T) {
			w := newHeldWorld()
			w.play(t, func(agent, up *wiretest.Peer) {
				agent.Say(query(deleteOrders))
				up.Hear(query("BEGIN" + opens))
				up.Say(openedAnswer("", 'T'))
				up.Hear(query("sample from orders"))
				up.Say(failure("42501", "permission denied"), ready('E')) // then without a sample
				up.Hear(query("ROLLBACK"))
				up.Say(complete("ROLLBACK"), ready('I'))
				up.Hear(query("BEGIN" + opens))
				up.Say(openedAnswer("", 'T'))
				up.Hear(query(deleteOrders))
				up.Say(violation, ready('E'))
				heardPending(t, agent)
				if p := w.previews[0]; p.Error != "key is still referenced (SQLSTATE 23503)" || len(p.Sample) != 0 {
					t.Errorf("%+v", p)
				}
				w.answers <- tt.answer
				up.Hear(query("ROLLBACK"))
				up.Say(complete("ROLLBACK"), ready('I'))
				agent.Hear(tt.heard, ready('I'))
			})
		})
	}
}

// A constraint that COMMIT checks is the statement's error.
func TestHeldWhoseCommitFails(t *testing.T) {
	w := newHeldWorld()
	w.play(t, func(agent, up *wiretest.Peer) {
		holds(t, agent, up, "BEGIN")
		w.answers <- nil
		up.Hear(query("COMMIT"))
		up.Say(failure("23503", "deferred"), ready('I'))
		agent.Hear(failure("23503", "deferred"), ready('I'))
	})
}

// A table that sets something off is not touched before people have decided.
func TestNotHeldForItsTable(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer []byte
		why    string
	}{
		{"triggers", openedAnswer("it has triggers", 'T'), "it has triggers"},
		{"an error", slices.Concat(complete("BEGIN"), failure("42501", "no"), ready('E')), "it cannot be told what its table sets off"},
		{"no such table", slices.Concat(openedAnswer("", 'T')[:0], complete("BEGIN"), row0(), ready('T')), "it cannot be told what its table sets off"},
	} {
		for _, yes := range []bool{true, false} {
			t.Run(tt.name, func(t *testing.T) {
				w := newHeldWorld()
				w.play(t, func(agent, up *wiretest.Peer) {
					agent.Say(query(deleteOrders))
					up.Hear(query("BEGIN" + opens))
					up.Say(tt.answer)
					up.Hear(query("ROLLBACK"))
					up.Say(complete("ROLLBACK"), ready('I'))
					heardPending(t, agent)
					up.HearNothing()
					if p := w.previews[0]; p.Ran || p.Why != tt.why {
						t.Errorf("%+v", p)
					}
					if !yes {
						w.answers <- saidNo
						agent.Hear(denied(saidNo), ready('I'))
						up.HearNothing()
						return
					}
					w.answers <- nil
					up.Hear(query(deleteOrders))
					up.Say(complete("DELETE 7"), ready('I'))
					agent.Hear(complete("DELETE 7"), ready('I'))
				})
			})
		}
	}
}

func row0() []byte {
	return slices.Concat(rowDescription(computed("a"), computed("b")), row("0", "0"), complete("SELECT 1"), complete("SET"), complete("SET"), complete("SELECT 0"))
}

// TestHeldExtended: a unit of one statement is held as a whole. The unnamed
// statement, which the gateway's own queries destroy, is prepared again.
func TestHeldExtended(t *testing.T) {
	const text = "delete from orders where id = $2"
	prepare := msg('P', "\x00"+text+"\x00\x00\x02"+long(25)+long(23))
	w := newHeldWorld()
	w.play(t, func(agent, up *wiretest.Peer) {
		bound := bindTo("", "", "x", "5")
		agent.Say(prepare, bound, describePortal(""), execute(""), syncUnit)
		up.Hear(prepare, syncUnit)
		up.Say(parseOK, ready('I'))
		agent.Hear(parseOK)
		up.Hear(query("BEGIN" + opens))
		up.Say(openedAnswer("", 'T'))
		up.Hear(msg('P', sampleName+"\x00sample from orders where id = $1\x00\x00\x01"+long(23)), msg('B', "\x00"+sampleName+"\x00\x00\x01\x00\x00\x00\x01"+long(1)+"5\x00\x00"),
			describePortal(""), execute(""), closeStatement(sampleName), syncUnit)
		up.Say(parseOK, bindOK, rowDescription(from("id", oidOrders, 1)), row("5"), complete("SELECT 1"), closeOK, ready('T'))
		up.Hear(prepare, bound, describePortal(""), execute(""), syncUnit)
		up.Say(parseOK, bindOK, noData, complete("DELETE 1"), ready('T'))
		heardPending(t, agent)
		w.answers <- nil
		up.Hear(query("COMMIT"))
		up.Say(complete("COMMIT"), ready('I'))
		agent.Hear(bindOK, noData, complete("DELETE 1"), ready('I'))

		agent.Say(bound, execute(""), syncUnit) // the unnamed statement is still there
		up.Hear(query("BEGIN" + opens))
		up.Say(openedAnswer("it has triggers", 'T'))
		up.Hear(query("ROLLBACK"))
		up.Say(complete("ROLLBACK"), ready('I'))
		heardPending(t, agent)
		w.answers <- saidNo
		agent.Hear(denied(saidNo), ready('I'))
	})
}

// Any other unit asks before it goes on, and goes on in order.
func TestNotHeldInAPipeline(t *testing.T) {
	for _, yes := range []bool{true, false} {
		w := newHeldWorld()
		w.play(t, func(agent, up *wiretest.Peer) {
			first := [][]byte{parse("", deleteOrders), bindTo("", ""), execute("")}
			second := [][]byte{parse("", "select id from orders"), bindTo("", ""), execute("")}
			agent.Say(append(slices.Concat(first, second), syncUnit)...)
			up.Hear(first[0])
			heardPending(t, agent)
			if p := w.previews[0]; p.Ran || p.Why != "it is not sent as a statement of its own" {
				t.Errorf("%+v", p)
			}
			if !yes {
				w.answers <- saidNo
				up.Hear(refusedParse, syncUnit)
				up.Say(parseOK, syntaxError, ready('I'))
				agent.Hear(parseOK, denied(saidNo), ready('I'))
				return
			}
			w.answers <- nil
			up.Hear(first[1], describePortal(""), first[2], second[0], second[1], describePortal(""), second[2], syncUnit)
			up.Say(parseOK, bindOK, noData, complete("DELETE 7"), parseOK, bindOK, ids, complete("SELECT 0"), ready('I'))
			agent.Hear(parseOK, bindOK, complete("DELETE 7"), parseOK, bindOK, complete("SELECT 0"), ready('I'))
		})
	}
}

// A client that goes away, or takes it back, has it rolled back.
func TestHeldClientLeaves(t *testing.T) {
	w := newHeldWorld()
	w.play(t, func(agent, up *wiretest.Peer) {
		holds(t, agent, up, "BEGIN")
		agent.Close()
		up.Hear(query("ROLLBACK"))
		up.Say(complete("ROLLBACK"), ready('I'))
		up.Gone()
	})
}

func TestHeldUpstreamLeaves(t *testing.T) {
	w := newHeldWorld()
	w.play(t, func(agent, up *wiretest.Peer) {
		holds(t, agent, up, "BEGIN")
		up.Close()
		agent.Gone()
	})
}
