package redirect

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/bypass/outside"
	"github.com/postern/postern/internal/identity"
)

// The host is where gateway and agents are, and nothing may arrive outside.
var host4, host6, outside4, outside6 = outside.Near4, outside.Near6, outside.Far4, outside.Far6

// Policies of the tests. Agents of the high one would be worth imitating.
const (
	lowPolicy  = 7
	highPolicy = 8
)

// world is a policy root with the programs attached and a network of its own.
type world struct {
	t       *testing.T
	options Options
	kernel  *Kernel
	host    *os.File // network namespace
	outside *outside.Outside
}

func TestMain(m *testing.M) {
	if os.Getenv(agentEnv) != "" {
		os.Exit(runAgent())
	}
	before := openFiles()
	code := m.Run()
	if leaked := newFiles(before); code == 0 && len(leaked) > 0 {
		fmt.Fprintf(os.Stderr, "tests left files open:\n%s\n", strings.Join(leaked, "\n"))
		code = 1
	}
	os.Exit(code)
}

func openFiles() map[string]string {
	files := map[string]string{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			files[e.Name()] = target
		}
	}
	return files
}

func newFiles(before map[string]string) (leaked []string) {
	for fd, target := range openFiles() {
		_, was := before[fd]
		ours := strings.Contains(target, "bpf") || strings.Contains(target, "cgroup") ||
			strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "net:")
		if !was && ours {
			leaked = append(leaked, fd+" "+target)
		}
	}
	return leaked
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to attach kernel programs and make network namespaces")
	}
}

// newWorld attaches the programs to a new policy root.
func newWorld(t *testing.T) *world {
	t.Helper()
	needRoot(t)
	w := &world{t: t, options: newOptions(t)}
	w.network()
	if _, err := Attach(w.options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.must(Detach(w.options)) })
	kernel, err := OpenPinned(w.options)
	w.must(err)
	t.Cleanup(func() { kernel.Close() })
	w.kernel = kernel
	w.in(w.host, kernel.SetHome)
	return w
}

// newOptions makes an empty policy root and a bpffs of the test's own.
func newOptions(t *testing.T) Options {
	t.Helper()
	mount, err := identity.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp(mount, "postern-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeCgroups(root) })
	bpffs := t.TempDir()
	t.Cleanup(func() { unix.Unmount(bpffs, unix.MNT_DETACH) })
	return Options{Cgroup: root, BPFFS: bpffs, MountBPFFS: true}
}

// removeCgroups removes a tree of cgroups, deepest first.
func removeCgroups(root string) {
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		if e.IsDir() {
			removeCgroups(filepath.Join(root, e.Name()))
		}
	}
	for range 1000 {
		if err := unix.Rmdir(root); !errors.Is(err, unix.EBUSY) {
			return
		}
		runtime.Gosched() // a killed process is not reaped yet
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// cgroup makes one below the root; policy 0 means none.
func (w *world) cgroup(name string, policy uint32) (path string, id uint64) {
	w.t.Helper()
	path = filepath.Join(w.options.Cgroup, name)
	w.must(os.MkdirAll(path, 0o755))
	id, err := identity.CgroupID(path)
	w.must(err)
	if policy != 0 {
		w.must(w.kernel.SetPolicy(id, policy, nil))
	}
	return path, id
}

// network makes the host's namespace, and the outside with its sniffer.
func (w *world) network() {
	w.t.Helper()
	w.host = w.namespace()
	// Let everyone make ICMP sockets, so that it is the programs that refuse.
	w.in(w.host, func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0)
	})
	var err error
	w.outside, err = outside.Connect(outside.Options{Near: w.host, Everything: true})
	w.must(err)
	w.t.Cleanup(func() { w.must(w.outside.Close()) })
}

func (w *world) namespace() *os.File {
	w.t.Helper()
	var ns *os.File
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		w.t.Fatalf("make a network namespace: %v", err)
	}
	w.t.Cleanup(func() { ns.Close() })
	return ns
}

// onOwnThread runs f on a thread that ends with it.
func onOwnThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

// in runs f in a network namespace; sockets and processes made there stay.
func (w *world) in(ns *os.File, f func() error) {
	w.t.Helper()
	w.must(onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("setns: %w", err)
		}
		return f()
	}))
}

// listen opens the gateway of a policy on the host.
func (w *world) listen(policy uint32) *Listener {
	w.t.Helper()
	var l *Listener
	w.in(w.host, func() (err error) {
		l, err = w.kernel.Listen(policy)
		return err
	})
	w.t.Cleanup(func() { l.Close() })
	return l
}

// quiet fails the test when anything an agent could have sent arrived outside.
func (w *world) quiet() {
	w.t.Helper()
	frames, err := w.outside.Frames()
	w.must(err)
	for _, f := range frames {
		w.t.Errorf("arrived outside: %s", f)
	}
}
