package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/postern/postern/test/servers"
)

// sh runs a shell script as an agent.
func (w *world) sh(t *testing.T, script string) string {
	t.Helper()
	out, err := w.agent("planner", "orders", "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// TestRunHasNoPrivileges: not root, no capability to gain, nothing to gain them
// by, and inside the agent's cgroup.
func TestRunHasNoPrivileges(t *testing.T) {
	w := theWorld
	status := w.sh(t, "cat /proc/self/status /proc/self/cgroup; id -u")
	for _, field := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		mustContain(t, status, field+":\t0000000000000000")
	}
	mustContain(t, status, "NoNewPrivs:\t1", w.postern.Root+"/planner/run-", "\n65534\n")
}

// TestRunClosesOtherDescriptors: what the caller had open besides its standard
// three does not come along.
func TestRunClosesOtherDescriptors(t *testing.T) {
	w := theWorld
	cmd := w.agent("planner", "orders", "ls", "-l", "/proc/self/fd")
	extra, err := os.Open("/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	cmd.ExtraFiles = []*os.File{extra}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatal(err, string(out))
	}
	if n := strings.Count(string(out), "->"); n != 4 { // three, and the folder that ls reads
		t.Errorf("the run has %d descriptors:\n%s", n, out)
	}
}

// TestRunRefusesNetworkStdio: a socket that was connected outside would be a
// way out.
func TestRunRefusesNetworkStdio(t *testing.T) {
	refusesNetworkStdio(t, theWorld.agent("planner", "orders", "true"))
}

// refusesNetworkStdio gives a command a network socket as standard input.
func refusesNetworkStdio(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), "socket")
	defer socket.Close()
	cmd.Stdin = socket
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Error("it was taken")
	}
	mustContain(t, string(out), "may not be network sockets")
}

// TestRunTrustsTheGateway: bundles and trust.files hold the host's authority,
// inside the run and nowhere else.
func TestRunTrustsTheGateway(t *testing.T) {
	w := theWorld
	root, err := os.ReadFile(filepath.Join(w.postern.State, "trust", "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/etc/ssl/certs/ca-certificates.crt", w.corpCA} {
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
		if inside := w.sh(t, "cat "+path); !strings.Contains(inside, string(root)) {
			t.Errorf("%s of the run lacks the host's authority", path)
		}
		if outside, err := os.ReadFile(path); err != nil || strings.Contains(string(outside), string(root)) {
			t.Errorf("%s of the host has the host's authority: %v", path, err)
		}
	}
	out := w.sh(t, `cat "$SSL_CERT_FILE" "$NODE_EXTRA_CA_CERTS"; cat /etc/nsswitch.conf /etc/hosts; ls /run/postern; touch /run/postern/x 2>&1`+" || true")
	mustContain(t, out, string(root), "hosts: files dns", "bundle.pem")
	mustContain(t, out, "Read-only file system")
	mustNotContain(t, out, ".sock", "PRIVATE KEY")
}

// TestRunPassesExitAndSignals: its status is that of the command, and what is
// sent to `postern run` reaches the command.
func TestRunPassesExitAndSignals(t *testing.T) {
	w := theWorld
	err := w.agent("planner", "orders", "sh", "-c", "exit 7").Run()
	if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != 7 {
		t.Errorf("exit 7 became %v", err)
	}
	s := startAgent(t, w.agent("planner", "orders", "sh", "-c", "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.1; done"))
	s.expect("ready")
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.expect("got it")
	err = s.cmd.Wait()
	s.cmd = nil
	if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != 3 {
		t.Errorf("exit 3 became %v", err)
	}
}

// TestRunEndsWithItsClient: when `postern run` is killed, nothing of the run is
// left, children in the background included.
func TestRunEndsWithItsClient(t *testing.T) {
	w := theWorld
	s := startAgent(t, w.agent("planner", "orders", "sh", "-c", "setsid sleep 1000 & echo ready; sleep 1000"))
	s.expect("ready")
	cgroup := filepath.Join("/proc", w.pids(t, "planner")[0], "cgroup")
	text, err := os.ReadFile(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Process.Kill()
	s.out.ReadString('\x00') // to the end: the last of the run has let go of the pipe
	if still, err := os.ReadFile(cgroup); err == nil && string(still) == string(text) && !strings.Contains(string(still), "(deleted)") {
		state, _ := os.ReadFile(strings.Replace(cgroup, "/cgroup", "/status", 1))
		if !strings.Contains(string(state), "Z (zombie)") {
			t.Errorf("a process of the run is left in %s", still)
		}
	}
}

// TestRunRefuses: who may run what is in the configuration.
func TestRunRefuses(t *testing.T) {
	w := theWorld
	cli := filepath.Join(w.dir, "bin", "postern")
	for _, c := range []struct {
		uid  uint32
		args []string
		want string
	}{
		{0, []string{"--agent", "planner", "--", "true"}, "does not run as root"},
		{0, []string{"--agent", "planner", "--user", "root", "--", "true"}, "does not run as root"},
		{0, []string{"--agent", "nosuch", "--user", "nobody", "--", "true"}, `there is no agent "nosuch"`},
		{0, []string{"--agent", "planner", "--user", "nobody", "--", "no-such-command"}, "executable file not found"},
		{65534, []string{"--agent", "planner", "--", "true"}, "may not run agent"},
		{65534, []string{"--agent", "planner", "--user", "nobody", "--", "true"}, "may not run agent"},
	} {
		cmd := exec.Command(cli, append([]string{"--config", w.postern.ConfigFile, "run"}, c.args...)...)
		cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/bin"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid}}
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("%v as uid %d was launched", c.args, c.uid)
		}
		mustContain(t, string(out), c.want)
	}
	// From inside a run the guard answers nothing, whoever asks.
	out, err := w.postern.Run("planner", cli, "--config", w.postern.ConfigFile, "run", "--agent", "planner", "--", "true").CombinedOutput()
	if err == nil {
		t.Errorf("a run launched another: %s", out)
	}
}

// TestWorkersHaveNoCapabilities: the daemon has CAP_BPF, and the worker that
// reads the agents' statements has nothing of it.
func TestWorkersHaveNoCapabilities(t *testing.T) {
	w := theWorld
	if out, err := w.psql("planner", "orders", "SELECT 1"); err != nil {
		t.Fatal(out)
	}
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	workers := 0
	for _, f := range all {
		command, err := os.ReadFile(f)
		if err != nil || !strings.HasPrefix(string(command), filepath.Join(w.dir, "bin", "postern-sqlparse")) {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(f), "status"))
		if err != nil {
			continue
		}
		workers++
		for _, field := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
			mustContain(t, string(status), field+":\t0000000000000000")
		}
		mustContain(t, string(status), "NoNewPrivs:\t1")
	}
	if workers < 2 {
		t.Errorf("%d workers were found", workers)
	}
	daemon, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.postern.DaemonPID()))
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, string(daemon), "CapEff:\t0000008000000000")
}

// TestDaemonCannotBeRead: not by an agent, and not by the daemon's own user.
func TestDaemonCannotBeRead(t *testing.T) {
	w := theWorld
	mem := fmt.Sprintf("/proc/%d/mem", w.postern.DaemonPID())
	out, err := w.agent("planner", "orders", "head", "-c", "1", mem).CombinedOutput()
	if err == nil {
		t.Errorf("an agent opened %s", mem)
	}
	mustContain(t, string(out), "Permission denied")
	same := exec.Command("head", "-c", "1", mem)
	same.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: servers.DaemonUID, Gid: servers.DaemonUID}}
	out, err = same.CombinedOutput()
	if err == nil {
		t.Errorf("the daemon's own user opened %s", mem)
	}
	mustContain(t, string(out), "Permission denied")
}

// TestGuardKilled: what runs goes on and is held as before; nothing new can be
// launched until the guard is back.
func TestGuardKilled(t *testing.T) {
	w := theWorld
	s := w.psqlSession(t, "planner", "orders")
	mustContain(t, s.do("SELECT 'before';"), "before")
	w.postern.StopGuard(syscall.SIGKILL)
	mustContain(t, s.do("SELECT 'same session';"), "same session")
	mustContain(t, s.do("\\c\nSELECT 'another one';"), "another one")
	out, err := w.psql("planner", "orders", "SELECT 1")
	if err == nil {
		t.Errorf("launched without a guard: %s", out)
	}
	mustContain(t, out, "postern-guard is not running")
	mustContain(t, w.cli(t, "status"), "FAIL  guard")
	if err := w.postern.StartGuard(); err != nil {
		t.Fatal(err)
	}
	if out, err := w.psql("planner", "orders", "SELECT 1"); err != nil {
		t.Errorf("after the guard came back: %v: %s", err, out)
	}
}
