package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// Accounts of Debian's that nobody uses, and whose homes are not there: the
// person who runs a coding agent, and the agent's own.
const (
	personName, personUID, personHome = "list", 38, "/var/list"
	strictName, strictUID             = "news", 9
	mounted                           = "/srv/postern-e2e" // by the configuration
	shared                            = "/srv/postern-e2e-shared"
)

// person is an ordinary user with a home, a secret in it, and a project.
type person struct {
	t             *testing.T
	w             *world
	uid           int
	home, project string
}

// homeCanary is in the person's home and in nothing that a run may see.
const homeCanary = "canary-of-the-home-directory"

func newPerson(t *testing.T) *person {
	t.Helper()
	p := &person{t: t, w: theWorld, uid: personUID, home: personHome}
	p.project = filepath.Join(p.home, "project")
	for _, dir := range []string{mounted, shared, p.home, filepath.Join(p.home, ".ssh"), p.project} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { os.RemoveAll(p.home); os.RemoveAll(mounted); os.RemoveAll(shared) })
	if err := os.WriteFile(filepath.Join(mounted, "data"), []byte("some data\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.write(filepath.Join(p.home, ".ssh/id_ed25519"), homeCanary)
	if out, err := exec.Command("git", "init", "-q", p.project).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.write(filepath.Join(p.project, "notes.txt"), "a note\n")
	p.write(filepath.Join(p.project, ".envrc"), "echo hello\n")
	if out, err := exec.Command("chown", "-R", fmt.Sprintf("%d:%[1]d", p.uid), p.home, shared).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return p
}

func (p *person) write(path, text string) {
	p.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// run is `postern run` as the person, who is not root.
func (p *person) run(options []string, args ...string) *exec.Cmd {
	cmd := p.w.postern.CLI(append(append(append([]string{"run", "--agent", "coder"}, options...), "--"), args...)...)
	cmd.Dir = p.project
	cmd.Env = append([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=" + p.home}, p.w.env("orders")...)
	cmd.Env = append(cmd.Env, "PGSSLROOTCERT=/run/postern/root.pem")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(p.uid), Gid: uint32(p.uid)}, Setsid: true}
	return cmd
}

// sh runs a shell script in a workspace and returns what it says.
func (p *person) sh(script string) string {
	p.t.Helper()
	out, err := p.run([]string{"--tier", "workspace"}, "sh", "-c", script).CombinedOutput()
	if err != nil {
		p.t.Errorf("%s: %v: %s\n%s", script, err, out, tail(p.w.daemonLog()))
	}
	return strings.TrimSpace(string(out))
}

func tail(text string) string { return text[max(0, len(text)-2000):] }

// TestWorkspace: a person's agent works on the project, reaches the database by
// placeholder, and sees nothing else of the person's or the host's.
func TestWorkspace(t *testing.T) {
	p := newPerson(t)
	if got := p.sh("id -u; pwd; echo more >> notes.txt; cat notes.txt"); got != fmt.Sprintf("%d\n%s\na note\nmore", p.uid, p.project) {
		t.Errorf("the project: %q", got)
	}
	if b, err := os.ReadFile(filepath.Join(p.project, "notes.txt")); err != nil || string(b) != "a note\nmore\n" {
		t.Errorf("outside: %q, %v", b, err)
	}
	out := p.sh("psql -X -A -t -c \"SELECT 'reached', count(*) FROM orders\"")
	mustContain(t, out, "reached|")
	for name, script := range map[string]string{
		"home":          "cat " + p.home + "/.ssh/id_ed25519",
		"all of home":   "test -n \"$(ls -A " + p.home + " | grep -v '^project$')\"",
		"control":       "test -e " + filepath.Join(p.w.postern.Dir, "run/control.sock"),
		"postern's":     "test -n \"$(ls -A /run | grep -v postern)\"",
		"host loopback": fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d", p.w.pg.Port),
		"processes":     "test $(ls -d /proc/[0-9]* | wc -l) -gt 8",
		"hooks":         "echo x > .git/hooks/pre-commit",
		"git config":    "git config alias.x '!id'",
		"envrc":         "echo x >> .envrc",
		"namespaces":    "unshare -U true",
		"mount":         "mount -t tmpfs none /mnt",
		"system":        "touch /usr/x /etc/x",
		"other sockets": "find / -type s -not -path '/proc/*' 2>/dev/null | grep .",
		"cgroups":       "ls /sys/fs/cgroup/*",
	} {
		if out, err := p.run([]string{"--tier", "workspace"}, "bash", "-c", script).CombinedOutput(); err == nil {
			t.Errorf("%s: %s succeeded: %s", name, script, out)
		} else {
			mustNotContain(t, string(out), homeCanary)
		}
	}
	if out, err := p.run([]string{"--tier", "workspace", "--allow-hooks"}, "sh", "-c", "echo echo >> .envrc").CombinedOutput(); err != nil {
		t.Errorf("--allow-hooks: %s", out)
	}
	if got := p.sh("ip -o addr 2>/dev/null | grep -vc ' lo ' || true"); got != "0" {
		t.Errorf("there is more than lo: %s", got)
	}
	if got := p.sh("git -C . -c user.name=a -c user.email=a@b commit -q --allow-empty -m one && git log --oneline | wc -l"); got != "1" {
		t.Errorf("a commit: %s", got)
	}
}

// TestWorkspaceSockets: what a process of the run may make.
func TestWorkspaceSockets(t *testing.T) {
	p := newPerson(t)
	got := p.sh(`python3 -c '
import socket, errno, fcntl, os
for f, k, n in [(40,1,0),(17,3,3),(38,5,0),(44,3,0),(2,3,1),(16,3,9),(16,3,0),(1,1,0)]:
    try: socket.socket(f, k, n); print(f, n, "made")
    except OSError as e: print(f, n, errno.errorcode[e.errno])
import ctypes
c = ctypes.CDLL(None, use_errno=True)
print("io_uring", c.syscall(425, 1, 0), errno.errorcode[ctypes.get_errno()])
'`)
	want := "40 0 EAFNOSUPPORT\n17 3 EAFNOSUPPORT\n38 0 EAFNOSUPPORT\n44 0 EAFNOSUPPORT\n2 1 EPERM\n16 9 EAFNOSUPPORT\n16 0 made\n1 0 made\nio_uring -1 ENOSYS"
	if got != want {
		t.Errorf("sockets:\n%s\nwant:\n%s", got, want)
	}
}

// TestWorkspaceLoopback: loopback inside is the run's own; the host reaches what
// is published, and no more.
func TestWorkspaceLoopback(t *testing.T) {
	p := newPerson(t)
	script := `python3 -m http.server 3000 --bind 127.0.0.1 >/dev/null 2>&1 & python3 -m http.server 3001 --bind 0.0.0.0 >/dev/null 2>&1 &
for i in $(seq 100); do curl -sf http://127.0.0.1:3000/notes.txt && curl -sf http://localhost:3001/notes.txt && break; sleep 0.1; done; echo serving; read x`
	s := startAgent(t, p.run([]string{"--tier", "workspace", "--publish", "3000"}, "bash", "-c", script))
	mustContain(t, s.expect("serving"), "a note")
	fetch := func(port int) string {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprint(conn, "GET /notes.txt HTTP/1.0\r\n\r\n")
		b := make([]byte, 4096)
		var all strings.Builder
		for {
			n, err := conn.Read(b)
			all.Write(b[:n])
			if err != nil {
				return all.String()
			}
		}
	}
	mustContain(t, fetch(3000), "a note")
	mustContain(t, fetch(3001), "connection refused")
	out, err := p.run([]string{"--tier", "workspace", "--publish", "3001"}, "true").CombinedOutput()
	if err == nil {
		t.Error("a port was published that the configuration does not list")
	}
	mustContain(t, string(out), "agents.publish")
	s.stop()
	eventually(t, func() error {
		if got := fetch(3000); !strings.Contains(got, "refused") {
			return fmt.Errorf("after the run: %s", got)
		}
		return nil
	})
}

// TestWorkspaceOfACodingAgent: what coding agents do besides editing works inside:
// a dev server with a browser test against it, a database of the tests' own, a
// package manager that is told no in words.
func TestWorkspaceOfACodingAgent(t *testing.T) {
	p := newPerson(t)
	p.write(filepath.Join(p.project, "index.html"), "<body><script>document.body.append('made by ' + 'script')</script></body>")
	os.Chown(filepath.Join(p.project, "index.html"), p.uid, p.uid)
	out := p.sh(`python3 -m http.server 8000 >/dev/null 2>&1 &
for i in $(seq 100); do curl -sf http://localhost:8000/ >/dev/null && break; sleep 0.1; done
for i in 1 2 3; do # on a busy machine its start may take longer than it waits
dom=$(timeout 60 chromium --headless --no-sandbox --disable-gpu --disable-background-networking --virtual-time-budget=10000 --dump-dom http://localhost:8000/ 2>/dev/null)
case $dom in *'made by script'*) break ;; esac
done; echo "$dom"`)
	mustContain(t, out, "made by script")
	out = p.sh(`bin=/usr/lib/postgresql/15/bin; cd /tmp
$bin/initdb -D /tmp/db -A trust -U tester >/dev/null 2>&1
$bin/pg_ctl -D /tmp/db -w -o "-p 5555 -k /tmp" start >/dev/null
PGSSLMODE=disable psql -h 127.0.0.1 -p 5555 -U tester -d postgres -A -t -c "SELECT 'my own ' || 'database'"
PGSSLMODE=disable psql -h /tmp -p 5555 -U tester -d postgres -A -t -c "SELECT 'by its ' || 'socket'"
$bin/pg_ctl -D /tmp/db -m immediate stop >/dev/null`)
	mustContain(t, out, "my own database", "by its socket")
	for _, c := range []struct{ script, want string }{
		{"git ls-remote https://github.com/postern/postern", "Could not resolve host: github.com"},
		{"curl -sS https://198.51.100.7/", "198.51.100.7"},
		{"python3 -c 'import urllib.request as u; u.urlopen(\"https://pypi.org/simple\")'", "Name or service not known"},
	} {
		out, err := p.run([]string{"--tier", "workspace"}, "bash", "-c", c.script).CombinedOutput()
		if err == nil {
			t.Errorf("%s: %s", c.script, out)
		}
		mustContain(t, string(out), c.want)
	}
}

// TestWorkspaceOnATerminal: a terminal of the run's own, into which nobody types
// but the person.
func TestWorkspaceOnATerminal(t *testing.T) {
	p := newPerson(t)
	cmd := p.run(nil, "bash", "--norc")
	person, err := pty.StartWithAttrs(cmd, &pty.Winsize{Rows: 33, Cols: 99}, &syscall.SysProcAttr{
		Credential: cmd.SysProcAttr.Credential, Setsid: true, Setctty: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer person.Close()
	screen := &session{t: t, end: person, out: bufio.NewReader(person)}
	fmt.Fprintln(person, "stty size; test -t 0 && echo is-a-$((40+2))-terminal; ps -o tty= -p $$ | wc -w; pwd")
	mustContain(t, screen.expect(p.project+"\r"), "33 99", "is-a-42-terminal")
	fmt.Fprintln(person, `python3 -c 'import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b"x")'; echo over-$((1+1))`)
	mustContain(t, screen.expect("over-2"), "Operation not permitted")
	fmt.Fprint(person, "sleep 100\n")
	time.Sleep(300 * time.Millisecond)
	fmt.Fprint(person, "\x03") // Ctrl-C reaches the job, not postern
	fmt.Fprintln(person, "echo still-$((2+1)); exit 7")
	screen.expect("still-3")
	cmd.Wait() //nolint:errcheck // its status is looked at
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("exit status %d, want 7", code)
	}
}

// TestStrict: the agent's own user, with what the configuration mounts.
func TestStrict(t *testing.T) {
	p := newPerson(t)
	out, err := p.run([]string{"--tier", "strict"}, "bash", "-c",
		"id -u; touch ~/x && echo home; cat "+mounted+"/data; touch "+mounted+"/x || echo read-only; ls "+p.project+" || echo no-project; psql -X -A -t -c \"SELECT 'reached'\"").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	mustContain(t, string(out), strconv.Itoa(strictUID)+"\n", "home\n", "some data", "read-only\n", "no-project\n", "reached")
	s := startAgent(t, p.run([]string{"--tier", "strict"}, "sh", "-c", "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.1; done"))
	s.expect("ready")
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.expect("got it")
	s.cmd.Wait() //nolint:errcheck // its status is looked at
	if code := s.cmd.ProcessState.ExitCode(); code != 3 {
		t.Errorf("exit 3 became %d", code)
	}
	s.cmd = nil
	for want, options := range map[string][]string{
		"at least":                    {"--tier", "redirected"},
		"is no tier":                  {"--tier", "loose"},
		"agents.mounts":               {"--tier", "strict", "--bind", p.project},
		"is or holds the home":        {"--tier", "workspace", "--bind", p.home},
		"belongs to the system":       {"--tier", "workspace", "--bind", "/etc"},
		"permission denied":           {"--tier", "workspace", "--bind", "/root/secrets"},
		"only root may name the user": {"--tier", "workspace", "--user", "nobody"},
	} {
		out, err := p.run(options, "true").CombinedOutput()
		if err == nil {
			t.Errorf("%q: %s", options, out)
		}
		mustContain(t, strings.ToLower(string(out)), want)
	}
}

// TestRunsLeaveNoListeners: what a run had in its network namespace goes with it,
// so that the room for such namespaces does not run out.
func TestRunsLeaveNoListeners(t *testing.T) {
	p := newPerson(t)
	for i := range 70 {
		if out, err := p.run([]string{"--tier", "strict"}, "true").CombinedOutput(); err != nil {
			t.Fatalf("run %d: %v: %s", i, err, out)
		}
	}
}
