// Package quickstart runs the commands of docs/quickstart.md and of the README's
// first section as they stand there, in a root of its own: an overlay over this
// host's, with a real PostgreSQL and the programs of build/ (make build). There is
// no systemd in it and no package manager: scripts stand for systemctl, apt and
// sudo, and put the same files into place and start the same programs.
package quickstart

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/test/servers"
)

const password = "canary-quick-9c1f-horse"

const schema = `
SET password_encryption = 'scram-sha-256';
CREATE ROLE orders_rw LOGIN PASSWORD '` + password + `';
CREATE DATABASE shop OWNER orders_rw;
\c shop
SET ROLE orders_rw;
CREATE TABLE customers (id int PRIMARY KEY, name text, email text);
INSERT INTO customers VALUES (1, 'Ada', 'ada@example.org');
`

// address is the database's, which its name resolves to.
const address = "10.77.0.5"

var here *root

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "the quick start needs root: sudo make test")
		os.Exit(1)
	}
	os.Exit(servers.In(newRoot, func(r *root) int { here = r; return m.Run() }))
}

// root is where the commands run.
type root struct {
	dir string // a tmpfs, with the user's files
	pg  *servers.Postgres
}

func newRoot() (*root, error) {
	r := &root{}
	build, err := filepath.Abs("../../../build")
	if err != nil {
		return r, err
	}
	units, err := filepath.Abs("../../../packaging/systemd")
	if err != nil {
		return r, err
	}
	dir, err := os.MkdirTemp("", "postern-quickstart-")
	if err != nil {
		return r, err
	}
	r.dir = dir
	if err := r.mounts(); err != nil {
		return r, fmt.Errorf("a root of its own: %w", err)
	}
	for _, args := range [][]string{{"link", "set", "lo", "up"}, {"addr", "add", address + "/32", "dev", "lo"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return r, fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	r.pg, err = servers.StartPostgres(servers.PostgresOptions{
		Dir: filepath.Join(dir, "pg"), Host: "orders-db.internal", Password: "admin-" + password, Init: schema,
	})
	if err != nil {
		return r, err
	}
	if err := forward(address+":5432", fmt.Sprintf("127.0.0.1:%d", r.pg.Port)); err != nil {
		return r, err
	}
	home := filepath.Join(dir, "home")
	if err := errors.Join(
		os.MkdirAll(home, 0o755),
		os.WriteFile(filepath.Join(home, "password.txt"), []byte(password+"\n"), 0o600),
		servers.CopyFile(r.pg.CA, filepath.Join(home, "corp-ca.pem"), 0o644),
		os.WriteFile(filepath.Join(home, "postern_1_amd64.deb"), nil, 0o644),
		appendTo("/etc/hosts", address+" orders-db.internal\n"),
	); err != nil {
		return r, err
	}
	for name, text := range standIns(build, units) {
		if err := os.WriteFile(filepath.Join("/usr/local/bin", name), []byte("#!/bin/sh\nset -e\n"+text), 0o755); err != nil {
			return r, err
		}
	}
	return r, nil
}

// mounts puts layers over what the commands change, and a cgroup tree and pins of
// its own where the defaults are.
func (r *root) mounts() error {
	if err := unix.Mount("tmpfs", r.dir, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	for _, over := range []string{"/usr", "/etc", "/var/lib"} {
		upper, work := filepath.Join(r.dir, "upper"+over), filepath.Join(r.dir, "work"+over)
		if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
			return err
		}
		if err := unix.Mount("overlay", over, "overlay", 0, "lowerdir="+over+",upperdir="+upper+",workdir="+work); err != nil {
			return fmt.Errorf("%s: %w", over, err)
		}
	}
	// An installation of the host's own does not count, and stays as it is below.
	if err := errors.Join(os.RemoveAll("/etc/postern"), os.RemoveAll("/var/lib/postern")); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	if err := unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=0700"); err != nil {
		return err
	}
	return os.MkdirAll("/run/systemd/system", 0o755)
}

// forward takes connections to where the database's name leads on to where it is,
// for as long as the test runs.
func forward(from, to string) error {
	l, err := net.Listen("tcp", from)
	if err != nil {
		return err
	}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer near.Close()
				far, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer far.Close()
				go func() { io.Copy(far, near); far.Close() }()
				io.Copy(near, far)
			}()
		}
	}()
	return nil
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// standIns are what this root lacks.
func standIns(build, units string) map[string]string {
	install := fmt.Sprintf(`
[ -f "$2" ]
install -m 755 %[1]s/postern /usr/bin/
install -m 755 %[1]s/posternd %[1]s/postern-guard /usr/sbin/
install -D -m 755 %[1]s/postern-sqlparse /usr/libexec/postern/postern-sqlparse
mkdir -p /usr/lib/systemd/system /etc/postern
install -m 644 %[2]s/*.service %[2]s/*.slice /usr/lib/systemd/system/
id postern >/dev/null 2>&1 || useradd --system --home-dir /var/lib/postern --shell /usr/sbin/nologin postern
id alice >/dev/null 2>&1 || useradd --create-home --home-dir /var/lib/alice alice
install -d -m 700 -o postern -g postern /var/lib/postern
install -d -o postern -g postern /run/postern
[ -e /etc/postern/postern.yaml ] || install -m 644 %[2]s/../postern.yaml /etc/postern/
if [ ! -e /etc/postern/identity.txt ]; then
	posternd --new-identity /etc/postern/identity.txt
	chown postern:postern /etc/postern/identity.txt
fi
systemctl start postern-attach.service
systemctl start postern-guard.service
systemctl restart posternd.service
`, build, units)
	return map[string]string{
		"apt":  install,
		"sudo": "[ \"$1\" != -E ] || shift\nexport SUDO_UID=$(id -u alice 2>/dev/null) SUDO_USER=alice\nexec \"$@\"\n",
		"systemctl": `
verb=$1; shift
begin() { # NAME COMMAND...: until it answers
	name=$1; shift
	if [ -f /run/$name.pid ]; then
		kill $(cat /run/$name.pid) 2>/dev/null || true
		while kill -0 $(cat /run/$name.pid) 2>/dev/null; do sleep .1; done
	fi
	setsid "$@" >>/run/$name.log 2>&1 </dev/null & echo $! >/run/$name.pid
}
for unit; do
	case "$verb $unit" in
	"cat "*) test -f /usr/lib/systemd/system/$unit ;;
	"start postern-attach.service") postern-guard attach ;;
	"start postern-guard.service") [ ! -S /run/postern/guard.sock ] || continue
		begin guard postern-guard serve
		i=0; until [ -S /run/postern/guard.sock ] || [ $i -gt 100 ]; do sleep .1; i=$((i+1)); done ;;
	"restart posternd.service")
		begin daemon setpriv --reuid postern --regid postern --clear-groups --inh-caps +bpf --ambient-caps +bpf posternd
		i=0; until postern status >/dev/null 2>&1 || [ $i -gt 100 ]; do sleep .1; i=$((i+1)); done ;;
	esac
done
`,
	}
}

// Close ends what the commands started, and removes the policy root.
func (r *root) Close() error {
	for _, name := range []string{"daemon", "guard"} {
		var pid int
		if text, err := os.ReadFile("/run/" + name + ".pid"); err == nil {
			fmt.Sscan(string(text), &pid)
			syscall.Kill(pid, syscall.SIGTERM)
		}
	}
	if r.pg != nil {
		r.pg.Stop()
	}
	defer os.Remove(r.dir)
	defer unix.Unmount(r.dir, unix.MNT_DETACH)
	if _, err := os.Stat("/etc/postern/postern.yaml"); errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was attached
	}
	out, err := exec.Command("postern-guard", "detach").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	if mount, e := identity.CgroupMount(); e == nil {
		servers.RemoveCgroups(filepath.Join(mount, "agents.slice"))
	}
	return err
}

var fences = regexp.MustCompile("(?s)\n```sh\n(.*?)```")

// commands are those of a document, in order.
func commands(t *testing.T, document, section string) []string {
	t.Helper()
	text, err := os.ReadFile("../../../" + document)
	if err != nil {
		t.Fatal(err)
	}
	part := string(text)
	if section != "" {
		var found bool
		if _, part, found = strings.Cut(part, "\n## "+section+"\n"); !found {
			t.Fatalf("%s has no section %s", document, section)
		}
		part, _, _ = strings.Cut(part, "\n## ")
	}
	var out []string
	for _, block := range fences.FindAllStringSubmatch("\n"+part, -1) {
		for line := range strings.SplitSeq(strings.ReplaceAll(block[1], "\\\n", " "), "\n") {
			if strings.TrimSpace(line) != "" {
				out = append(out, line)
			}
		}
	}
	return out
}

// shell runs commands in one shell, as a person would, and returns what they say.
func (r *root) shell(t *testing.T, lines []string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euxo", "pipefail", "-c", strings.Join(lines, "\n"))
	cmd.Dir = filepath.Join(r.dir, "home")
	cmd.Env = append(os.Environ(), "PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		logs, _ := os.ReadFile("/run/daemon.log")
		guard, _ := os.ReadFile("/run/guard.log")
		t.Fatalf("%v\n%s\n%s\n%s", err, out, guard, logs)
	}
	if strings.Contains(string(out), password) || strings.Contains(string(out), "ada@example.org") {
		t.Errorf("what is held back is shown:\n%s", out)
	}
	return string(out)
}

func contains(t *testing.T, out string, all ...string) {
	t.Helper()
	for _, want := range all {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
}

// TestReadme: from download to the first masked query in under ten lines.
func TestReadme(t *testing.T) {
	lines := commands(t, "README.md", "Quick start")
	if len(lines) == 0 || len(lines) >= 10 {
		t.Fatalf("%d commands: %q", len(lines), lines)
	}
	out := here.shell(t, lines)
	contains(t, out, "is closed by", "lets orders_rw in, by its real credential", "Ada", "redacted")
	// The quick start begins from nothing.
	if err := os.Remove("/etc/postern/postern.yaml"); err != nil {
		t.Fatal(err)
	}
}

func TestQuickstart(t *testing.T) {
	lines := commands(t, "docs/quickstart.md", "")
	if len(lines) < 8 {
		t.Fatalf("%q", lines)
	}
	out := here.shell(t, lines)
	contains(t, out, "lets orders_rw in, by its real credential", "Ada", "redacted", "nothing is enforced for 24h", "UPDATE 1", "enforced from now on: planner", "deny", "update")
	if n := strings.Count(out, "UPDATE 1"); n != 2 {
		t.Errorf("%d updates went through: what was learnt is not what is enforced\n%s", n, out)
	}
}

// TestWrongPassword: setup says that the database does not let it in, and ends
// with a status that a script notices.
func TestWrongPassword(t *testing.T) {
	here.shell(t, []string{"sudo apt install ./postern_*.deb"})
	cmd := exec.Command("/usr/bin/postern", "setup", "--force", "--host", "orders-db.internal:5432", "--upstream-user", "orders_rw",
		"--upstream-database", "shop", "--ca", filepath.Join(here.dir, "home", "corp-ca.pem"), "--secret-stdin")
	cmd.Stdin = strings.NewReader("wrong-" + password)
	cmd.Env = append(os.Environ(), "PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin")
	out, err := cmd.CombinedOutput()
	if err == nil || strings.Contains(string(out), password) {
		t.Errorf("%v\n%s", err, out)
	}
	contains(t, string(out), "is closed by", "FAIL  login: no login to orders-db", "password authentication failed")
}
