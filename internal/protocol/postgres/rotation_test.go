package postgres

import (
	"bytes"
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wiretest"
)

// TestRefusedLoginIsTriedAgain: a login that is refused because its password was
// changed is tried once more with the new one, and the agent hears nothing of it.
func TestRefusedLoginIsTriedAgain(t *testing.T) {
	newer := func() *engine.Login {
		return &engine.Login{Credential: secret.Credential{User: "orders_2", Database: "orders", Password: secret.New([]byte(canary))}}
	}
	for name, c := range map[string]struct {
		other *engine.Login
		code  string
		again bool
	}{
		"another password":    {newer(), "28P01", true},
		"another role":        {newer(), "28000", true},
		"the same":            {nil, "28P01", false},
		"too many":            {newer(), "53300", false},
		"no such database":    {newer(), "3D000", false},
		"no words whatsoever": {newer(), "", false},
	} {
		t.Run(name, func(t *testing.T) {
			wiretest.Play(t, func(t *testing.T) {
				s := (&world{login: withPassword, other: c.other}).atLogin(t)
				first := s.Upstream()
				first.Say(msg('E', "SFATAL\x00C"+c.code+"\x00Mpassword authentication failed for user \"orders_rw\"\x00\x00"))
				first.Gone()
				if !c.again {
					if heard := s.Client.Take(); len(heard) == 0 || heard[0] != 'E' || bytes.Contains(heard, []byte("orders_rw")) {
						t.Errorf("the agent heard:\n%s", show(heard))
					}
					s.Client.Gone()
					if _, err := s.End(); err == nil || s.Dials() != 1 {
						t.Errorf("%v after %d dials", err, s.Dials())
					}
					return
				}
				if heard := startupOf(t, s.Upstream().Take()); !strings.Contains(heard["user"], "orders_2") {
					t.Errorf("the second login is %v", heard)
				}
				s.Upstream().Say(msg('E', "SFATAL\x00C"+c.code+"\x00Mno\x00\x00"))
				s.Upstream().Gone()
				if heard := s.Client.Take(); len(heard) == 0 || heard[0] != 'E' {
					t.Errorf("the agent heard:\n%s", show(heard))
				}
				s.Client.Gone()
				if _, err := s.End(); err == nil || s.Dials() != 2 {
					t.Errorf("%v after %d dials: a login is tried once more, not more often", err, s.Dials())
				}
				s.NoSecret(secret.New([]byte(canary)))
			})
		})
	}
}
