package sandbox

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Credential is who somebody is to the file system.
type Credential struct {
	UID, GID uint32
	Groups   []uint32
}

// As calls f on a thread that has the credential and nothing else: what root
// does for somebody must be something that they could do.
func As(c Credential, f func() error) error {
	if c.UID == 0 {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and its credential with it
		if err := c.take(); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

// take gives the calling thread the credential, as far as files go: by its real
// ids the thread stays root, so that who it works for cannot send it signals,
// which would be the whole process's. Package syscall would do it to all threads.
func (c Credential) take() error {
	var first unsafe.Pointer
	if len(c.Groups) > 0 {
		first = unsafe.Pointer(&c.Groups[0])
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(c.Groups)), uintptr(first), 0); e != 0 {
		return fmt.Errorf("take on groups: %w", e)
	}
	// These two return what was before, whether they worked or not.
	for _, id := range []struct {
		call  uintptr
		value uint32
	}{{unix.SYS_SETFSGID, c.GID}, {unix.SYS_SETFSUID, c.UID}} {
		unix.RawSyscall(id.call, uintptr(id.value), 0, 0) //nolint:errcheck // the next line tells
		if now, _, _ := unix.RawSyscall(id.call, uintptr(^uint32(0)), 0, 0); uint32(now) != id.value {
			return fmt.Errorf("take on id %d", id.value)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	return nil
}
