package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postern/postern/test/servers"
)

// TestGuardIsReplaced has the guard become another program, as an upgrade does,
// while runs of each kind go on: none of them notices.
func TestGuardIsReplaced(t *testing.T) {
	w, p := theWorld, newPerson(t)
	sql := w.psqlSession(t, "planner", "orders")
	mustContain(t, sql.do("SELECT 'before';"), "before")
	box := startAgent(t, p.run([]string{"--tier", "workspace", "--publish", "3000"}, "python3", "-u", "-c", echoServer))
	box.expect("serving")
	kept := dialPublished(t)
	mustContain(t, kept.asks("before"), "BEFORE")
	half := dialPublished(t)
	fmt.Fprintln(half, "finished")
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	trap := startAgent(t, w.agent("planner", "orders", "sh", "-c", "trap 'echo was told; exit 7' USR1; echo ready; while :; do sleep 0.1; done"))
	trap.expect("ready")
	early := w.agent("planner", "orders", "sh", "-c", "sleep 0.3; exit 9") // ends about when the guard is replaced
	if err := early.Start(); err != nil {
		t.Fatal(err)
	}
	launched := launchMeanwhile(w)
	for range 3 {
		time.Sleep(200 * time.Millisecond)
		w.replaceGuard(t)
		// What the daemon has to say something of, before it has seen the new guard.
		if out, err := w.as("planner", []string{"--allow", "orders:select"}, "SELECT 'narrowed'"); err != nil || !strings.Contains(out, "narrowed") {
			t.Errorf("a run that was announced: %v: %s", err, out)
		}
	}
	if err := launched(); err != nil {
		t.Errorf("launched while the guard was replaced: %v", err)
	}

	mustContain(t, sql.do("SELECT 'same session';"), "same session")
	mustContain(t, sql.do("\\c\nSELECT 'another one';"), "another one")
	mustContain(t, kept.asks("after"), "AFTER")
	mustContain(t, dialPublished(t).asks("anew"), "ANEW")
	fmt.Fprintln(box.in, "go on")
	if rest, err := io.ReadAll(half); string(rest) != "FINISHED\n" {
		t.Errorf("a connection that was closed to one side: %q, %v", rest, err)
	}
	if err := trap.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	trap.expect("was told")
	mustExit(t, trap.cmd, 7)
	mustExit(t, early, 9)
	box.stop()
	eventually(t, func() error { // what it had in the person's folder, its cgroup and its port are gone
		left, _ := os.ReadDir(p.project)
		if len(left) != 3 { // .git, .envrc, notes.txt
			return fmt.Errorf("%d are left", len(left))
		}
		if c, err := net.Dial("tcp", published); err == nil {
			c.Close()
			return errors.New("the port is still published")
		}
		return nil
	})
}

// echoServer says what it is told in capitals, and that the other side has ended
// only when it is told to go on.
const echoServer = `
import socket, sys, threading
go = threading.Event()
def serve(c):
    f = c.makefile("rw")
    lines = []
    for line in f:
        if line.startswith("finished"):
            lines.append(line)
            continue
        f.write(line.upper()); f.flush()
    if lines:
        go.wait(); f.write("".join(lines).upper()); f.flush()
    f.close(); c.close()
l = socket.create_server(("127.0.0.1", 3000))
def accept():
    while True:
        threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
print("serving")
sys.stdin.readline()
go.set()
sys.stdin.read()
`

const published = "127.0.0.1:3000"

// caller is a connection to the published port.
type caller struct {
	*net.TCPConn
	lines *bufio.Reader
}

func dialPublished(t *testing.T) *caller {
	t.Helper()
	conn, err := net.Dial("tcp", published)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(2 * patience)) //nolint:errcheck // it is open
	return &caller{conn.(*net.TCPConn), bufio.NewReader(conn)}
}

func (c *caller) asks(line string) string {
	fmt.Fprintln(c, line)
	answer, err := c.lines.ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return answer
}

// launchMeanwhile launches runs one after the other, twice at a time, until it is
// called back; all of them are to do what they are for.
func launchMeanwhile(w *world) (enough func() error) {
	var mu sync.Mutex
	var errs []error
	over, n := false, 0
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			for {
				mu.Lock()
				if over {
					mu.Unlock()
					return
				}
				n++
				mu.Unlock()
				out, err := w.agent("planner", "orders", "sh", "-c", "echo here; exit 3").CombinedOutput()
				var failed *exec.ExitError
				if !errors.As(err, &failed) || failed.ExitCode() != 3 || !strings.Contains(string(out), "here") {
					mu.Lock()
					errs = append(errs, fmt.Errorf("%w: %s", err, out))
					mu.Unlock()
				}
			}
		})
	}
	return func() error {
		mu.Lock()
		over = true
		mu.Unlock()
		running.Wait()
		if n < 4 {
			errs = append(errs, fmt.Errorf("only %d runs were launched", n))
		}
		return errors.Join(errs...)
	}
}

func mustExit(t *testing.T, cmd *exec.Cmd, want int) {
	t.Helper()
	cmd.Wait() //nolint:errcheck // its status is looked at
	if code := cmd.ProcessState.ExitCode(); code != want {
		t.Errorf("%v: exit status %d, want %d", cmd.Args, code, want)
	}
}

// replaceGuard puts another program in the guard's place and has it take over.
func (w *world) replaceGuard(t *testing.T) {
	t.Helper()
	program := filepath.Join(w.postern.Build, "postern-guard")
	if err := errors.Join(servers.CopyFile(program, program+".new", 0o755), os.Rename(program+".new", program)); err != nil {
		t.Fatal(err)
	}
	if out, err := w.postern.GuardCommand("reload").CombinedOutput(); err != nil {
		t.Fatalf("reload: %v: %s", err, out)
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", w.postern.GuardPID()))
	if err != nil || link != program {
		t.Errorf("the guard executes %s, %v", link, err)
	}
}

// TestGuardIsNotReplaced: a program or a configuration that would not serve leaves
// the guard what it is, and says why.
func TestGuardIsNotReplaced(t *testing.T) {
	w := theWorld
	s := w.psqlSession(t, "planner", "orders")
	program := filepath.Join(w.postern.Build, "postern-guard")
	if err := os.Rename(program, program+".good"); err != nil {
		t.Fatal(err)
	}
	err := os.WriteFile(program, []byte("#!/bin/sh\necho not today\nexit 1\n"), 0o755)
	reload := w.postern.GuardCommand("reload")
	reload.Path = program + ".good"
	out, failed := reload.CombinedOutput()
	if err := errors.Join(err, os.Rename(program+".good", program)); err != nil {
		t.Fatal(err)
	}
	if failed == nil {
		t.Error("a program that refuses took over")
	}
	mustContain(t, string(out), "the guard stays what it is", "not today")
	if out, err := w.psql("planner", "orders", "SELECT 1"); err != nil {
		t.Errorf("after a refusal: %v: %s", err, out)
	}
	mustContain(t, s.do("SELECT 'same session';"), "same session")
	out, err = w.postern.GuardCommand("serve", "--rehearse", "99").CombinedOutput()
	if err == nil {
		t.Error("it would serve after a guard of another time")
	}
	mustContain(t, string(out), "a handover of version 99 is not understood")
	notRoot := w.postern.GuardCommand("reload")
	notRoot.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: servers.DaemonUID, Gid: servers.DaemonUID}}
	if out, err := notRoot.CombinedOutput(); err == nil {
		t.Errorf("the daemon's user replaced the guard: %s", out)
	}
}
