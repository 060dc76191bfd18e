package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/internal/identity"
)

// session is an agent's command that is told what to do line by line, or only
// listened to.
type session struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	end *os.File // of the pipe that it writes to
	out *bufio.Reader
	n   int
}

// patience is how long a session may take to say what is expected of it.
const patience = 30 * time.Second

func startAgent(t *testing.T, cmd *exec.Cmd) *session {
	t.Helper()
	s := &session{t: t, cmd: cmd}
	var err error
	if s.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, in, err := os.Pipe() // one pipe for both, so that errors come in their place
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = in, in
	s.end, s.out = out, bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	t.Cleanup(s.stop)
	return s
}

// psqlSession is psql, waiting for lines.
func (w *world) psqlSession(t *testing.T, agent, target string) *session {
	t.Helper()
	return startAgent(t, w.agent(agent, target, "psql", "-X", "-q", "-A", "-t"))
}

func (s *session) stop() {
	if s.cmd == nil {
		return
	}
	s.in.Close()
	s.cmd.Process.Kill()
	s.end.SetReadDeadline(time.Now().Add(patience))
	io.Copy(io.Discard, s.out)
	s.cmd.Wait()
	s.cmd = nil
}

// expect reads up to a line that holds text and returns what came.
func (s *session) expect(text string) string {
	s.t.Helper()
	var all strings.Builder
	s.end.SetReadDeadline(time.Now().Add(patience))
	for {
		line, err := s.out.ReadString('\n')
		all.WriteString(line)
		if strings.Contains(line, text) {
			return all.String()
		}
		if err != nil {
			s.t.Fatalf("no %q came: %v\n%s\n%s", text, err, all.String(), theWorld.daemonLog())
		}
	}
}

// send starts a statement.
func (s *session) send(line string) {
	s.t.Helper()
	s.n++
	if _, err := fmt.Fprintf(s.in, "%s\n\\echo done-%d\n", line, s.n); err != nil {
		s.t.Fatal(err)
	}
}

// answer is the rest of it.
func (s *session) answer() string {
	s.t.Helper()
	return s.expect(fmt.Sprintf("done-%d", s.n))
}

func (s *session) do(line string) string {
	s.t.Helper()
	s.send(line)
	return s.answer()
}

// asked waits for the notice of an approval and returns its id.
func (s *session) asked() string {
	s.t.Helper()
	_, id, _ := strings.Cut(s.expect("waiting for approval"), "waiting for approval ")
	id, _, _ = strings.Cut(id, "\n")
	return strings.TrimSpace(id)
}

// pids are the processes of an agent's runs.
func (w *world) pids(t *testing.T, agent string) []string {
	t.Helper()
	mount, err := identity.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(mount, w.postern.Root, agent, "run-*", "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil {
			pids = append(pids, strings.Fields(string(b))...)
		}
	}
	if len(pids) == 0 {
		t.Fatalf("no process of agent %s was found", agent)
	}
	return pids
}

// cli runs the command line and fails the test when it fails.
func (w *world) cli(t *testing.T, args ...string) string {
	t.Helper()
	out, err := w.postern.CLI(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("postern %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
