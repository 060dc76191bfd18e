package record

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/pkg/recording"
	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system that is soon full.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a small file system can be mounted by root only")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal("mount a small file system: ", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

var large = &engine.Request{Kind: "query", Text: strings.Repeat("x", 3000)}

// fill writes requests until there is an error.
func fill(t *testing.T, c *Session) (n uint64, err error) {
	t.Helper()
	for n < 10_000 {
		if _, err = c.Request(large); err != nil {
			return n, err
		}
		n++
	}
	t.Fatal("the disk is never full")
	return
}

// On a full disk an append says ENOSPC, and nothing that was said to be on
// record is lost. When there is room again, new sessions are recorded.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t, "1m")
	s := openStore(t, dir, Options{})
	quiet, err := s.Session(meta("quiet"))
	must(t, err)
	busy, err := s.Session(meta("busy"))
	must(t, err)
	n, err := fill(t, busy)
	if !errors.Is(err, unix.ENOSPC) || n < 50 {
		t.Fatalf("after %d requests: %v", n, err)
	}
	if _, again := busy.Request(aRequest); again != err {
		t.Error("a later, smaller request: ", again)
	}
	for { // what is left of the disk
		filler, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		must(t, err)
		_, err = filler.Write(make([]byte, 4096))
		must(t, filler.Close())
		if err != nil {
			break
		}
	}
	// A session that has room made ahead uses it up, by way of its mapping and
	// without a SIGBUS, and then hears the same.
	if m, err := fill(t, quiet); !errors.Is(err, unix.ENOSPC) || m == 0 {
		t.Errorf("the quiet session, after %d requests: %v", m, err)
	}
	if c, err := s.Session(meta("new")); !errors.Is(err, unix.ENOSPC) {
		t.Error("a new session: ", c, err)
	}
	verified(t, dir)
	must(t, os.Remove(filepath.Join(dir, "filler")))
	if err := busy.Close(End{}); !errors.Is(err, unix.ENOSPC) {
		t.Error("the end of a session that lacks events:", err)
	}
	quiet.Close(End{})
	later, err := s.Session(meta("later"))
	must(t, err)
	must(t, later.Close(End{}))
	must(t, s.Close())
	verified(t, dir)
	if got := summary(t, dir, "busy"); got.How != recording.HowPoisoned {
		t.Errorf("%+v", got)
	}
	count := uint64(0)
	for _, ev := range events(t, busy.Path()) {
		if _, ok := ev.Body.(*recording.Request); ok {
			count++
		}
	}
	if count != n {
		t.Errorf("%d requests are there, %d were said to be", count, n)
	}
}

// A start on a full disk says so, and leaves what is there as it is.
func TestStartOnFullDisk(t *testing.T) {
	dir := smallDisk(t, "256k")
	life(t, dir, "s1", Options{})
	must(t, os.WriteFile(filepath.Join(dir, "filler"), bytes.Repeat([]byte{1}, 120<<10), 0o600))
	for {
		filler, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_APPEND|os.O_WRONLY, 0o600)
		must(t, err)
		_, err = filler.Write(make([]byte, 4096))
		must(t, filler.Close())
		if err != nil {
			break
		}
	}
	for range 2 {
		if s, err := Open(dir, Options{}); !errors.Is(err, unix.ENOSPC) {
			t.Fatal("a start on a full disk: ", s, err)
		}
		verified(t, dir)
	}
	must(t, os.Remove(filepath.Join(dir, "filler")))
	life(t, dir, "s2", Options{})
	verified(t, dir)
}

func TestQuotas(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{TotalBytes: 250 << 10, AgentBytes: 128 << 10})
	open := func(agent, id string) (*Session, error) {
		m := meta(id)
		m.Flow.Agent = agent
		return s.Session(m)
	}
	a, err := open("a", "a1")
	must(t, err)
	if n, err := fill(t, a); !errors.Is(err, ErrQuota) || n < 10 || !strings.Contains(err.Error(), "agent a") {
		t.Errorf("the agent's quota, after %d requests: %v", n, err)
	}
	b, err := open("b", "b1")
	must(t, err)
	if _, err := b.Request(large); err != nil {
		t.Error("another agent: ", err)
	}
	c, err := open("c", "c1")
	must(t, err)
	if _, err := fill(t, c); !errors.Is(err, ErrQuota) {
		t.Error("the third agent: ", err)
	}
	if _, err := open("d", "d1"); !errors.Is(err, ErrQuota) || !strings.Contains(err.Error(), "this host") {
		t.Error("the host's quota: ", err)
	}
	if u := s.Usage(); u.Total > 250<<10 || u.Agents["a"] > 128<<10 || u.Agents["d"] != 0 {
		t.Errorf("%+v", u)
	}
	for _, session := range []*Session{a, b, c} {
		session.Close(End{})
	}
	before := s.Usage()
	must(t, s.Close())
	// The quota counts whole blocks of what is there, also after a restart.
	s = openStore(t, dir, Options{TotalBytes: 250 << 10, AgentBytes: 128 << 10})
	if after := s.Usage(); after.Total != before.Total || after.Agents["a"] != before.Agents["a"] {
		t.Errorf("%+v before the restart, %+v after it", before, after)
	}
	must(t, s.Close())
	verified(t, dir)
}

// Many sessions that commit at once, whose every event is synced when they are
// told so.
func TestCommitHost(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	var all sync.WaitGroup
	for _, id := range []string{"a", "b", "c", "d"} {
		all.Go(func() {
			c, err := s.Session(meta(id))
			if err != nil {
				t.Error(err)
				return
			}
			for range 20 {
				if _, err := c.Request(aRequest); err != nil {
					t.Error(err)
				}
				pos := c.log.pos
				if c.log.synced.Load() >= pos {
					t.Error("synced before anyone asked")
				}
				if err := c.Commit(Process); err != nil || c.log.synced.Load() >= pos {
					t.Error("a commit for the process's death went to the disk", err)
				}
				if err := c.Commit(Host); err != nil || c.log.synced.Load() < pos || !c.named {
					t.Error("not on the disk after the commit", err)
				}
			}
			if err := c.Close(End{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	must(t, s.Close())
	verified(t, dir)
}

// With a store that is durable for the host, every commit is.
func TestStoreDurability(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{Durability: Host})
	c, err := s.Session(meta("s1"))
	must(t, err)
	must(t, c.Commit(Process))
	if c.log.synced.Load() < c.log.pos || s.journal.synced.Load() == 0 {
		t.Error("not on the disk")
	}
	must(t, c.Close(End{}))
	must(t, s.Close())
}

// A sync that fails leaves nothing that may be forwarded: the session is
// poisoned, as it is after an append that failed.
func TestCommitFails(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	c, err := s.Session(meta("s1"))
	must(t, err)
	must(t, c.Commit(Host))
	_, err = c.Request(aRequest)
	must(t, err)
	f := c.log.f
	c.log.f, err = os.Open(os.DevNull) // which cannot be synced
	must(t, err)
	first := c.Commit(Host)
	if first == nil || !strings.Contains(first.Error(), "sync") {
		t.Fatal("a commit that cannot be: ", first)
	}
	c.log.f.Close()
	c.log.f = f
	if _, err := c.Request(aRequest); err != first {
		t.Error("an append after it: ", err)
	}
	if err := c.Commit(Host); err != first {
		t.Error("a commit after it: ", err)
	}
	c.Close(End{})
	must(t, s.Close())
	verified(t, s.dir)
}
