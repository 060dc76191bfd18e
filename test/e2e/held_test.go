package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// workspace is a shell in a workspace that is told what to do line by line.
func (p *person) workspace(options ...string) *session {
	p.t.Helper()
	return startAgent(p.t, p.run(append([]string{"--tier", "workspace"}, options...), "bash"))
}

// says runs a line in a shell and returns what it said.
func (s *session) says(line string) string {
	s.t.Helper()
	s.n++
	if _, err := fmt.Fprintf(s.in, "{ %s\n} 2>&1; echo \"status $?\"; echo done-%d\n", line, s.n); err != nil {
		s.t.Fatal(err)
	}
	return s.expect(fmt.Sprintf("done-%d", s.n))
}

// TestWorkspaceHolds: what people's own tools execute in a project can be
// neither written nor made, moved away nor exchanged, and git works; nothing of
// what holds it is left behind.
func TestWorkspaceHolds(t *testing.T) {
	p := newPerson(t)
	before := p.files()
	first, second := p.workspace(), p.workspace()
	attempts := []string{
		"echo x > .git/hooks/pre-commit", "rm -rf .git/hooks", "rmdir .git/hooks", "mv .git/hooks .git/h", "ln -sfn /tmp .git/hooks",
		"mv .git .git2", "echo '[core]' > .git/config", "rm -f .git/config", "mv notes.txt .git/config", "git config core.fsmonitor /tmp/x",
		"echo /tmp > .git/commondir", "rm -f .git/commondir", "echo x > .git/config.worktree",
		"echo x > .vscode/tasks.json", "rmdir .vscode", "mv .vscode v", "mkdir .vscode", "mkdir -p .idea/x", "echo x > .husky/pre-commit",
		"echo x >> .envrc", "rm -f .envrc", "mv notes.txt .envrc", "chmod 777 .git/hooks",
	}
	for _, a := range attempts {
		if out := first.says(a); strings.Contains(out, "status 0") {
			t.Errorf("%s: %s", a, out)
		}
	}
	mustContain(t, first.says("echo a > new; git add . && git -c user.name=a -c user.email=a@b commit -qm one && git switch -qc branch && git status --short && git log --oneline | wc -l"), "1\nstatus 0")
	// The end of one run leaves the other held.
	first.stop()
	for _, a := range attempts {
		if out := second.says(a); strings.Contains(out, "status 0") {
			t.Errorf("after another run has ended, %s: %s", a, out)
		}
	}
	second.stop()
	eventually(t, func() error {
		if after := p.files(); after != before+"new\n" {
			return fmt.Errorf("files before:\n%s\nafter:\n%s", before, after)
		}
		return nil
	})
	mustContain(t, p.sh("git status --short && git log --oneline && echo clean"), "one", "clean")
	// A folder that is no repository does not become one.
	empty := filepath.Join(p.home, "empty")
	if err := errors.Join(os.Mkdir(empty, 0o755), os.Chown(empty, p.uid, p.uid)); err != nil {
		t.Fatal(err)
	}
	out, err := p.run([]string{"--tier", "workspace", "--bind", empty}, "git", "init", empty).CombinedOutput()
	if err == nil {
		t.Errorf("a repository was made: %s", out)
	}
	if out, err := p.run([]string{"--tier", "workspace", "--allow-hooks", "--bind", empty}, "git", "init", empty).CombinedOutput(); err != nil {
		t.Errorf("--allow-hooks: %v: %s", err, out)
	}
}

// files lists the project, with what is in .git but for objects and the like.
func (p *person) files() string {
	p.t.Helper()
	out, err := exec.Command("sh", "-c", "cd "+p.project+" && { ls -A1; ls -d .git/hooks .git/config* .git/commondir; } 2>/dev/null | grep -v '^new$'; ls new 2>/dev/null").Output()
	if err != nil && len(out) == 0 {
		p.t.Fatal(err)
	}
	return string(out)
}

// TestBindExchangedForALink: a person who exchanges a folder for a link, again
// and again while the guard binds it as root, gets at nothing that is out of
// reach. Bubblewrap has the host's files at /oldroot while it mounts.
func TestBindExchangedForALink(t *testing.T) {
	p := newPerson(t)
	const canary = "canary-below-a-closed-folder"
	closed, err := os.MkdirTemp("/root", "postern-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(closed)
	open := filepath.Join(closed, "open")
	if err := errors.Join(os.Mkdir(open, 0o777), os.Chmod(open, 0o777), os.WriteFile(filepath.Join(open, "file"), []byte(canary), 0o644)); err != nil {
		t.Fatal(err)
	}
	bound, link := filepath.Join(p.home, "bound"), filepath.Join(p.home, "link")
	if err := errors.Join(os.Mkdir(bound, 0o755), os.Chown(bound, p.uid, p.uid), os.Symlink("/oldroot"+open, link)); err != nil {
		t.Fatal(err)
	}
	p.write(filepath.Join(bound, "file"), "harmless")
	os.Chown(filepath.Join(bound, "file"), p.uid, p.uid)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, bound, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	worked := 0
	for i := range 40 {
		out, err := p.run([]string{"--tier", "workspace", "--bind", bound, "--bind", bound + "/made-" + fmt.Sprint(i%2)},
			"sh", "-c", "cat "+bound+"/file; echo x > "+bound+"/written").CombinedOutput()
		mustNotContain(t, string(out), canary)
		if err != nil {
			out, err = p.run([]string{"--tier", "workspace", "--bind", bound}, "sh", "-c", "cat "+bound+"/file; echo x > "+bound+"/written").CombinedOutput()
			mustNotContain(t, string(out), canary)
		}
		if err == nil {
			worked++
		}
	}
	close(stop)
	<-stopped
	if worked == 0 {
		t.Error("not one run could be launched meanwhile: nothing was tried")
	}
	left, err := os.ReadDir(open)
	if err != nil || len(left) != 1 {
		t.Errorf("root made something where the person could not: %v, %v", left, err)
	}
}

// TestMountsFollowNoLinks: what the configuration names, root opens; a link in
// the path could be anybody's.
func TestMountsFollowNoLinks(t *testing.T) {
	p := newPerson(t)
	if err := errors.Join(os.Rename(mounted, mounted+"-real"), os.Symlink("/root", mounted)); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(mounted + "-real")
	out, err := p.run([]string{"--tier", "strict"}, "ls", mounted).CombinedOutput()
	if err == nil {
		t.Errorf("a link was followed: %s", out)
	}
	mustContain(t, string(out), "symbolic link", "write the real path in mounts")
}

// TestStrictOwners: what belongs to the caller is the run's user's inside, what
// the run makes is the caller's outside, and everybody else stays who they are.
func TestStrictOwners(t *testing.T) {
	p := newPerson(t)
	p.write(filepath.Join(shared, "private"), "only the owner reads this")
	if err := os.Chown(filepath.Join(shared, "private"), p.uid, p.uid); err != nil {
		t.Fatal(err)
	}
	p.write(filepath.Join(shared, "roots"), "only root reads this")
	cmd := p.run([]string{"--tier", "strict"}, "sh", "-c", "pwd; cat private; echo x > made; stat -c '%u %n' made private roots; cat roots; ls -A; mkdir .vscode/x")
	cmd.Dir = shared
	out, _ := cmd.CombinedOutput()
	mustContain(t, string(out), shared+"\n", "only the owner reads this", fmt.Sprintf("%d made\n%[1]d private\n0 roots\n", strictUID), "cat: roots: Permission denied", ".git\n", ".vscode/x")
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(shared, "made"), &st); err != nil || int(st.Uid) != p.uid || int(st.Gid) != p.uid {
		t.Errorf("made belongs to %d:%d, %v", st.Uid, st.Gid, err)
	}
	left, err := os.ReadDir(shared)
	if err != nil || len(left) != 3 {
		t.Errorf("%v are left, %v", left, err)
	}
}

// TestWorkspaceOutlivesTheGuard: a run in a sandbox goes on when the guard is
// killed, and is held as before.
func TestWorkspaceOutlivesTheGuard(t *testing.T) {
	p := newPerson(t)
	s := p.workspace()
	mustContain(t, s.says("psql -X -A -t -c \"SELECT 'before'\""), "before")
	p.w.postern.StopGuard(syscall.SIGKILL)
	mustContain(t, s.says("psql -X -A -t -c \"SELECT 'without a guard'\""), "without a guard")
	if out := s.says("echo x > .git/hooks/pre-commit"); strings.Contains(out, "status 0") {
		t.Error(out)
	}
	if err := p.w.postern.StartGuard(); err != nil {
		t.Fatal(err)
	}
	mustContain(t, p.sh("echo again"), "again")
}
