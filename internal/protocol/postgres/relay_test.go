package postgres

import (
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
