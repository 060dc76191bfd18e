package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/postern/postern/internal/guard"
)

// TestBreakGlass: root lets agents past the gateway for a while, whether or not
// the daemon runs; it is on record, in the status, the log and the metrics.
func TestBreakGlass(t *testing.T) {
	w := theWorld
	refused := func(want string, args ...string) {
		t.Helper()
		out, err := w.postern.CLI(append([]string{"break-glass"}, args...)...).CombinedOutput()
		if err == nil {
			t.Errorf("%v: %s", args, out)
		}
		mustContain(t, string(out), want)
	}
	refused("say for how long", "--reason", "an incident")
	refused("say why", "--for", "1m")
	refused("at most 4h", "--for", "5h", "--reason", "an incident")
	refused("a reason has", "--for", "1m", "--reason", "x")
	refused("no agent", "--for", "1m", "--reason", "an incident", "--agent", "nobody")
	out, err := w.postern.Run("planner", w.postern.Build+"/postern", "--config", w.postern.ConfigFile, "break-glass", "--for", "1m", "--reason", "an agent asks").CombinedOutput()
	if err == nil {
		t.Errorf("an agent broke the glass: %s", out)
	}
	// Straight to PostgreSQL, by its address: the gateway would refuse it.
	direct := func() (string, error) {
		cmd := w.agent("planner", "orders", "psql", "-X", "-A", "-t", "-h", "127.0.0.1", "-p", fmt.Sprint(w.pg.Port), "-U", "postgres", "-d", "shop", "-c", "SELECT 'past the gateway'")
		cmd.Env = append(cmd.Env, "PGPASSWORD="+adminPassword, "PGSSLMODE=require")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := direct(); err == nil {
		t.Fatalf("it works with the glass whole: %s", out)
	}
	if err := w.postern.StopDaemon(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	mustContain(t, w.cli(t, "break-glass", "--for", "10m", "--reason", "the gateway is down", "--agent", "planner"), "THE GLASS IS BROKEN")
	out1, err := direct()
	if err != nil {
		t.Error(out1)
	}
	mustContain(t, out1, "past the gateway")
	w.toldWithoutDaemon(t)
	if err := w.postern.StartDaemon(); err != nil {
		t.Fatal(err)
	}
	if out, err := direct(); err != nil {
		t.Error(out)
	}
	mustContain(t, w.cli(t, "status"), "THE GLASS IS BROKEN for planner")
	mustContain(t, w.metrics(t), `postern_break_glass_until_seconds{agent="planner"}`)
	mustContain(t, w.cli(t, "break-glass", "--end", "--agent", "planner"), "mended")
	if out, err := direct(); err == nil {
		t.Errorf("it still works after it was mended: %s", out)
	}
	w.mendsForAll(t, refused)
	if out, err := direct(); err == nil {
		t.Errorf("it still works after it was mended for all: %s", out)
	}
	eventually(t, func() error {
		_, err := w.postern.LogLine("past the gateway: the glass is broken")
		return err
	})
	b, err := os.ReadFile(guard.GlassFile(w.postern.State))
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, string(b), `"event":"broken","agent":"planner"`, `"reason":"the gateway is down"`, `"event":"mended"`)
	if st, err := os.Stat(filepath.Dir(guard.GlassFile(w.postern.State))); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

// mendsForAll: without a name it ends for whomever it was broken, whatever the
// configuration is like by then; with one it says who is still past the gateway.
func (w *world) mendsForAll(t *testing.T, refused func(want string, args ...string)) {
	t.Helper()
	w.cli(t, "break-glass", "--for", "10m", "--reason", "the gateway is down", "--agent", "planner")
	w.cli(t, "break-glass", "--for", "10m", "--reason", "the gateway is down")
	refused("broken for all agents until", "--end", "--agent", "planner")
	w.cli(t, "break-glass", "--for", "10m", "--reason", "the gateway is down", "--agent", "planner")
	good, err := os.ReadFile(w.postern.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.postern.ConfigFile, append(good, "nonsense: true\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	mustContain(t, w.cli(t, "break-glass", "--end"), "mended for all agents")
	if err := os.WriteFile(w.postern.ConfigFile, good, 0o600); err != nil {
		t.Fatal(err)
	}
	mustNotContain(t, w.cli(t, "status"), "THE GLASS IS BROKEN")
}

// toldWithoutDaemon: the kernel is told of without the daemon, too.
func (w *world) toldWithoutDaemon(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{{"status"}, {"status", "--json"}} {
		out, err := w.postern.CLI(args...).Output()
		if err == nil {
			t.Errorf("%v finds nothing wrong", args)
		}
		mustContain(t, string(out), "is closed by", "THE GLASS IS BROKEN for planner")
	}
}
