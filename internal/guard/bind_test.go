package guard

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/sandbox"
)

// TestBindWaitsForTheDaemon: a run goes on by the daemon's word only, which is for
// that run, once; without a daemon, or without its word in time, there is none.
func TestBindWaitsForTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{doors: &doors{log: slog.New(slog.DiscardHandler)}}
		if err := s.bind(t.Context(), Launch{Run: "run-1"}); err == nil || !strings.Contains(err.Error(), "does not run") {
			t.Errorf("without a daemon: %v", err)
		}
		if err := s.binds.answer(Bound{Run: "run-1"}); err == nil {
			t.Error("a word for a run that does not wait was taken")
		}
		for name, c := range map[string]struct {
			say  *Bound
			want string
		}{
			"yes":     {&Bound{Run: "run-1"}, ""},
			"no":      {&Bound{Run: "run-1", Error: "another agent's"}, "another agent's"},
			"nothing": {nil, "did not say"},
		} {
			answer, done := s.binds.wait("run-1")
			if c.say != nil {
				if err := s.binds.answer(*c.say); err != nil {
					t.Fatal(err)
				}
				if err := s.binds.answer(*c.say); err == nil {
					t.Errorf("%s: it was said twice", name)
				}
				if err := <-answer; (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v", name, err)
				}
			} else {
				ctx, cancel := context.WithTimeout(t.Context(), bindTime)
				select {
				case err := <-answer:
					t.Errorf("%s: %v", name, err)
				case <-ctx.Done():
				}
				cancel()
			}
			done()
		}
	})
}

// TestRunForSomebody: an agent that acts for somebody is not launched for nobody.
func TestRunForSomebody(t *testing.T) {
	must := &config.Agent{Name: "clerk", Identity: config.AgentIdentity{Required: true}}
	if err := needsIdentity(must, &Run{}); err == nil || !strings.Contains(err.Error(), "postern login") {
		t.Error(err)
	}
	if err := needsIdentity(must, &Run{Ticket: "t"}); err != nil {
		t.Error(err)
	}
	if err := needsIdentity(&config.Agent{}, &Run{}); err != nil {
		t.Error(err)
	}
}

// TestTokenIsNotSeen: a token file in what a sandbox shows is refused, by its path
// and by where a link leads.
func TestTokenIsNotSeen(t *testing.T) {
	work, outside := t.TempDir(), t.TempDir()
	link := filepath.Join(outside, "link")
	if err := os.WriteFile(filepath.Join(work, "token"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(work, "token"), link); err != nil {
		t.Fatal(err)
	}
	box := &sandbox.Box{Binds: []sandbox.Bind{{Path: work}}}
	for path, refused := range map[string]bool{
		filepath.Join(work, "token"): true, link: true, filepath.Join(outside, "token"): false, "": false,
	} {
		if err := unseen(path, box); (err != nil) != refused {
			t.Errorf("%q: %v", path, err)
		}
	}
	if err := unseen(filepath.Join(work, "token"), nil); err != nil {
		t.Errorf("in the tier redirected another file lies over it: %v", err)
	}
}
