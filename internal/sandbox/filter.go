package sandbox

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (linux/seccomp.h). Arguments have eight bytes,
// of which the low four are compared: the kernel looks at no more of those that
// are meant here.
const (
	atNumber = 0
	atArch   = 4
)

func atArgument(i uint32) uint32 { return 16 + 8*i }

// What a filter answers (linux/seccomp.h).
const (
	retAllow = 0x7fff0000
	retErrno = 0x00050000
)

const (
	// namespaces are the flags of clone and unshare that make one.
	namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
		unix.CLONE_NEWPID | unix.CLONE_NEWNET
	// x32 marks numbers of the x32 ABI, which x86-64 kernels take too.
	x32 = 0x40000000
)

var arch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// forbidden are system calls that are EPERM: they change what holds the run, or
// reach keys and kernel interfaces that are no agent's.
var forbidden = []uint32{
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_SETNS,
	unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_NAME_TO_HANDLE_AT,
	unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_REBOOT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_ACCT, unix.SYS_SETDOMAINNAME, unix.SYS_SETHOSTNAME,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_CLOCK_ADJTIME, unix.SYS_SYSLOG, unix.SYS_FANOTIFY_INIT,
	unix.SYS_PIDFD_GETFD,
}

// absent are system calls that are ENOSYS, so that programs fall back: clone3's
// flags cannot be seen by a filter, and io_uring makes sockets that it does not
// see.
var absent = []uint32{unix.SYS_CLONE3, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER}

// program is the filter: one block per thing it forbids, the last allows.
func program() ([]bpf.RawInstruction, error) {
	own, ok := arch[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("no filter of system calls for %s", runtime.GOARCH)
	}
	number := bpf.LoadAbsolute{Off: atNumber, Size: 4}
	answer := func(e unix.Errno) bpf.RetConstant { return bpf.RetConstant{Val: retErrno | uint32(e)} }
	is := func(n uint32, then ...bpf.Instruction) []bpf.Instruction {
		return append([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpEqual, Val: n, SkipFalse: uint8(len(then))}}, then...)
	}
	code := []bpf.Instruction{
		bpf.LoadAbsolute{Off: atArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: own, SkipTrue: 1},
		answer(unix.ENOSYS), // another ABI, whose numbers mean other things
		number,
	}
	if runtime.GOARCH == "amd64" {
		code = append(code, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: x32, SkipFalse: 3},
			// A tracer that cancels a call makes its number -1.
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: ^uint32(0), SkipFalse: 1}, bpf.RetConstant{Val: retAllow}, answer(unix.ENOSYS))
	}
	for _, n := range forbidden {
		code = append(code, is(n, answer(unix.EPERM))...)
	}
	for _, n := range absent {
		code = append(code, is(n, answer(unix.ENOSYS))...)
	}
	argument := func(i uint32) bpf.LoadAbsolute { return bpf.LoadAbsolute{Off: atArgument(i), Size: 4} }
	allow := bpf.RetConstant{Val: retAllow}
	// In clone the bit of CLONE_NEWTIME belongs to the signal for the parent.
	for _, c := range []struct{ number, flags uint32 }{{unix.SYS_CLONE, namespaces}, {unix.SYS_UNSHARE, namespaces | unix.CLONE_NEWTIME}} {
		code = append(code, is(c.number, argument(0), bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: c.flags, SkipFalse: 1}, answer(unix.EPERM), allow)...)
	}
	// Input into a terminal is another's keystrokes (CVE-2019-10063: the kernel
	// looks at 32 bits of the request).
	code = append(code, is(unix.SYS_IOCTL, argument(1),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.TIOCSTI, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: tioclinux, SkipTrue: 1},
		answer(unix.EPERM), allow)...)
	code = append(code, is(unix.SYS_SOCKET, argument(0),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_UNIX, SkipTrue: 5},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET, SkipTrue: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET6, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_NETLINK, SkipTrue: 3},
		argument(2),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.NETLINK_ROUTE, SkipTrue: 1},
		allow, answer(unix.EAFNOSUPPORT))...)
	return bpf.Assemble(append(code, allow))
}

// tioclinux is TIOCLINUX, by which a program pastes into a console.
const tioclinux = 0x541c

// Filter puts the filter on the calling thread and what it executes. It takes
// no_new_privs, and is for good.
func Filter() error {
	raw, err := program()
	if err != nil {
		return err
	}
	filters := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filters[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	list := unix.SockFprog{Len: uint16(len(filters)), Filter: &filters[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&list)), 0, 0); err != nil {
		return fmt.Errorf("filter system calls: %w", err)
	}
	return nil
}
