package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern/postern/internal/identity"
)

// inTiers runs a test for runs of a person's in each tier that has a sandbox.
// What holds in the tier redirected is in run_test.go.
func inTiers(t *testing.T, f func(t *testing.T, run func(args ...string) *exec.Cmd)) {
	p := newPerson(t)
	for _, tier := range []string{"workspace", "strict"} {
		t.Run(tier, func(t *testing.T) {
			f(t, func(args ...string) *exec.Cmd { return p.run([]string{"--tier", tier}, args...) })
		})
	}
}

// TestSandboxHasNoPrivileges: no capability, none to gain, the filter in force,
// and the agent's cgroup; nothing else open than the three.
func TestSandboxHasNoPrivileges(t *testing.T) {
	inTiers(t, func(t *testing.T, run func(...string) *exec.Cmd) {
		cmd := run("sh", "-c", "cat /proc/self/status /proc/self/cgroup; ls -l /proc/self/fd")
		extra, err := os.Open("/etc/hostname")
		if err != nil {
			t.Fatal(err)
		}
		defer extra.Close()
		cmd.ExtraFiles = []*os.File{extra}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, field := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			mustContain(t, string(out), field+":\t0000000000000000")
		}
		mustContain(t, string(out), "NoNewPrivs:\t1", "Seccomp:\t2", theWorld.postern.Root+"/coder/run-")
		if n := strings.Count(string(out), "->"); n != 4 { // three, and the folder that ls reads
			t.Errorf("the run has %d descriptors:\n%s", n, out)
		}
	})
}

// TestSandboxPassesExit: as shells have it, whatever ends the command.
func TestSandboxPassesExit(t *testing.T) {
	inTiers(t, func(t *testing.T, run func(...string) *exec.Cmd) {
		for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -KILL $$": 137, "kill -TERM $$": 143, "sleep 1000 & exit 5": 5} {
			err := run("sh", "-c", script).Run()
			code := 0
			var failed *exec.ExitError
			if errors.As(err, &failed) {
				code = failed.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if code != want {
				t.Errorf("%s: status %d, want %d", script, code, want)
			}
		}
		out, err := run("no-such-command").CombinedOutput()
		if err == nil {
			t.Error("it was run")
		}
		mustContain(t, string(out), "no-such-command", "executable file not found")
	})
}

// TestSandboxEndsWithItsClient: nothing is left, children in the background
// included, nor after a command that has left some behind.
func TestSandboxEndsWithItsClient(t *testing.T) {
	inTiers(t, func(t *testing.T, run func(...string) *exec.Cmd) {
		s := startAgent(t, run("sh", "-c", "setsid sleep 1000 & echo ready; sleep 1000"))
		s.expect("ready")
		if len(theWorld.pids(t, "coder")) < 3 {
			t.Error("the run's processes were not found: nothing is tested")
		}
		s.cmd.Process.Kill()
		mount, err := identity.CgroupMount()
		if err != nil {
			t.Fatal(err)
		}
		noneLeft := func() error {
			left, err := filepath.Glob(filepath.Join(mount, theWorld.postern.Root, "coder", "run-*"))
			if err == nil && len(left) > 0 {
				err = fmt.Errorf("%q are left", left)
			}
			return err
		}
		eventually(t, noneLeft)
		if out, err := run("sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & true").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		eventually(t, noneLeft)
	})
}

// TestSandboxTrustsTheGateway: bundles hold the host's authority, names are asked
// of the gateway, and /etc/postern is empty.
func TestSandboxTrustsTheGateway(t *testing.T) {
	root, err := os.ReadFile(filepath.Join(theWorld.postern.State, "trust", "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	inTiers(t, func(t *testing.T, run func(...string) *exec.Cmd) {
		out, err := run("sh", "-c", "cat /etc/ssl/certs/ca-certificates.crt "+theWorld.corpCA+" \"$SSL_CERT_FILE\" \"$NODE_EXTRA_CA_CERTS\"; cat /etc/nsswitch.conf /etc/resolv.conf; ls -A /etc/postern 2>&1; touch /run/postern/x 2>&1 || true").CombinedOutput()
		if err != nil {
			t.Errorf("%v", err)
		}
		if n := strings.Count(string(out), string(root)); n != 4 {
			t.Errorf("the host's authority is in %d of 4 files", n)
		}
		mustContain(t, string(out), "hosts: files dns", "nameserver 127.0.0.1")
		mustNotContain(t, string(out), "PRIVATE KEY", "postern.yaml")
	})
}

// TestSandboxRefusesNetworkStdio: a socket from outside would be a way out.
func TestSandboxRefusesNetworkStdio(t *testing.T) {
	inTiers(t, func(t *testing.T, run func(...string) *exec.Cmd) {
		refusesNetworkStdio(t, run("true"))
	})
}

// TestRunsAreApart: two runs with one uid see neither each other's processes nor
// their abstract sockets, and cannot trace each other.
func TestRunsAreApart(t *testing.T) {
	inTiers(t, func(t *testing.T, run func(...string) *exec.Cmd) {
		s := startAgent(t, run("python3", "-c", `
import socket
s = socket.socket(socket.AF_UNIX); s.bind("\0postern-test"); s.listen()
print("ready", flush=True); s.accept()`))
		s.expect("ready")
		pid := ""
		for _, p := range theWorld.pids(t, "coder") {
			if line, err := os.ReadFile("/proc/" + p + "/cmdline"); err == nil && strings.HasPrefix(string(line), "python3") {
				pid = p
			}
		}
		if pid == "" {
			t.Fatal("the first run's process was not found")
		}
		out, err := run("python3", "-c", `
import ctypes, errno, os, socket
def attempt(name, f):
    try: f(); print(name, "OPEN")
    except OSError as e: print(name, errno.errorcode[e.errno])
def connect(): socket.socket(socket.AF_UNIX).connect("\0postern-test")
def trace():
    c = ctypes.CDLL(None, use_errno=True)
    if c.ptrace(16, `+pid+`, 0, 0) != 0: raise OSError(ctypes.get_errno(), "")
attempt("abstract", connect)
attempt("trace", trace)
attempt("memory", lambda: open("/proc/`+pid+`/mem"))
attempt("signal", lambda: os.kill(`+pid+`, 0))
print([p for p in os.listdir("/proc") if p.isdigit()])`).CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		mustContain(t, string(out), "abstract ECONNREFUSED", "trace ESRCH", "memory ENOENT", "signal ESRCH", "['1', '2']")
	})
}
