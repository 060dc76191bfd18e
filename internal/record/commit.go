package record

import (
	"errors"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
)

// parallelSyncs is how many files are synced at once. The kernel joins the
// journal commits and cache flushes of syncs that run together, which is where
// the gain of a group is; more threads than this gain nothing.
const parallelSyncs = 8

// commits groups the sessions that wait for the disk: while one group is being
// synced, the next one gathers.
type commits struct {
	lead sync.Mutex // held by whoever syncs a group

	mu   sync.Mutex
	next *group
}

type group struct {
	files map[*log]int64 // what to sync, and up to where
	dirs  map[string]bool
	done  bool // under commits.lead
	err   error
}

// wait returns when the file is synced up to pos. The first to get the lead
// syncs for all that have gathered by then; the others find it done.
func (c *commits) wait(l *log, pos int64, dir string) error {
	c.mu.Lock()
	if c.next == nil {
		c.next = &group{files: map[*log]int64{}, dirs: map[string]bool{}}
	}
	g := c.next
	g.files[l] = max(g.files[l], pos)
	if dir != "" {
		g.dirs[dir] = true
	}
	c.mu.Unlock()

	c.lead.Lock()
	defer c.lead.Unlock()
	if g.done {
		return g.err
	}
	c.mu.Lock()
	c.next = nil
	c.mu.Unlock()
	g.err = g.sync()
	g.done = true
	return g.err
}

func (g *group) sync() error {
	var all errgroup.Group
	all.SetLimit(parallelSyncs)
	for l, pos := range g.files {
		all.Go(func() error { return l.syncTo(pos) })
	}
	for dir := range g.dirs {
		all.Go(func() error { return syncDir(dir) })
	}
	return all.Wait()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Commit returns when everything appended before it survives what d names, or
// what the store's options name if that is more. The caller calls it between
// the verdict on a request and forwarding it. After an error the session is
// poisoned.
func (s *Session) Commit(d Durability) error {
	if max(d, s.store.opts.Durability) == Process {
		return nil
	}
	s.mu.Lock()
	err, pos, first := s.err, s.log.pos, !s.named
	s.mu.Unlock()
	if err != nil || s.log.synced.Load() >= pos {
		return err
	}
	if err = s.commit(pos, first); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.poison(err)
	}
	return nil
}

func (s *Session) commit(pos int64, first bool) error {
	if !first {
		return s.store.commits.wait(s.log, pos, "")
	}
	// A new file also needs its name, the names of its directories, and its
	// place in the journal.
	s.store.mu.Lock()
	journal, journalPos := s.store.journal, s.store.journal.pos
	s.store.mu.Unlock()
	if err := s.store.commits.wait(journal, journalPos, s.store.dir); err != nil {
		return err
	}
	day := filepath.Dir(s.log.f.Name())
	for dir := filepath.Dir(day); dir != s.store.dir; dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	if err := s.store.commits.wait(s.log, pos, day); err != nil {
		return err
	}
	s.mu.Lock()
	s.named = true
	s.mu.Unlock()
	return nil
}
