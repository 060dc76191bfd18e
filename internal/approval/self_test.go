package approval

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/engine"
)

// TestNobodyApprovesTheirOwn: whoever a run is for, and whoever answers for it,
// approves nothing of it unless the rule says so. They may take it back.
func TestNobodyApprovesTheirOwn(t *testing.T) {
	alice := &engine.Identity{Issuer: "corp", Subject: "1", Name: "alice", Email: "alice@example.test"}
	worker := &engine.Identity{Issuer: "ci", Subject: "repo", Owner: "Alice@Example.test"}
	for name, c := range map[string]struct {
		behalf, who *engine.Identity
		allowed     bool
		want        error
	}{
		"another":                  {alice, &engine.Identity{Issuer: "corp", Subject: "2", Name: "bob"}, false, nil},
		"herself":                  {alice, alice, false, ErrSelf},
		"by another name":          {alice, &engine.Identity{Issuer: "corp", Subject: "1", Name: "root", Email: "x@example.test"}, false, ErrSelf},
		"of another issuer":        {alice, &engine.Identity{Issuer: "other", Subject: "1"}, false, nil},
		"what she answers for":     {worker, alice, false, ErrSelf},
		"what she does not":        {&engine.Identity{Issuer: "ci", Owner: "bob"}, alice, false, nil},
		"herself, which may be":    {alice, alice, true, nil},
		"root, who is nobody else": {alice, nil, false, nil},
		"nobody's":                 {nil, alice, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(Options{})
				done := make(chan error, 1)
				go func() {
					_, err := s.Submit(t.Context(), Ask{Agent: "a", Text: "x", Approvers: []string{"dba"}, Within: time.Minute, Behalf: c.behalf, SelfAllowed: c.allowed})
					done <- err
				}()
				synctest.Wait()
				id := s.List()[0].ID
				if err := s.Approve(id, Vote{Group: "dba", By: "x", Who: c.who}); !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if c.want == nil {
					if err := <-done; err != nil {
						t.Error(err)
					}
					return
				}
				if err := s.Deny(id, Vote{Group: "dba", By: "x", Who: c.who}); err != nil {
					t.Error(err)
				}
				if err := <-done; !errors.Is(err, ErrDenied) {
					t.Error(err)
				}
			})
		})
	}
}
