package guard

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// anchorArg makes postern-guard the anchor of the policy root.
const anchorArg = "anchor"

// anchorName is the anchor's cgroup, below the policy root.
const anchorName = "postern-anchor"

// Anchor keeps the policy root cgroup from being removed: systemd removes that
// of a slice when it stops and makes another one when it starts, which the
// programs would not hold until somebody attached them again. A cgroup with a
// process in it stays. The process does nothing, and outlives the guard.
func Anchor(root string) error {
	dir := filepath.Join(root, anchorName)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("anchor the policy root: %w", err)
	}
	if procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil && len(procs) > 0 {
		return nil
	}
	cgroup, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("anchor the policy root: %w", err)
	}
	defer cgroup.Close()
	cmd := exec.Command("/proc/self/exe", anchorArg)
	cmd.Env, cmd.Dir = []string{}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("anchor the policy root: %w", err)
	}
	go cmd.Wait() //nolint:errcheck // it ends with the host, or is killed; this only reaps it
	return nil
}

// Weigh removes the anchor.
func Weigh(root string) error { return removeCgroup(filepath.Join(root, anchorName)) }

// holdFast is the anchor's life. It ends by SIGKILL and at the host's shutdown.
func holdFast() {
	for {
		unix.Pause() //nolint:errcheck // Go's runtime sends itself signals
	}
}
