package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/test/servers"
)

// TestRestartRefusesNobody restarts the daemon, as an upgrade does with another
// program in its place, under 500 new connections a second: all of them are
// served, by the old daemon or the new one.
func TestRestartRefusesNobody(t *testing.T) {
	w := theWorld
	cmd := w.agent("planner", "orders", filepath.Join(w.dir, "client"))
	cmd.Env = append(cmd.Env, clientEnv+"=dialler")
	s := startAgent(t, cmd)
	s.expect("dialling\n")
	program := filepath.Join(w.dir, "bin", "posternd")
	for range 4 {
		time.Sleep(1500 * time.Millisecond)
		if err := servers.CopyFile(program, program+".new", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := w.postern.StopDaemon(syscall.SIGTERM); err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
		if err := os.Rename(program+".new", program); err != nil {
			t.Fatal(err)
		}
		if err := w.postern.StartDaemon(); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintln(s.in, "enough")
	out := s.expect("answered")
	var connected, refused, unanswered int
	if _, err := fmt.Sscanf(out, "connected %d, refused %d, not answered %d", &connected, &refused, &unanswered); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("connected %d, refused %d, not answered %d", connected, refused, unanswered)
	if refused > 0 || unanswered > 0 || connected < 1000 {
		t.Errorf("connected %d, refused %d, not answered %d", connected, refused, unanswered)
	}
	if out, err := w.psql("planner", "orders", "SELECT 1"); err != nil {
		t.Error(out)
	}
}

// TestKilledTwoHundredTimes kills the daemon at random while agents work.
// PostgreSQL executes nothing that is not on record, nothing arrives outside
// (which the end of all tests looks at), and agents recover by themselves.
func TestKilledTwoHundredTimes(t *testing.T) {
	w := theWorld
	const mark = "two-hundred"
	cmd := w.agent("planner", "orders", filepath.Join(w.dir, "client"))
	cmd.Env = append(cmd.Env, clientEnv+"=patient-writer", "MARK="+mark)
	s := startAgent(t, cmd)
	s.expect("20\n")
	for range 200 {
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		w.postern.StopDaemon(syscall.SIGKILL) //nolint:errcheck // killed is how it is to end
		if err := w.postern.StartDaemon(); err != nil {
			t.Fatal(err)
		}
	}
	written := w.query(t, "SELECT count(*) FROM scratch WHERE note = '"+mark+"'")
	eventually(t, func() error { // it goes on by itself
		if now := w.query(t, "SELECT count(*) FROM scratch WHERE note = '"+mark+"'"); now == written {
			return fmt.Errorf("still %s rows", now)
		}
		return nil
	})
	s.stop()
	executed := strings.Fields(w.query(t, "SELECT id FROM scratch WHERE note = '"+mark+"'"))
	recorded := w.recorded(t, mark)
	for _, id := range executed {
		if !recorded[id] {
			t.Errorf("row %s was executed and is not on record", id)
		}
	}
	t.Logf("%d rows were written over 200 deaths", len(executed))
	w.query(t, "DELETE FROM scratch WHERE note = '"+mark+"'")
	mustContain(t, w.cli(t, "audit", "verify"), "ok:")
}

// eventually waits for what another program does.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestAgentsCgroupMadeAnew: systemd removes the cgroup of an agent's slice when
// it stops. What is started in the new one reaches its targets without a reload,
// with the guard there or started meanwhile.
func TestAgentsCgroupMadeAnew(t *testing.T) {
	w := theWorld
	mount, err := identity.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	works := func() error {
		out, err := w.psql("reader", "orders", "SELECT 'let in' FROM orders WHERE id = 1")
		if err != nil || !strings.Contains(out, "let in") {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	anew := func() {
		t.Helper()
		servers.RemoveCgroups(filepath.Join(mount, w.postern.Root, "reader"))
		if err := os.Mkdir(filepath.Join(mount, w.postern.Root, "reader"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, works)
	anew()
	eventually(t, works)
	w.postern.StopGuard(syscall.SIGTERM)
	anew()
	if err := w.postern.StartGuard(); err != nil {
		t.Fatal(err)
	}
	eventually(t, works)
}
