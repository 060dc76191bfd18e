package guard

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestRunsOfAKilledGuardAreBuried: what a guard that was killed left goes on; when it
// has ended its cgroup goes, with what is below, and the daemon hears of it.
func TestRunsOfAKilledGuardAreBuried(t *testing.T) {
	o := newRoot(t)
	ended, going := filepath.Join(o.Cgroup, "planner/run-0123456789"), filepath.Join(o.Cgroup, "planner/run-9876543210")
	if err := errors.Join(os.MkdirAll(filepath.Join(ended, "below"), 0o755), os.MkdirAll(going, 0o755)); err != nil {
		t.Fatal(err)
	}
	systemds := filepath.Join(o.Cgroup, "planner/run-r0123456789.scope") // of systemd-run
	if err := os.Mkdir(systemds, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(systemds)
	in, err := os.Open(going)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(in.Fd()), Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill() //nolint:errcheck // it has ended
	_, news := attended(t, o)
	eventually(t, "the one that had ended", func() error { return gone(ended) })
	if err := gone(going); err == nil {
		t.Error("a run that goes on was buried")
	}
	if err := gone(systemds); err == nil {
		t.Error("what is no run was removed")
	}
	cmd.Process.Kill() //nolint:errcheck // it is there
	cmd.Wait()         //nolint:errcheck // it was killed
	eventually(t, "the one that went on", func() error { return gone(going) })
	for {
		select {
		case n := <-news:
			if n.Ended == "run-9876543210" {
				return
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the daemon was not told")
		}
	}
}

func gone(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return errors.New(dir + " is there")
	}
	return nil
}
