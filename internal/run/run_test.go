package run

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/internal/engine"
)

type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func open(t *testing.T, path string, c *clock) *Registry {
	t.Helper()
	r, err := Open(path, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func announce(t *testing.T, r *Registry, a Announced) string {
	t.Helper()
	ticket, err := r.Announce(a)
	if err != nil || ticket == "" {
		t.Fatal(err)
	}
	return ticket
}

var alice = &engine.Identity{Issuer: "corp", Subject: "1", Name: "alice", Groups: []string{"dba"}, Claims: map[string]string{"team": "x"}, Expires: time.Unix(5000, 0).UTC()}

// TestBind: a ticket is for one run, of its agent, by who announced it, and not
// for long.
func TestBind(t *testing.T) {
	c := &clock{time.Unix(1000, 0).UTC()}
	r := open(t, filepath.Join(t.TempDir(), "runs"), c)
	one := Run{Name: "run-1", Agent: "planner", Cgroup: "agents/run-1", CgroupID: 7, UID: 1000}
	ticket := announce(t, r, Announced{Agent: "planner", UID: 1000, Identity: alice})
	for _, wrong := range []struct {
		ticket string
		run    Run
		want   error
	}{
		{"", one, ErrTicket},
		{"guess", one, ErrTicket},
		{ticket, Run{Name: "run-1", Agent: "coder", UID: 1000}, ErrAgent},
		{ticket, Run{Name: "run-1", Agent: "planner", UID: 1001}, ErrAgent},
	} {
		if _, err := r.Bind(wrong.ticket, wrong.run); !errors.Is(err, wrong.want) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
	got, err := r.Bind(ticket, one)
	if err != nil || got.Identity != alice || !got.Began.Equal(c.at) || got.Narrowed {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := r.Bind(ticket, one); !errors.Is(err, ErrTicket) {
		t.Error("a ticket was used twice:", err)
	}
	late := announce(t, r, Announced{Agent: "planner", UID: 1000})
	c.at = c.at.Add(ticketLife)
	if _, err := r.Bind(late, one); !errors.Is(err, ErrTicket) {
		t.Error("a ticket outlived its life:", err)
	}
}

// TestLimits: who announces runs and launches none stops nobody else.
func TestLimits(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	r := open(t, filepath.Join(t.TempDir(), "runs"), c)
	for range maxTickets {
		announce(t, r, Announced{UID: 1000})
	}
	if _, err := r.Announce(Announced{UID: 1000}); !errors.Is(err, ErrMany) {
		t.Error(err)
	}
	announce(t, r, Announced{UID: 1001})
	c.at = c.at.Add(ticketLife)
	announce(t, r, Announced{UID: 1000})
	if _, err := r.Announce(Announced{Only: []engine.Narrowing{{}}}); err == nil {
		t.Error("narrowed to no target")
	}
}

// TestOutlivesTheDaemon: all of it is on disk, but for tickets, and no more than
// that.
func TestOutlivesTheDaemon(t *testing.T) {
	c := &clock{time.Unix(1000, 0).UTC()}
	path := filepath.Join(t.TempDir(), "state", "runs")
	r := open(t, path, c)
	for name, a := range map[string]Announced{
		"run-1": {Agent: "planner", UID: 1, Identity: alice, Login: true},
		"run-2": {Agent: "planner", UID: 2, Only: []engine.Narrowing{{Target: "orders", Verbs: []string{"select"}}}},
		"run-3": {Agent: "planner", UID: 3, Only: []engine.Narrowing{}},
		"run-4": {Agent: "planner", UID: 4},
	} {
		if _, err := r.Bind(announce(t, r, a), Run{Name: name, Agent: "planner", UID: a.UID, CgroupID: 9}); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st.Mode(), err)
	}
	again := open(t, path, c)
	if len(again.All()) != 4 {
		t.Error(again.All())
	}
	one, _ := again.Of("run-1")
	if one.Identity.String() != "alice (corp)" || one.Identity.Claims["team"] != "x" || !one.Identity.Expires.Equal(alice.Expires) || !one.Login || one.Only != nil {
		t.Errorf("%+v %+v", one, one.Identity)
	}
	two, _ := again.Of("run-2")
	three, _ := again.Of("run-3")
	four, _ := again.Of("run-4")
	if len(two.Only) != 1 || three.Only == nil || len(three.Only) != 0 || four.Only != nil {
		t.Errorf("%+v\n%+v\n%+v", two, three, four)
	}
	if _, ok := again.Of("run-5"); ok {
		t.Error("a run that never was")
	}
	ended, err := again.Sweep(func(r Run) bool { return r.Name != "run-2" })
	if err != nil || len(ended) != 3 {
		t.Error(ended, err)
	}
	if left := open(t, path, c).All(); len(left) != 1 || left[0].Name != "run-2" {
		t.Error(left)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, c.now); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Error(err)
	}
}

// TestRenew: a run stays whose it was.
func TestRenew(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	r := open(t, filepath.Join(t.TempDir(), "runs"), c)
	if _, err := r.Bind(announce(t, r, Announced{Agent: "a", Identity: alice}), Run{Name: "run-1", Agent: "a"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Bind(announce(t, r, Announced{Agent: "a"}), Run{Name: "run-2", Agent: "a"}); err != nil {
		t.Fatal(err)
	}
	later := *alice
	later.Expires, later.Groups = time.Unix(9000, 0), []string{"analyst"}
	if err := r.Renew("run-1", &later); err != nil {
		t.Fatal(err)
	}
	if got, _ := r.Of("run-1"); got.Identity.Groups[0] != "analyst" {
		t.Errorf("%+v", got.Identity)
	}
	other, elsewhere := later, later
	other.Subject, elsewhere.Issuer = "2", "other"
	for name, c := range map[string]struct {
		run  string
		who  *engine.Identity
		want error
	}{
		"another":             {"run-1", &other, ErrOther},
		"of another issuer":   {"run-1", &elsewhere, ErrOther},
		"nobody":              {"run-1", nil, ErrOther},
		"somebody for nobody": {"run-2", alice, ErrOther},
		"no run":              {"run-3", alice, ErrNoRun},
	} {
		if err := r.Renew(c.run, c.who); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNote: of a run that was not announced it is known who launched it, over a
// restart too, and nothing else.
func TestNote(t *testing.T) {
	c := &clock{time.Unix(1000, 0).UTC()}
	path := filepath.Join(t.TempDir(), "runs")
	r := open(t, path, c)
	if err := r.Note(Run{Name: "run-1", Agent: "planner", UID: 1000, CgroupID: 9, Identity: alice, Narrowed: true}); err != nil {
		t.Fatal(err)
	}
	got, ok := open(t, path, c).Of("run-1")
	if !ok || got.UID != 1000 || got.Identity != nil || got.Only != nil || got.Narrowed || !got.Began.Equal(c.at) {
		t.Errorf("%+v, %v", got, ok)
	}
}

// TestSweepOfAnother: a run that was made again under the name of one that is gone
// is not forgotten with it.
func TestSweepOfAnother(t *testing.T) {
	c := &clock{time.Unix(1000, 0).UTC()}
	r := open(t, filepath.Join(t.TempDir(), "runs"), c)
	note := func(id uint64) {
		if err := r.Note(Run{Name: "run-1", Agent: "planner", CgroupID: id}); err != nil {
			t.Fatal(err)
		}
	}
	note(1)
	if _, err := r.Sweep(func(Run) bool { note(2); return true }); err != nil {
		t.Fatal(err)
	}
	if got, ok := r.Of("run-1"); !ok || got.CgroupID != 2 {
		t.Errorf("%+v, %v", got, ok)
	}
}
