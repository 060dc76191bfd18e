package approval

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/engine"
)

// TestNobodyApprovesTheirOwn: whoever asks, launched the run, is whom it is for or
// answers for it approves nothing of it unless the rule says so, whatever else they
// are logged in as. They may take it back.
func TestNobodyApprovesTheirOwn(t *testing.T) {
	alice := &engine.Identity{Issuer: "corp", Subject: "1", Name: "alice", Email: "alice@example.test"}
	worker := &engine.Identity{Issuer: "ci", Subject: "repo", Owner: "Alice@Example.test"}
	bob := &engine.Identity{Issuer: "corp", Subject: "2", Name: "bob"}
	as := func(who ...*engine.Identity) Vote { return Vote{UID: 1000, Who: who} }
	for name, c := range map[string]struct {
		ask  Ask
		vote Vote
		want error
	}{
		"another":                        {Ask{Behalf: alice}, as(bob), nil},
		"herself":                        {Ask{Behalf: alice}, as(alice), ErrSelf},
		"logged in as another as well":   {Ask{Behalf: alice}, as(bob, alice), ErrSelf},
		"by another name":                {Ask{Behalf: alice}, as(&engine.Identity{Issuer: "corp", Subject: "1", Name: "root", Email: "x@example.test"}), ErrSelf},
		"of another issuer":              {Ask{Behalf: alice}, as(&engine.Identity{Issuer: "other", Subject: "1"}), nil},
		"what she answers for":           {Ask{Behalf: worker}, as(alice), ErrSelf},
		"the same, of two":               {Ask{Behalf: worker}, as(bob, alice), ErrSelf},
		"what she does not":              {Ask{Behalf: &engine.Identity{Issuer: "ci", Owner: "bob"}}, as(alice), nil},
		"herself, which may be":          {Ask{Behalf: alice, SelfAllowed: true}, as(alice), nil},
		"root, who is nobody else":       {Ask{Behalf: alice, UIDs: []uint32{1000}}, Vote{}, nil},
		"nobody's":                       {Ask{}, as(alice), nil},
		"her user asks":                  {Ask{UIDs: []uint32{1000}}, as(alice), ErrSelf},
		"her user launched the run":      {Ask{UIDs: []uint32{990, 1000}, Behalf: bob}, as(alice), ErrSelf},
		"her user asks, which may be":    {Ask{UIDs: []uint32{1000}, SelfAllowed: true}, as(alice), nil},
		"another user asks and launched": {Ask{UIDs: []uint32{990, 1001}}, as(alice), nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(Options{})
				c.ask.Agent, c.ask.Text, c.ask.Approvers, c.ask.Within = "a", "x", []string{"dba"}, time.Minute
				c.vote.Group, c.vote.By = "dba", "x"
				done := make(chan error, 1)
				go func() {
					_, err := s.Submit(t.Context(), c.ask)
					done <- err
				}()
				synctest.Wait()
				id := s.List()[0].ID
				if err := s.Approve(id, c.vote); !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if c.want == nil {
					if err := <-done; err != nil {
						t.Error(err)
					}
					return
				}
				if err := s.Deny(id, c.vote); err != nil {
					t.Error(err)
				}
				if err := <-done; !errors.Is(err, ErrDenied) {
					t.Error(err)
				}
			})
		})
	}
}
