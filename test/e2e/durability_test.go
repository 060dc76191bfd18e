package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/pkg/recording"
	"github.com/postern/postern/test/servers"
)

// TestKilledDaemonLosesNothing kills the daemon at random points while a client
// writes: everything PostgreSQL executed is in the recording. Without a
// daemon agents wait for the guard's grace, and are refused then.
func TestKilledDaemonLosesNothing(t *testing.T) {
	w := theWorld
	for round := range 5 {
		mark := fmt.Sprintf("round-%d", round)
		cmd := w.agent("planner", "orders", filepath.Join(w.dir, "client"))
		cmd.Env = append(cmd.Env, clientEnv+"=writer", "MARK="+mark)
		s := startAgent(t, cmd)
		s.expect("20\n")
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		w.postern.StopDaemon(syscall.SIGKILL)
		if round == 0 {
			out, err := w.psql("planner", "orders", "SELECT 1")
			if err == nil {
				t.Errorf("an agent got through without a daemon: %s", out)
			}
			// No resolver either: the name is not known, and an address refuses.
			direct := w.agent("planner", "orders", "psql", "-X", "-h", "127.0.0.1", "-p", fmt.Sprint(w.pg.Port), "-c", "SELECT 1")
			text, err := direct.CombinedOutput()
			if err == nil {
				t.Errorf("an agent got through to PostgreSQL without a daemon: %s", text)
			}
			mustContain(t, string(text), "Connection refused")
		}
		s.stop()
		if err := w.postern.StartDaemon(); err != nil {
			t.Fatal(err)
		}
		executed := strings.Fields(w.query(t, "SELECT id FROM scratch WHERE note = '"+mark+"'"))
		if len(executed) < 20 {
			t.Fatalf("only %d rows were written", len(executed))
		}
		recorded := w.recorded(t, mark)
		for _, id := range executed {
			if !recorded[id] {
				t.Errorf("row %s was executed and is not on record", id)
			}
		}
		w.query(t, "DELETE FROM scratch WHERE note = '"+mark+"'")
	}
	mustContain(t, w.cli(t, "audit", "verify"), "ok:")
}

// recorded are the ids of the rows that allowed requests on record insert.
func (w *world) recorded(t *testing.T, mark string) map[string]bool {
	t.Helper()
	ids := map[string]bool{}
	for s, err := range recording.Sessions(filepath.Join(w.postern.State, "recordings"), recording.Filter{Agent: "planner"}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range w.events(t, s.Path) {
			r, ok := e.Body.(*recording.Request)
			if !ok || !strings.Contains(r.Text, mark) {
				continue
			}
			_, rest, _ := strings.Cut(r.Text, "VALUES (")
			id, _, _ := strings.Cut(rest, ",")
			ids[id] = true
		}
	}
	return ids
}

func (w *world) events(t *testing.T, path string) []recording.Event {
	t.Helper()
	r, err := recording.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out []recording.Event
	for {
		e, err := r.Next()
		if err != nil {
			return out
		}
		out = append(out, e)
	}
}

// TestFullDiskDenies: with no room left for the record, nothing is sent; when
// there is room again, it goes on.
func TestFullDiskDenies(t *testing.T) {
	w := theWorld
	p, err := servers.NewPostern(servers.PosternOptions{Dir: filepath.Join(w.dir, "small"), Build: filepath.Join(w.dir, "bin")})
	if err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("size=1m,mode=0700,uid=%d", servers.DaemonUID)
	if err := unix.Mount("tmpfs", p.State, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(p.State, unix.MNT_DETACH)
	p.Config = fmt.Sprintf(configuration, p.Root, w.pg.Port, w.pg.CA, w.dir, w.corpCA)
	key, err := os.ReadFile(filepath.Join(w.dir, "cert_user.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Seal("secrets.age", "password: "+realPassword+"\n"); err != nil {
		t.Fatal(err)
	}
	if err := p.Seal("client-key.age", string(key)); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	small := &world{dir: w.dir, pg: w.pg, postern: p, corpCA: w.corpCA}
	s := small.psqlSession(t, "planner", "orders")
	mustContain(t, s.do("SELECT 'room';"), "room")
	ballast := filepath.Join(p.State, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := f.Write(bytes.Repeat([]byte{1}, 4096)); err != nil {
			break // full
		}
	}
	f.Close()
	filler := strings.Repeat("x", 5000)
	told := ""
	for i := range 20 {
		out := s.do(fmt.Sprintf("SELECT 'full disk %d %s';", i, filler))
		if strings.Contains(out, "cannot be put on record") {
			told = out
			break
		}
	}
	mustContain(t, told, "cannot be put on record", "it was not sent")
	if out, err := small.psql("planner", "orders", "SELECT 1"); err == nil {
		t.Errorf("a session was begun with no room for its record: %s", out)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if out, err := small.psql("planner", "orders", "SELECT 1"); err != nil {
		t.Errorf("it does not go on when there is room again: %v: %s", err, out)
	}
}
