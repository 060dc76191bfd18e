package main

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
	registry "github.com/postern/postern/internal/run"
)

// TestRunIsNotForgotten: a run whose cgroup cannot be looked at keeps what it was
// narrowed to. Only one whose cgroup is gone is forgotten.
func TestRunIsNotForgotten(t *testing.T) {
	dir := t.TempDir() // which is on no cgroup2 file system
	r := &runs{mount: dir}
	if !r.there("/", 7) {
		t.Error("a cgroup that cannot be looked at is taken for gone")
	}
	if r.there("agents/run-1", 7) {
		t.Error("a cgroup that is gone is taken for there")
	}
}

// TestRunForNobody: whoever launches a run for nobody is known as its launcher,
// and the guard is not answered, since it does not wait.
func TestRunForNobody(t *testing.T) {
	known, err := registry.Open(filepath.Join(t.TempDir(), "runs"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	r := &runs{Registry: known, daemon: &daemon{log: slog.New(slog.DiscardHandler)}}
	r.announced(t.Context(), &guard.Launch{Run: "run-1", Agent: "planner", Cgroup: "agents/run-1", CgroupID: 7, UID: 1000})
	for _, c := range []struct {
		agent, run string
		launcher   uint32
	}{{"planner", "run-1", 1000}, {"planner", "run-2", 0}, {"coder", "run-1", 0}} {
		f := engine.Flow{Agent: c.agent, Run: c.run}
		r.tell(t.Context(), &f)
		if f.Launcher != c.launcher || f.Identity != nil || f.Only != nil {
			t.Errorf("%+v: %+v", c, f)
		}
	}
}

// TestWhoseConnection: a connection from a cgroup that cannot be found is nobody's,
// since its run may be narrowed.
func TestWhoseConnection(t *testing.T) {
	mount, err := identity.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	cgroups, err := identity.NewCgroups(mount)
	if err != nil {
		t.Fatal(err)
	}
	if f, err := (&doors{cgroups: cgroups, mount: mount}).flowOf(&resident{}, redirect.Record{CgroupID: 1 << 60}); err == nil {
		t.Errorf("it is taken for %+v", f)
	}
}
