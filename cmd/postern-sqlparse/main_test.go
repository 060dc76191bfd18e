package main

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// On Linux 5.10 a worker that could not close its descriptors did not start, and
// every statement was denied.
func TestCloseOnExecWithoutTheFlag(t *testing.T) {
	inherited, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited)
	if err := closeOnExec(); err != nil {
		t.Fatal(err)
	}
	flags, err := unix.FcntlInt(uintptr(inherited), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("it would be inherited: flags %#x, %v", flags, err)
	}
	if flags, err := unix.FcntlInt(os.Stdout.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
		t.Errorf("standard output would be closed: flags %#x, %v", flags, err)
	}
}
