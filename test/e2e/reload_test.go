package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReload: the new configuration counts for the next request of running
// sessions, one that has problems changes nothing, and sessions that the new
// one would not have begun are told and ended.
func TestReload(t *testing.T) {
	w := theWorld
	whole := w.configuration()
	apply := func(text string) (string, error) {
		t.Helper()
		if err := w.postern.Configure(text); err != nil {
			t.Fatal(err)
		}
		out, err := w.postern.CLI("reload").CombinedOutput()
		return string(out), err
	}
	defer apply(whole)
	planner := w.psqlSession(t, "planner", "orders")
	reader := w.psqlSession(t, "reader", "orders")
	mustContain(t, planner.do("SELECT name FROM customers WHERE id = 1;"), "Ada")
	mustContain(t, reader.do("SELECT count(*) FROM orders;"), "20")

	out, err := apply(strings.Replace(whole, "protocol: postgres", "protocol: postgers", 1) + "nonsense: 1\n")
	if err == nil {
		t.Error("a configuration with problems was taken")
	}
	mustContain(t, out, "nonsense", "postern.yaml:")
	said, code := w.status(t, "check", "--json", w.postern.ConfigFile)
	if code != 1 {
		t.Errorf("check ends with %d", code)
	}
	mustContain(t, said, `"ok": false`, "nonsense")
	mustContain(t, planner.do("SELECT name FROM customers WHERE id = 2;"), "Grace")

	without := strings.Replace(whole, `      - {name: reads, target: "*", verbs: [select], allow: true}`+"\n",
		`      - {name: reads, target: "*", verbs: [select], tables: [orders], allow: true}`+"\n", 1)
	if out, err := apply(without); err != nil {
		t.Fatal(out)
	}
	mustContain(t, planner.do("SELECT name FROM customers WHERE id = 1;"), "ERROR", "postern:")
	mustContain(t, planner.do("SELECT count(*) FROM orders;"), "20")

	closed := without[:strings.Index(without, "  - name: reader\n")] + "  - name: reader\n" + without[strings.Index(without, "trust:"):]
	out, err = apply(closed)
	if err != nil {
		t.Fatal(out)
	}
	mustContain(t, out, "1 sessions that it would not have begun were ended")
	reader.send("SELECT 1;")
	mustContain(t, reader.expect("connection to server was lost"), "the configuration changed")
	mustContain(t, w.metrics(t), "postern_config_last_reload_successful 1")
}

// TestDrain: told to stop, the daemon lets who comes wait and who is at work
// finish, and tells those on which nothing is under way to connect again; a start afterwards finds everything in order.
func TestDrain(t *testing.T) {
	w := theWorld
	s := w.psqlSession(t, "planner", "orders")
	mustContain(t, s.do("SELECT 'before';"), "before")
	idle, open := w.psqlSession(t, "planner", "orders"), w.psqlSession(t, "planner", "orders")
	idle.do("SELECT 'idle';")
	open.do("BEGIN; SELECT 'open';")
	s.send("SELECT pg_sleep(6); SELECT 'finished';")
	attached, err := w.postern.GuardCommand("check", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- w.postern.StopDaemon(syscall.SIGTERM) }()
	// Nobody waits for the one on which nothing is under way; the others go on.
	for {
		_, since, ok := strings.Cut(w.daemonLog(), "msg=stopping")
		if ok && strings.Contains(since, "the gateway is stopping") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	mustContain(t, open.do("SELECT 'still open'; COMMIT; SELECT 'committed';"), "still open", "committed")
	open.stop()
	idle.send("SELECT 1;")
	mustContain(t, idle.expect("connection to server was lost"), "the gateway is stopping")
	idle.stop()
	mustContain(t, s.answer(), "finished")
	s.stop()
	if err := <-stopped; err != nil {
		t.Errorf("the daemon ended with %v\n%s", err, w.daemonLog())
	}
	if err := w.postern.StartDaemon(); err != nil {
		t.Fatal(err)
	}
	if out, err := w.psql("planner", "orders", "SELECT 1"); err != nil {
		t.Error(out)
	}
	again, err := w.postern.GuardCommand("check", "--json").Output()
	if err != nil || string(again) != string(attached) {
		t.Errorf("a restart of the daemon touched the programs: %v\n%s\n%s", err, attached, again)
	}
}

// TestReplayAndVerify: a session can be seen again, and a recording that was
// altered is told.
func TestReplayAndVerify(t *testing.T) {
	w := theWorld
	if out, err := w.psql("planner", "orders", "SELECT name, email FROM customers WHERE id = 1", "DROP TABLE orders"); err == nil {
		t.Fatal(out)
	}
	id := strings.Fields(strings.Split(w.cli(t, "sessions", "--agent", "planner", "--limit", "1"), "\n")[1])[2]
	out := w.cli(t, "replay", "--speed", "0", id)
	mustContain(t, out, "agent planner", "orders-db.internal:5432", "SELECT name, email", "allow by rule reads", "Ada", "DROP TABLE orders", "deny by rule no-ddl", "end: 2 requests, 1 denied")
	mustNotContain(t, out, "ada@example.org", "orders_rw")
	mustContain(t, w.cli(t, "replay", "--json", id), `"event":"verdict"`, `"rule":"no-ddl"`)
	mustContain(t, w.cli(t, "audit", "verify"), "ok:")

	copied := filepath.Join(t.TempDir(), "recordings")
	if err := os.CopyFS(copied, os.DirFS(filepath.Join(w.postern.State, "recordings"))); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(copied, "*", "*", "*", id+".rec"))
	if err != nil || len(files) != 1 {
		t.Fatal(err, files)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], []byte(strings.Replace(string(b), "no-ddl", "no-ddx", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := w.postern.CLI("audit", "verify", copied).CombinedOutput()
	if err == nil {
		t.Error("an altered recording is called intact")
	}
	mustContain(t, string(text), id, "altered")
}

// TestStatusAndDoctor say what is there.
func TestStatusAndDoctor(t *testing.T) {
	w := theWorld
	mustContain(t, w.cli(t, "status", "--json"), `"open":`, "the project, and what the user may read")
	mustContain(t, w.cli(t, "status"), "planner", "enforce", "redirected", "tier workspace, at least, leaves open: the project", "orders-db.internal:5432", "is closed by 14 programs")
	mustContain(t, w.cli(t, "top"), "REQ/S", "planner", "bypass attempts")
	out, err := w.postern.CLI("doctor").CombinedOutput()
	if err != nil {
		t.Errorf("doctor finds something: %v\n%s", err, out)
	}
	mustContain(t, string(out), "the policy root is closed", "posternd answers")
	check, err := w.postern.GuardCommand("check").CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, check)
	}
}
