package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
)

// TestMain also is the anchor, which is this same program.
func TestMain(m *testing.M) {
	if Main(os.Args) {
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// newRoot is a policy root of the test's own, with the programs attached.
func newRoot(t *testing.T) redirect.Options {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to attach kernel programs")
	}
	mount, err := identity.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp(mount, "postern-guard-test-")
	if err != nil {
		t.Fatal(err)
	}
	bpffs := t.TempDir()
	o := redirect.Options{Cgroup: root, BPFFS: bpffs, MountBPFFS: true, Create: true}
	t.Cleanup(func() {
		if err := errors.Join(redirect.Detach(o), Weigh(root)); err != nil {
			t.Error(err)
		}
		unix.Rmdir(filepath.Join(root, "planner"))
		unix.Rmdir(root)
		unix.Unmount(bpffs, unix.MNT_DETACH)
	})
	if _, err := redirect.Attach(o); err != nil {
		t.Fatal(err)
	}
	return o
}

// eventually waits for what another process or goroutine does.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for range 500 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s: %v", what, err)
}

// A slice that stops has its cgroup removed by systemd, unless something is in
// it. The anchor is.
func TestAnchorKeepsTheRoot(t *testing.T) {
	o := newRoot(t)
	if err := errors.Join(Anchor(o.Cgroup), Anchor(o.Cgroup)); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(o.Cgroup, anchorName)
	eventually(t, "one anchor", func() error {
		n := 0
		err := processes(o.Cgroup, func(_, _ string) { n++ })
		if err == nil && n != 1 {
			err = fmt.Errorf("%d processes in the root", n)
		}
		return err
	})
	for _, at := range []string{dir, o.Cgroup} {
		if err := unix.Rmdir(at); !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			t.Errorf("remove %s: %v, want EBUSY", at, err)
		}
	}
	if problems := redirect.Check(o); len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
}

// Should the root go nevertheless, the new one is closed at once, the agents'
// cgroups are there again, and the daemon hears of it; a little later where the
// kernel has no inotify left.
func TestRootMadeAnewIsClosedAgain(t *testing.T) {
	t.Run("inotify", func(t *testing.T) { rootMadeAnew(t) })
	t.Run("none", func(t *testing.T) {
		rootMadeAnew(t, func(s *Server) { s.inotify = func(int) (int, error) { return -1, unix.EMFILE } })
	})
}

func rootMadeAnew(t *testing.T, change ...func(*Server)) {
	o := newRoot(t)
	_, news := attended(t, o, change...)
	before := redirect.StatusOf(o).CgroupID
	if err := Weigh(o.Cgroup); err != nil {
		t.Fatal(err)
	}
	unix.Rmdir(filepath.Join(o.Cgroup, "planner"))
	if err := unix.Rmdir(o.Cgroup); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(o.Cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	eventually(t, "closed again", func() error {
		st := redirect.StatusOf(o)
		if len(st.Problems) > 0 {
			return errors.New(st.Problems[0].String())
		}
		if st.CgroupID == before {
			return errors.New("it is the same cgroup")
		}
		_, err := os.Stat(filepath.Join(o.Cgroup, "planner"))
		return err
	})
	toldAgain(t, news)
}

// An agent's slice that stops and starts has a cgroup with another id: the
// daemon hears of it until it has asked, or the agent would get nowhere. One that
// it had made tells it nothing.
func TestAgentsCgroupMadeAnewIsTold(t *testing.T) {
	o := newRoot(t)
	client, news := attended(t, o)
	mount, err := identity.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	planner := filepath.Join(o.Cgroup, "planner")
	ask := func() uint64 {
		id, err := client.Cgroup(context.Background(), strings.TrimPrefix(planner, mount+"/"))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	quiet := func() {
		t.Helper()
		for len(news) > 0 {
			<-news
		}
		time.Sleep(checkInterval + checkInterval/2)
		if n := len(news); n > 0 {
			t.Errorf("%d news", n)
		}
	}
	before := ask()
	quiet()
	if err := unix.Rmdir(planner); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(planner, 0o755); err != nil {
		t.Fatal(err)
	}
	toldAgain(t, news)
	toldAgain(t, news)
	if now := ask(); now == before {
		t.Errorf("it has the id %d as before", now)
	}
	quiet()
}

// attended is a guard of the agent planner, and what it tells a daemon.
func attended(t *testing.T, o redirect.Options, change ...func(*Server)) (Client, <-chan News) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "postern.yaml")
	text := fmt.Sprintf("root: %s\nstate_dir: %s\nagents: [{name: planner, cgroup: %[1]s/planner, policy: p}]\npolicies: [{name: p}]\n",
		filepath.Base(o.Cgroup), dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var attended atomic.Bool
	s, err := New(Options{Log: slog.New(slog.DiscardHandler), Config: config, Redirect: o, Attended: attended.Store})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(s)
	}
	socket := filepath.Join(dir, "guard.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- s.Serve(ctx, l, nil) }()
	news := make(chan News, 64)
	go func() { done <- Client{Socket: socket}.Attend(ctx, func(n News) { news <- n }) }()
	eventually(t, "the daemon attends", func() error {
		if !attended.Load() {
			return errors.New("nobody")
		}
		return nil
	})
	t.Cleanup(func() {
		stop()
		for range 2 {
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		eventually(t, "nobody attends", func() error {
			if attended.Load() {
				return errors.New("somebody does")
			}
			return nil
		})
	})
	return Client{Socket: socket}, news
}

func toldAgain(t *testing.T, news <-chan News) {
	t.Helper()
	select {
	case n := <-news:
		if !n.Again {
			t.Errorf("news %+v", n)
		}
	case <-time.After(5 * time.Second):
		t.Error("the daemon was not told")
	}
}

// TestGuardIsRoot: who listens in the guard's place and is not root is asked
// nothing.
func TestGuardIsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	dir, err := os.MkdirTemp("", "postern-guard-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	at, listening := filepath.Join(dir, "guard.sock"), make(chan net.Listener)
	go func() {
		runtime.LockOSThread() // which ends with the goroutine
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			t.Error(errno)
		}
		l, err := net.Listen("unix", at)
		if err != nil {
			t.Error(err)
		}
		listening <- l
	}()
	l := <-listening
	if l == nil {
		t.FailNow()
	}
	defer l.Close()
	if _, err := (Client{Socket: at}).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "it is not the guard") {
		t.Error(err)
	}
}
