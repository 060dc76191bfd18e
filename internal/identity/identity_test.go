package identity

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestCgroupMountIn(t *testing.T) {
	for name, tt := range map[string]struct{ mountinfo, want string }{
		"unified": {"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n", "/sys/fs/cgroup"},
		"hybrid": {"31 30 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n" +
			"32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup/unified"},
		"a container's part": {"32 30 0:28 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "/sys/fs/cgroup"},
		"part and whole": {"32 30 0:28 / /a\\040b rw - cgroup2 cgroup rw\n" +
			"33 30 0:28 /x /part rw - cgroup2 cgroup rw\n", "/a b"},
	} {
		got, err := cgroupMountIn(strings.NewReader(tt.mountinfo))
		if err != nil || got != tt.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tt.want)
		}
	}
	if _, err := cgroupMountIn(strings.NewReader("31 30 0:27 / /x rw - cgroup cgroup rw,pids\n")); !errors.Is(err, errNoCgroup2) {
		t.Errorf("v1 only: %v, want %v", err, errNoCgroup2)
	}
}

func TestBelow(t *testing.T) {
	for _, tt := range []struct {
		cgroup, root string
		want         bool
	}{
		{"/agents.slice", "/agents.slice", true},
		{"/agents.slice/a/b", "/agents.slice", true},
		{"/agents.slice/a (deleted)", "/agents.slice", true},
		{"/agents.slice2", "/agents.slice", false},
		{"/", "/agents.slice", false},
		{"/../elsewhere", "/agents.slice", true},
		{"/anything", "/", true},
	} {
		if got := below(tt.cgroup, tt.root); got != tt.want {
			t.Errorf("below(%q, %q) = %v", tt.cgroup, tt.root, got)
		}
	}
}

func TestUnifiedPath(t *testing.T) {
	got, err := unifiedPath("9:pids:/x\n0::/agents.slice/a\n")
	if err != nil || got != "/agents.slice/a" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := unifiedPath("9:pids:/x\n"); err == nil {
		t.Error("a process without a v2 cgroup was given one")
	}
}

func TestPeerOfUnixSocket(t *testing.T) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.DialUnix("unix", nil, listener.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peer, err := PeerOf(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if peer.PID != os.Getpid() || peer.UID != uint32(os.Getuid()) || !peer.In(uint32(os.Getgid())) {
		t.Errorf("peer %+v is not this process", peer)
	}
	if peer.InPolicyCgroup("/no/such/mount") != true {
		t.Error("what cannot be found out must count as an agent")
	}
}

func TestAtAccept(t *testing.T) {
	facts, err := AtAccept(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if exe, _ := os.Executable(); facts.Exe != exe {
		t.Errorf("exe %q, want %q", facts.Exe, exe)
	}
	child := exec.Command("true")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := AtAccept(child.Process.Pid); !errors.Is(err, ErrGone) {
		t.Errorf("a process that ended: %v, want %v", err, ErrGone)
	}
}

func TestCgroupPathAndID(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to make a cgroup")
	}
	mount, err := CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp(mount, "postern-identity-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(root)
	child := filepath.Join(root, "a")
	if err := os.Mkdir(child, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(child)
	id, err := CgroupID(child)
	if err != nil {
		t.Fatal(err)
	}
	cgroups, err := NewCgroups(root)
	if err != nil {
		t.Fatal(err)
	}
	defer cgroups.Close()
	for name, find := range map[string]func(uint64) (string, error){
		"cached": cgroups.Path, "by handle": cgroups.byHandle, "by search": cgroups.bySearch,
	} {
		if got, err := find(id); err != nil || got != child {
			t.Errorf("%s: %q, %v; want %q", name, got, err, child)
		}
		if _, err := find(id + 1<<20); !errors.Is(err, ErrNoCgroup) {
			t.Errorf("%s: an id nobody has: %v", name, err)
		}
	}
	if InPolicyCgroup(root, os.Getpid()) {
		t.Error("this process was taken for an agent")
	}
	if _, err := CgroupID(os.TempDir()); err == nil {
		t.Error("a directory that is no cgroup was given a cgroup id")
	}
}
