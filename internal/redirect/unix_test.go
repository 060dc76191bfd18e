package redirect

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// An agent whose Unix sockets are listed reaches those, by the very bytes, and
// no others: where the kernel has the hooks.
func TestUnixSocketsAreListed(t *testing.T) {
	w := newWorld(t)
	if len(StatusOf(w.options).Optional) == 0 {
		// A kernel before 6.7, or without BTF: nothing but a word about it.
		report, err := Attach(w.options)
		if err != nil || !strings.Contains(report.Missing, "Unix sockets are not held") || tryUnix() == nil {
			t.Errorf("the hooks are not attached, and the report is %+v, %v", report, err)
		}
		return
	}
	cgroup, id := w.cgroup("agent", lowPolicy)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"listed", "other"} {
		l, err := net.Listen("unix", at(name))
		w.must(err)
		defer l.Close()
	}
	a := w.agentAs(cgroup, "root")
	reach := func(path string) unix.Errno {
		fd, errno := a.try(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if errno != 0 {
			t.Fatal(errno)
		}
		defer a.close(fd)
		return a.call(call{Op: "connect_unix", FD: fd, Addr: path}).Errno
	}
	if errno := reach(at("other")); errno != 0 {
		t.Errorf("without a list: %v", errno)
	}
	w.must(w.kernel.SetPolicy(id, lowPolicy, []string{at("listed")}))
	for path, want := range map[string]unix.Errno{
		at("listed"): 0, at("other"): unix.EPERM, dir + "/./listed": unix.EPERM, "@abstract": unix.EPERM, at("missing"): unix.EPERM,
	} {
		if errno := reach(path); errno != want {
			t.Errorf("connect to %s: %v, want %v", path, errno, want)
		}
	}
	w.event(func(e Event) bool { return e.Kind == Unix })
	w.must(w.kernel.SetPolicy(id, lowPolicy, []string{}))
	if errno := reach(at("listed")); errno != unix.EPERM {
		t.Errorf("with an empty list: %v, want EPERM", errno)
	}
	w.must(w.kernel.SetPolicy(id, lowPolicy, nil))
	if errno := reach(at("listed")); errno != 0 {
		t.Errorf("after the list was lifted: %v", errno)
	}
	w.must(w.kernel.SetPolicy(id, lowPolicy, []string{}))
	other := w.agentIn(w.private(), cgroup)
	fd, _ := other.try(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if errno := other.call(call{Op: "connect_unix", FD: fd, Addr: "@nobody"}).Errno; errno != unix.ECONNREFUSED {
		t.Errorf("in a network namespace of one's own: %v, want ECONNREFUSED", errno)
	}
}
