package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// HoldArg makes the program hold a user namespace: it does nothing until its
// standard input ends.
const HoldArg = "hold"

// Hold is what the program does with HoldArg.
func Hold() { io.Copy(io.Discard, os.Stdin) } //nolint:errcheck // its end is all that is waited for

// mountMapped binds what was opened so that it belongs to the run's user in the
// run, and what the run makes there belongs to the caller on disk. It takes
// kernel 5.12 and a file system that can do it.
func (s *staged) mountMapped(place func() (int, error)) error {
	ns, err := namespace(s.Swap)
	if err != nil {
		return err
	}
	defer ns.Close()
	to, err := place()
	if err != nil {
		return err
	}
	defer unix.Close(to)
	attributes := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if !s.Write {
		attributes.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	err = move(s.fd, to, 0, attributes)
	switch {
	case errors.Is(err, unix.EINVAL):
		return errors.New("its file system cannot show other owners")
	case errors.Is(err, unix.ENOSYS):
		return errors.New("the kernel cannot show other owners before 5.12")
	}
	return err
}

// namespace is a user namespace whose mapping says who is shown as whom. It
// takes a process to make one.
func namespace(s *Swap) (*os.File, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer write.Close()
	holder, err := os.StartProcess("/proc/self/exe", []string{"/proc/self/exe", HoldArg}, &os.ProcAttr{
		Files: []*os.File{read}, Env: []string{},
		Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: swapped(s.UID, s.RunUID), GidMappings: swapped(s.GID, s.RunGID)},
	})
	read.Close()
	if err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", holder.Pid))
	write.Close()
	holder.Wait() //nolint:errcheck // it ends with its input
	return ns, err
}

// swapped shows a as b and b as a, and everybody else as themselves. On disk is
// the container's side of a mapping.
func swapped(a, b uint32) (m []syscall.SysProcIDMap) {
	const all = 1<<32 - 1 // the last id means nobody
	low, high := int(min(a, b)), int(max(a, b))
	add := func(disk, seen, size int) {
		if size > 0 {
			m = append(m, syscall.SysProcIDMap{ContainerID: disk, HostID: seen, Size: size})
		}
	}
	if low == high {
		add(0, 0, all)
		return m
	}
	add(0, 0, low)
	add(low, high, 1)
	add(low+1, low+1, high-low-1)
	add(high, low, 1)
	add(high+1, high+1, all-high-1)
	return m
}
