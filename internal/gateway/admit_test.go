package gateway

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/approval"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/policy"
)

// behalf is a connection of a run that somebody launched.
func (w *world) behalf(session string, i *engine.Identity, only ...engine.Narrowing) *client {
	return w.connectWith(&claimed{flow: engine.Flow{
		Session: session, Agent: "planner", Run: "run-1", Name: "orders-db", Original: netip.MustParseAddrPort("198.18.0.7:5432"), Identity: i, Only: only,
	}})
}

func alice() *engine.Identity {
	return &engine.Identity{Issuer: "corp", Subject: "1", Name: "alice", Roles: []string{"dba"}, Expires: time.Now().Add(time.Hour)}
}

// TestIdentityIsRequired: an agent that acts for somebody serves nobody else, and
// who it was is on record.
func TestIdentityIsRequired(t *testing.T) {
	for name, c := range map[string]struct {
		rule IdentityRule
		who  *engine.Identity
		want string // empty: welcome
	}{
		"not asked for":    {IdentityRule{}, nil, ""},
		"told":             {IdentityRule{Required: true}, bare("corp"), ""},
		"nobody":           {IdentityRule{Required: true}, nil, "refused policy agent planner acts for somebody, and nobody has said for whom"},
		"of one of these":  {IdentityRule{Required: true, Issuers: []string{"other", "corp"}}, bare("corp"), ""},
		"of another":       {IdentityRule{Issuers: []string{"other"}}, bare("corp"), "refused policy agent planner does not act for identities of corp"},
		"nobody, one of":   {IdentityRule{Issuers: []string{"other"}}, nil, ""},
		"that never ends":  {IdentityRule{Required: true}, &engine.Identity{Issuer: engine.Static, Subject: "s"}, ""},
		"expired":          {IdentityRule{}, past(), "refused policy the identity of alice (corp) expired at 1999-12-31 23:00:00 UTC"},
		"expired, kept":    {IdentityRule{OnExpiry: ExpiryKeeps}, past(), ""},
		"expired, no asks": {IdentityRule{OnExpiry: ExpiryAsks}, past(), "refused policy the identity of alice (corp) expired at 1999-12-31 23:00:00 UTC"}, // nobody is named
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(s *Setup) { s.Agents["planner"].Identity = c.rule })
				a := w.behalf("s1", c.who)
				a.says("hello app")
				if c.want != "" {
					a.hears(c.want)
					a.ends()
					return
				}
				a.hears("welcome")
				a.asks("read a", "ok read a")
			})
		})
	}
}

func bare(issuer string) *engine.Identity {
	return &engine.Identity{Issuer: issuer, Subject: "1", Name: "alice"}
}

// past is who was known an hour before the clock of synctest begins.
func past() *engine.Identity {
	i := bare("corp")
	i.Expires = time.Date(1999, 12, 31, 23, 0, 0, 0, time.UTC)
	return i
}

// TestIdentityIsOnRecord: whose session it is stands before its first request.
func TestIdentityIsOnRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.behalf("s1", alice(), engine.Narrowing{Target: "orders", Verbs: []string{"read"}})
		a.says("hello app")
		a.hears("welcome")
		a.asks("read a", "ok read a")
		a.asks("write a", "denied policy this run was launched without it (write on a)")
		a.conn.Close()
		w.recorded("s1", "opened planner orders", "identity corp alice [orders:read]", "intent app",
			"request 1 read a", "verdict 1 allow reads", "outcome 1 ok", "request 2 write a", "verdict 2 deny allow", "denial 2 policy allow", "end relay: the client left")
	})
}

// TestNarrowedRun: what a run was launched without does not exist for it.
func TestNarrowedRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.behalf("s1", nil, engine.Narrowing{Target: "other"})
		a.says("hello app")
		a.hears("refused policy this run was launched without target orders")
		a.ends()
	})
}

// TestExpiredIdentityAsks: people decide about each new session; one that began
// goes on.
func TestExpiredIdentityAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(s *Setup) {
			s.Agents["planner"].Identity = IdentityRule{OnExpiry: ExpiryAsks, Ask: &policy.Ask{Approvers: []string{"dba"}, Within: time.Minute}}
		})
		i := alice()
		before := w.behalf("s1", i)
		before.says("hello app")
		before.hears("welcome")
		time.Sleep(2 * time.Hour)
		before.asks("read a", "ok read a")

		yes := w.behalf("s2", i)
		yes.says("hello app")
		w.approve("ada", "she is on call")
		yes.hears("welcome")
		yes.asks("read a", "ok read a")

		no := w.behalf("s3", i)
		no.says("hello app")
		if err := w.approvals.Deny(w.pending(), approval.Vote{Group: "dba", By: "ada"}); err != nil {
			t.Fatal(err)
		}
		no.hears("refused person denied by ada")
		no.ends()

		late := w.behalf("s4", i)
		late.says("hello app")
		late.hears("refused expired nobody decided within 1m0s")
		late.ends()
		w.recorded("s3", "opened planner orders", "identity corp alice []", "intent app",
			"request 1 open a session with orders for alice (corp), whose identity expired 1h0m0s ago", "verdict 1 ask identity",
			"approval 1 pending", "approval 1 denied ada", "denial 1 person identity", "denial 0 person identity", "end ")
	})
}

// TestRoleHasItsPolicy: whoever has a role has the agent's policy for it, in new
// sessions and after a reload.
func TestRoleHasItsPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		roles := func(s *Setup) {
			writes := rules()[2]
			writes.Ask, writes.Allow = nil, true
			s.Agents["planner"].Roles = []RolePolicy{{"owner", s.Agents["coder"]}, {"dba", &Agent{Name: "planner", Policy: w.policy(rules()[1], writes)}}}
		}
		w.gateway.Reload(w.setup(roles))
		hers, his := w.behalf("s1", alice()), w.behalf("s2", bare("corp"))
		hers.says("hello app")
		hers.hears("welcome")
		hers.asks("write a", "ok write a")
		his.says("hello app")
		his.hears("welcome")
		his.asks("write b", "pending writes")
		w.gateway.Reload(w.setup())
		hers.asks("write a", "pending writes")
	})
}
