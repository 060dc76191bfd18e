package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/identity"
)

const wideDelete = "DELETE FROM orders WHERE state = 'gone';"

func TestApprovalApproved(t *testing.T) {
	w := theWorld
	s := w.psqlSession(t, "planner", "orders")
	s.send("UPDATE orders SET state = 'held' WHERE customer = 1;")
	id := s.asked()
	mustContain(t, w.cli(t, "approvals"), id, "update public.orders", "UPDATE orders SET state", "agent planner → target orders")
	if n := w.query(t, "SELECT count(*) FROM orders WHERE state = 'held'"); n != "0" {
		t.Errorf("%s rows were changed before anyone approved", n)
	}
	out, err := w.postern.CLI("approve", id).CombinedOutput()
	if err == nil {
		t.Error("approved without the reason that the rule requires")
	}
	mustContain(t, string(out), "a reason is required")
	w.cli(t, "approve", id, "--reason", "ticket 4711")
	s.answer()
	if n := w.query(t, "SELECT count(*) FROM orders WHERE state = 'held'"); n != "10" {
		t.Errorf("%s rows were changed", n)
	}
	out, err = w.postern.CLI("approve", id, "--reason", "again").CombinedOutput()
	if err == nil {
		t.Errorf("approved twice: %s", out)
	}
	// Once means once: the same statement asks again.
	s.send("UPDATE orders SET state = 'held' WHERE customer = 1;")
	if again := s.asked(); again == id {
		t.Error("an approval was used twice")
	} else {
		w.cli(t, "deny", again, "--reason", "no")
	}
	mustContain(t, s.answer(), "denied by root: no")
}

// TestApprovalCancelled: a CancelRequest takes the request back.
func TestApprovalCancelled(t *testing.T) {
	w := theWorld
	s := w.psqlSession(t, "planner", "orders")
	s.send(wideDelete)
	id := s.asked()
	for _, pid := range w.pids(t, "planner") {
		var n int
		for _, c := range pid {
			n = n*10 + int(c-'0')
		}
		unix.Kill(n, unix.SIGINT) // psql sends a CancelRequest
	}
	s.expect("cancelled while it waited for approval") // psql that reads a pipe ends then
	if out, err := w.postern.CLI("approve", id, "--reason", "late").CombinedOutput(); err == nil {
		t.Errorf("a withdrawn request was approved: %s", out)
	}
}

// TestApprovalOutlivesItsClient: the client goes away, a person approves, and
// an identical retry goes ahead without asking again. A retry of another run is
// another request.
func TestApprovalOutlivesItsClient(t *testing.T) {
	w := theWorld
	const statement = "DELETE FROM orders WHERE state = 'no such state'"
	script := `psql -X -c "$1" & client=$!; read go; kill -9 $client; wait; echo killed; read go; psql -X -c "$1"; echo finished`
	s := startAgent(t, w.agent("planner", "orders", "bash", "-c", script, "agent", statement))
	id := s.asked()
	fmt.Fprintln(s.in, "go")
	s.expect("killed")
	other := w.psqlSession(t, "planner", "orders")
	other.send(statement + ";")
	if again := other.asked(); again == id {
		t.Error("another run attached to the approval")
	} else {
		w.cli(t, "approve", again, "--reason", "harmless")
	}
	other.answer()
	w.cli(t, "approve", id, "--reason", "harmless")
	fmt.Fprintln(s.in, "go")
	out := s.expect("finished")
	if strings.Contains(out, "waiting for approval") || !strings.Contains(out, "DELETE 0") {
		t.Errorf("the retry was not let through at once:\n%s", out)
	}
}

// TestAgentsCannotApprove: not by uid, not as root, not from inside the cgroup.
func TestAgentsCannotApprove(t *testing.T) {
	w := theWorld
	s := w.psqlSession(t, "planner", "orders")
	s.send(wideDelete)
	id := s.asked()
	cli := filepath.Join(w.dir, "bin", "postern")
	out, err := w.postern.Run("planner", cli, "--config", w.postern.ConfigFile, "approve", id, "--reason", "me").CombinedOutput()
	if err == nil {
		t.Errorf("a run approved its own request: %s", out)
	}
	// A process of root's that somebody put into the policy root.
	mount, err := identity.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(filepath.Join(mount, w.postern.Root, "planner"), unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	inside := exec.Command(cli, "--config", w.postern.ConfigFile, "approve", id, "--reason", "me")
	inside.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	out, err = inside.CombinedOutput()
	if err == nil {
		t.Errorf("a process inside the policy cgroup approved: %s", out)
	}
	mustContain(t, string(out), "inside a policy cgroup")
	// Another user outside.
	other := exec.Command(cli, "--config", w.postern.ConfigFile, "approve", id, "--reason", "me")
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err = other.CombinedOutput()
	if err == nil {
		t.Errorf("a user approved without root: %s", out)
	}
	mustContain(t, string(out), "this takes root")
	w.cli(t, "approve", id, "--reason", "harmless, and the end of the test")
	s.answer()
}

// TestWatchApprovals: what is asked shows at once.
func TestWatchApprovals(t *testing.T) {
	w := theWorld
	watch := startAgent(t, w.postern.CLI("approvals", "--watch", "--json"))
	time.Sleep(100 * time.Millisecond) // the CLI tells nobody that it is listening
	s := w.psqlSession(t, "planner", "orders")
	s.send(wideDelete)
	id := s.asked()
	mustContain(t, watch.expect(id), `"state":"pending"`)
	w.cli(t, "approve", id, "--reason", "seen")
	for !strings.Contains(watch.expect(id), `"state":"consumed"`) {
		continue
	}
	s.answer()
}

// TestApprovalIsBoundToSettings: the same text after a SET is another request.
func TestApprovalIsBoundToSettings(t *testing.T) {
	w := theWorld
	const statement = "DELETE FROM orders WHERE state = 'bound to settings'"
	script := `psql -X -c "$1" & client=$!; read go; kill -9 $client; wait; echo killed; read go; psql -X -c "SET TimeZone = 'Asia/Tokyo'" -c "$1"; echo finished`
	s := startAgent(t, w.agent("planner", "orders", "bash", "-c", script, "agent", statement))
	id := s.asked()
	fmt.Fprintln(s.in, "go")
	s.expect("killed")
	w.cli(t, "approve", id, "--reason", "harmless")
	fmt.Fprintln(s.in, "go")
	other := s.asked()
	if other == id {
		t.Error("the approval was used although a setting differs")
	}
	w.cli(t, "approve", other, "--reason", "harmless")
	s.expect("finished")
}
