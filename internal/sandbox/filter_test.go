package sandbox

import (
	"encoding/binary"
	"runtime"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The filter as the kernel would run it, on calls as the kernel describes them.
func TestFilter(t *testing.T) {
	raw, err := program()
	if err != nil {
		t.Fatal(err)
	}
	code, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("not a classic BPF program")
	}
	vm, err := bpf.NewVM(code)
	if err != nil {
		t.Fatal(err)
	}
	own := arch[runtime.GOARCH]
	refuse := func(e unix.Errno) uint32 { return retErrno | uint32(e) }
	for name, c := range map[string]struct {
		arch, number uint32
		args         [3]uint64
		want         uint32
	}{
		"read":             {own, unix.SYS_READ, [3]uint64{}, retAllow},
		"ptrace":           {own, unix.SYS_PTRACE, [3]uint64{}, retAllow},
		"another ABI":      {unix.AUDIT_ARCH_I386, 1, [3]uint64{}, refuse(unix.ENOSYS)},
		"cancelled":        {own, ^uint32(0), [3]uint64{}, retAllow},
		"mount":            {own, unix.SYS_MOUNT, [3]uint64{}, refuse(unix.EPERM)},
		"bpf":              {own, unix.SYS_BPF, [3]uint64{}, refuse(unix.EPERM)},
		"keyctl":           {own, unix.SYS_KEYCTL, [3]uint64{}, refuse(unix.EPERM)},
		"setns":            {own, unix.SYS_SETNS, [3]uint64{}, refuse(unix.EPERM)},
		"clone3":           {own, unix.SYS_CLONE3, [3]uint64{}, refuse(unix.ENOSYS)},
		"io_uring":         {own, unix.SYS_IO_URING_SETUP, [3]uint64{}, refuse(unix.ENOSYS)},
		"fork":             {own, unix.SYS_CLONE, [3]uint64{uint64(unix.SIGCHLD)}, retAllow},
		"thread":           {own, unix.SYS_CLONE, [3]uint64{unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND}, retAllow},
		"clone user":       {own, unix.SYS_CLONE, [3]uint64{unix.CLONE_NEWUSER | uint64(unix.SIGCHLD)}, refuse(unix.EPERM)},
		"unshare net":      {own, unix.SYS_UNSHARE, [3]uint64{unix.CLONE_NEWNET}, refuse(unix.EPERM)},
		"unshare time":     {own, unix.SYS_UNSHARE, [3]uint64{unix.CLONE_NEWTIME}, refuse(unix.EPERM)},
		"unshare files":    {own, unix.SYS_UNSHARE, [3]uint64{unix.CLONE_FILES}, retAllow},
		"TIOCSTI":          {own, unix.SYS_IOCTL, [3]uint64{0, unix.TIOCSTI}, refuse(unix.EPERM)},
		"TIOCSTI, 64 bits": {own, unix.SYS_IOCTL, [3]uint64{0, 1<<32 | unix.TIOCSTI}, refuse(unix.EPERM)},
		"TIOCLINUX":        {own, unix.SYS_IOCTL, [3]uint64{0, tioclinux}, refuse(unix.EPERM)},
		"TIOCGWINSZ":       {own, unix.SYS_IOCTL, [3]uint64{0, unix.TIOCGWINSZ}, retAllow},
		"unix":             {own, unix.SYS_SOCKET, [3]uint64{unix.AF_UNIX, 1, 0}, retAllow},
		"inet":             {own, unix.SYS_SOCKET, [3]uint64{unix.AF_INET, 1, 0}, retAllow},
		"inet6":            {own, unix.SYS_SOCKET, [3]uint64{unix.AF_INET6, 2, 0}, retAllow},
		"routes":           {own, unix.SYS_SOCKET, [3]uint64{unix.AF_NETLINK, 3, unix.NETLINK_ROUTE}, retAllow},
		"audit":            {own, unix.SYS_SOCKET, [3]uint64{unix.AF_NETLINK, 3, unix.NETLINK_AUDIT}, refuse(unix.EAFNOSUPPORT)},
		"vsock":            {own, unix.SYS_SOCKET, [3]uint64{unix.AF_VSOCK, 1, 0}, refuse(unix.EAFNOSUPPORT)},
		"packet":           {own, unix.SYS_SOCKET, [3]uint64{unix.AF_PACKET, 3, 0}, refuse(unix.EAFNOSUPPORT)},
		"family 0":         {own, unix.SYS_SOCKET, [3]uint64{0, 1, 0}, refuse(unix.EAFNOSUPPORT)},
	} {
		// BPF loads are big-endian in this machine, and native in the kernel's.
		call := make([]byte, 64)
		binary.BigEndian.PutUint32(call[atNumber:], c.number)
		binary.BigEndian.PutUint32(call[atArch:], c.arch)
		for i, a := range c.args {
			binary.BigEndian.PutUint32(call[atArgument(uint32(i)):], uint32(a))
		}
		got, err := vm.Run(call)
		if err != nil || uint32(got) != c.want {
			t.Errorf("%s: %#x, %v; want %#x", name, got, err, c.want)
		}
	}
}

func TestBindable(t *testing.T) {
	const home = "/home/ann"
	for dir, ok := range map[string]bool{
		"/home/ann/project": true, "/srv/work": true, "/tmp/x": true, "/var/work": true, "/work": true,
		"/home/ann": false, "/home": false, "/": false, "/etc": false, "/etc/x": false, "/usr/local": false, "/proc/1": false,
		"/srv": false, "/srv/postern": false, "/srv/postern/run/x": false, "/var/lib/postern": false, "/opt/x": false,
		"/run/user/1000": false, "/dev/shm": false, "/tmp": false, "relative": false, "/home/ann/../bob": false, "/var": false,
	} {
		if err := Bindable(dir, home, []string{"/srv/postern/run", "/var/lib/postern"}); (err == nil) != ok {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestTiers(t *testing.T) {
	if Redirected.AtLeast(Workspace) || !Strict.AtLeast(Workspace) || !Workspace.AtLeast(Workspace) || Tier("x").AtLeast(Redirected) {
		t.Error("tiers are not in their order")
	}
	for _, tier := range Tiers {
		if tier.Open() == "" {
			t.Errorf("%s leaves nothing open", tier)
		}
	}
}
