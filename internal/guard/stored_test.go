package guard

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/redirect"
)

// aStore is what systemd does.
type aStore map[string][]*os.File

func (s aStore) Store(name string, files ...*os.File) error {
	if s[name] != nil {
		return nil // it has these
	}
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) {
			n, _ := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
			s[name] = append(s[name], os.NewFile(uintptr(n), name))
		}); err != nil {
			return err
		}
	}
	return nil
}

func (s aStore) Unstore(name string) error {
	closeAll(s[name])
	delete(s, name)
	return nil
}

// passedOn are copies for the next process.
func (s aStore) passedOn(t *testing.T) aStore {
	t.Helper()
	next := aStore{}
	for name, files := range s {
		if err := next.Store(name, files...); err != nil {
			t.Fatal(err)
		}
	}
	return next
}

// TestListenersOutliveGuardAndDaemon: what agents send while both are away waits in
// the sockets that systemd has.
func TestListenersOutliveGuardAndDaemon(t *testing.T) {
	o := newRoot(t)
	store := aStore{}
	doorsOf := func() *doors {
		t.Helper()
		k, err := redirect.OpenPinned(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { k.Close() })
		d, err := newDoors(k, slog.New(slog.DiscardHandler), o.Cgroup)
		if err != nil {
			t.Fatal(err)
		}
		d.store, d.grace = store, time.Hour
		return d
	}
	first := doorsOf()
	at, files, err := first.atHome("planner")
	if err != nil {
		t.Fatal(err)
	}
	closeAll(files)
	for _, d := range first.kept { // killed: it closes, and tells nobody
		d.listener.Close()
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", at.TCP))
	if err != nil {
		t.Fatalf("while both are away: %v", err)
	}
	defer conn.Close()

	// Besides what is no listener of ours.
	stored := store.passedOn(t)
	store["1.2s"], store["other"] = nil, nil
	stored["1.2s"], stored["other"] = nil, nil
	second := doorsOf()
	second.restore(stored)
	if len(store) != 1 {
		t.Errorf("%d names are stored: those that nobody knows are to go", len(store))
	}
	again, files, err := second.atHome("planner")
	if err != nil || again != at {
		t.Fatalf("%+v, %v; want %+v", again, err, at)
	}
	closeAll(files)
	if second.ending == nil {
		t.Error("nobody waits for a daemon: the listeners would be kept for ever")
	}
	l := second.kept[doorKey{at.PolicyID, 0}].listener
	l.TCP[0].(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // it is open
	waited, err := l.TCP[0].Accept()
	if err != nil {
		t.Fatalf("what was sent while both were away: %v", err)
	}
	waited.Close()

	second.end() // the grace is over
	if len(store) != 0 {
		t.Errorf("%d names are still stored after the listeners were given up", len(store))
	}
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", at.TCP)); err == nil {
		c.Close()
		t.Error("a listener that was given up still queues")
	}
}
