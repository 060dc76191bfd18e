package identity

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrGone: the process ended before its facts could be read.
var ErrGone = errors.New("the process is gone")

// Facts is what a process was when its connection was accepted. It may have
// called execve between connect and accept, so this is a hint for people who
// read a recording, not something to decide by: that is what the flow's cgroup
// is for.
type Facts struct {
	PID    int
	Exe    string // path in the process's own mount namespace; empty if not readable
	Cgroup string // as /proc/PID/cgroup has it, relative to the root of our cgroup namespace
}

// AtAccept reads the facts of process pid through a pidfd, so that they are of
// one process and not of its successor under the same number.
func AtAccept(pid int) (Facts, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return Facts{}, ErrGone
	}
	if err != nil {
		return Facts{}, fmt.Errorf("pidfd of %d: %w", pid, err)
	}
	defer unix.Close(fd)
	facts := Facts{PID: pid}
	facts.Cgroup, err = cgroupOf(pid)
	if err != nil {
		return Facts{}, err
	}
	facts.Exe, err = os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if errors.Is(err, os.ErrPermission) {
		err = nil // another user's process, and we may not trace it
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Facts{}, err
	}
	if !alive(fd) {
		return Facts{}, ErrGone
	}
	return facts, nil
}

// alive says whether the process behind a pidfd has not ended: while it has
// not, its number belongs to nobody else.
func alive(pidfd int) bool {
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n == 0
}

func cgroupOf(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return "", ErrGone
	}
	if err != nil {
		return "", fmt.Errorf("cgroup of process %d: %w", pid, err)
	}
	return unifiedPath(string(text))
}

// unifiedPath picks the v2 line, "0::/path", out of /proc/PID/cgroup.
func unifiedPath(text string) (string, error) {
	for line := range strings.Lines(text) {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(p, "\n"), nil
		}
	}
	return "", errNoCgroup2
}

// below says whether the cgroup lies at or below the root, both as
// /proc/PID/cgroup writes them. A cgroup outside of our cgroup namespace shows
// as /../x; where it really is we cannot say, so it counts as below.
func below(cgroup, root string) bool {
	cgroup = strings.TrimSuffix(cgroup, " (deleted)")
	if strings.HasPrefix(cgroup, "/..") {
		return true
	}
	cgroup, root = path.Clean("/"+cgroup), path.Clean("/"+root)
	return cgroup == root || root == "/" || strings.HasPrefix(cgroup, root+"/")
}

// InPolicyCgroup says whether process pid is an agent: whether it is in the
// policy root cgroup at this path of the file system, or below. What cannot be
// found out counts as yes, for the answer is used to refuse.
func InPolicyCgroup(root string, pid int) bool {
	mount, err := CgroupMount()
	if err != nil {
		return true
	}
	relative, ok := strings.CutPrefix(path.Clean(root), path.Clean(mount))
	if !ok {
		return true
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	cgroup, err := cgroupOf(pid)
	return err != nil || below(cgroup, relative) || !alive(fd)
}
