package bypass

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Cgroups and namespaces.
var cgroupAttempts = []Attempt{
	{
		Name: "cgroup-move", Tries: "moves itself to the root of all cgroups", Families: neither,
		Must: boxed(by(ByKernel), ByMounts), do: func(t *try) error { return moveTo(t.CgroupMount) },
	},
	{
		Name: "cgroup-move-to-another", Tries: "moves itself to another agent's cgroup", Families: neither, Needs: "a second agent",
		Must: boxed(by(ByKernel), ByMounts), do: func(t *try) error {
			if len(t.OtherCgroups) == 0 {
				return fmt.Errorf("%w: there is no other agent", errAbsent)
			}
			return moveTo(t.OtherCgroups[0])
		},
	},
	{
		Name: "clone-into-cgroup", Tries: "starts a process in the root of all cgroups (CLONE_INTO_CGROUP)", Families: neither,
		Must: boxed(by(ByKernel), ByMounts, BySeccomp), do: cloneInto,
	},
	{
		Name: "mount-cgroup2", Tries: "mounts the cgroups anew", Families: neither,
		Must: boxed(by(ByKernel), BySeccomp), do: func(*try) error { return mountAnew("cgroup2") },
	},
	{
		Name: "mount-cgroup2-in-userns", Tries: "makes itself root of a user namespace, and mounts the cgroups there", Families: neither,
		clone: unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		Must:  boxed(by(ByKernel), BySeccomp), do: func(*try) error { return mountAnew("cgroup2") },
	},
	{
		Name: "mount-proc-in-userns", Tries: "makes itself root of user and process namespaces, mounts /proc there, and looks for the daemon", Families: neither,
		clone: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Must:  boxed(by(ByKernel, ByNamespace), BySeccomp), do: mountProc,
	},
	{
		Name: "netns-in-userns", Tries: "makes a network namespace of its own, and connects from there", Families: both,
		clone: unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		Must:  boxed(by(ByNoListener, ByRedirect, ByKernel), ByNamespace, BySeccomp), do: dialing(443, connect),
	},
	{
		Name: "setns", Tries: "joins the network namespace of process 1", Families: neither,
		Must: boxed(by(ByKernel), BySeccomp, ByNamespace), do: setns,
	},
	{
		Name: "setns-in-userns", Tries: "makes itself root of a user namespace, and joins the network namespace of a process outside", Families: neither,
		clone: unix.CLONE_NEWUSER, Must: boxed(by(ByKernel), ByNamespace, BySeccomp), do: setns,
	},
}

func moveTo(cgroup string) error {
	f, err := os.OpenFile(filepath.Join(cgroup, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(strconv.Itoa(os.Getpid()))
	return err
}

func cloneInto(t *try) error {
	dir, err := os.Open(t.CgroupMount)
	if err != nil {
		return err
	}
	defer dir.Close()
	process, err := os.StartProcess("/proc/self/exe", []string{"postern", attemptArg}, &os.ProcAttr{
		Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())},
	})
	if err != nil {
		return named("clone3", err)
	}
	process.Wait() //nolint:errcheck // it has nothing to do
	return nil
}

// mountAnew mounts a file system where it can do no harm: in the attempt's own
// mount namespace, or nowhere.
func mountAnew(kind string) error {
	dir, err := os.MkdirTemp("", "bypass-")
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		dir = "/"
	} else if err != nil {
		return err
	} else {
		defer os.Remove(dir)
	}
	if err := unix.Mount(kind, dir, kind, 0, ""); err != nil {
		return named("mount "+kind, err)
	}
	return unix.Unmount(dir, unix.MNT_DETACH)
}

func mountProc(t *try) error {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return named("mount proc", err)
	}
	return t.process(t.Daemon, daemonName)
}

// setns goes by process 1, then by one of the agent's own user outside.
func setns(t *try) error {
	var last error
	for _, pid := range []int{1, t.Victim.PID} {
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			last = fmt.Errorf("open the namespace of process %d: %w", pid, err)
			continue
		}
		err = unix.Setns(fd, unix.CLONE_NEWNET)
		unix.Close(fd)
		if err == nil {
			return nil
		}
		last = fmt.Errorf("setns to that of process %d: %w", pid, err)
	}
	return last
}
