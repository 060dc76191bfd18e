package sql

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// started is one worker process that has answered, so that it is in its second
// run.
func started(t *testing.T, o Options) *process {
	t.Helper()
	o.Path = workerPath
	c, err := New(o)
	must(t, err)
	p, err := c.start()
	must(t, err)
	t.Cleanup(p.stop)
	if _, err := p.exchange("SELECT 1", time.Now().Add(10*time.Second)); err != nil {
		t.Fatal("the worker does not answer: ", err)
	}
	return p
}

func (p *process) proc(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, name))
	if os.IsPermission(err) && os.Geteuid() != 0 {
		t.Skip("a process that cannot be dumped shows itself to root only")
	}
	must(t, err)
	return string(b)
}

// The worker has two pipes and nothing else of ours: no descriptor, not even one
// that was open for others to inherit, no environment and no folder.
func TestWorkerHasNothing(t *testing.T) {
	t.Setenv("POSTERN_TEST_SECRET", "canary")
	leaked, err := syscall.Dup(1) // without close-on-exec
	must(t, err)
	defer syscall.Close(leaked)
	p := started(t, Options{})
	if env := p.proc(t, "environ"); env != "" {
		t.Errorf("its environment is %q", env)
	}
	dir := fmt.Sprintf("/proc/%d", p.cmd.Process.Pid)
	if cwd, err := os.Readlink(dir + "/cwd"); err != nil || cwd != "/" {
		t.Error("its folder is", cwd, err)
	}
	entries, err := os.ReadDir(dir + "/fd")
	must(t, err)
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, "fd", e.Name()))
		must(t, err)
		want := map[string]string{"0": "pipe:", "1": "pipe:", "2": "/dev/null"}[e.Name()]
		// The Go runtime has a poller, and looks up how many processors there are.
		runtimes := strings.HasPrefix(to, "anon_inode:") || strings.HasPrefix(to, "/sys/fs/cgroup/") && strings.Contains(to, "/cpu.")
		if want != "" && !strings.HasPrefix(to, want) || want == "" && !runtimes {
			t.Errorf("descriptor %s is %s", e.Name(), to)
		}
	}
}

// Its limits are in force, and it cannot gain privileges.
func TestWorkerLimits(t *testing.T) {
	p := started(t, Options{})
	limits := p.proc(t, "limits")
	for name, want := range map[string]string{
		"Max address space": "4294967296", "Max data size": "805306368", "Max core file size": "0", "Max file size": "0", "Max open files": "0",
	} {
		found := false
		for line := range strings.Lines(limits) {
			if rest, ok := strings.CutPrefix(line, name); ok {
				f := strings.Fields(rest)
				found = f[0] == want && f[1] == want
			}
		}
		if !found {
			t.Errorf("%s is not %s\n%s", name, want, limits)
		}
	}
	if !strings.Contains(limits, "Max cpu time              ") || strings.Contains(limits, "Max cpu time              unlimited") {
		t.Error("the processor time is not limited\n", limits)
	}
	if status := p.proc(t, "status"); !strings.Contains(status, "NoNewPrivs:\t1\n") {
		t.Error("it may gain privileges\n", status)
	}
}

// It runs as another user where we may choose.
func TestWorkerUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("another user can be chosen by root only")
	}
	p := started(t, Options{User: &syscall.Credential{Uid: 65534, Gid: 65534}})
	status := p.proc(t, "status")
	for _, want := range []string{"Uid:\t65534\t65534\t65534\t65534\n", "Gid:\t65534\t65534\t65534\t65534\n", "CapEff:\t0000000000000000\n", "Groups:\t \n"} {
		if !strings.Contains(status, want) {
			t.Errorf("%q is not in\n%s", want, status)
		}
	}
}

// A statement that needs more memory than there is costs the worker at most.
func TestWorkerMemory(t *testing.T) {
	c := running(t, Options{})
	long := "SELECT " + strings.Repeat("1+", MaxText/2-10) + "1"
	if s, err := c.Classify(t.Context(), long); err == nil && len(s.Effects) == 0 {
		t.Error("no effects")
	}
	classify(t, c, "SELECT 1")
}
