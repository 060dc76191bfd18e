package approval

import (
	"context"
	"iter"
	"slices"
	"strings"
	"time"
)

// watchBuffer is how many changes a watcher may lag behind. One that lags
// further loses the oldest and goes on: it asks List when it needs to be sure.
const watchBuffer = 256

// watcher is a bounded queue of changes.
type watcher struct {
	queue []Approval
	ready chan struct{}
}

// view is a copy for others; the store's lock is held. Text, parameters and
// effects never change and are shared.
func (it *item) view() Approval {
	v := it.Approval
	v.Votes = slices.Clone(v.Votes)
	return v
}

// change queues what is to be told and wakes who waits; s.mu is held.
func (s *Store) change(it *item) {
	close(it.changed)
	it.changed = make(chan struct{})
	v := it.view()
	if s.opts.OnChange != nil {
		s.changes = append(s.changes, v)
	}
	for w := range s.watchers {
		if len(w.queue) == watchBuffer {
			w.queue = w.queue[1:]
		}
		w.queue = append(w.queue, v)
		select {
		case w.ready <- struct{}{}:
		default:
		}
	}
}

// tell calls OnChange for what is queued, one at a time and in order. When it
// returns, all that was queued before has been told: a request does not go
// ahead before its approval's use is on record.
func (s *Store) tell() {
	if s.opts.OnChange == nil {
		return
	}
	s.telling.Lock()
	defer s.telling.Unlock()
	s.mu.Lock()
	changes := s.changes
	s.changes = nil
	s.mu.Unlock()
	for _, v := range changes {
		s.opts.OnChange(v)
	}
}

// List returns all approvals that are not done, and the latest that are, oldest
// first.
func (s *Store) List() []Approval {
	defer s.tell()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(s.opts.Now())
	all := make([]Approval, 0, len(s.byID))
	for _, it := range s.byID {
		all = append(all, it.view())
	}
	slices.SortFunc(all, older)
	return all
}

func older(a, b Approval) int {
	if c := a.Created.Compare(b.Created); c != 0 {
		return c
	}
	return strings.Compare(a.ID, b.ID)
}

// Watch yields every approval that is not done as it is now, oldest first, then
// each change,
// until ctx ends or the caller stops.
func (s *Store) Watch(ctx context.Context) iter.Seq[Approval] {
	return func(yield func(Approval) bool) {
		w := &watcher{ready: make(chan struct{}, 1)}
		s.mu.Lock()
		for _, it := range s.byPrint {
			w.queue = append(w.queue, it.view())
		}
		slices.SortFunc(w.queue, older)
		s.watchers[w] = struct{}{}
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			delete(s.watchers, w)
			s.mu.Unlock()
		}()
		for {
			s.mu.Lock()
			queue := w.queue
			w.queue = nil
			s.mu.Unlock()
			for _, v := range queue {
				if !yield(v) {
					return
				}
			}
			if len(queue) > 0 {
				continue
			}
			select {
			case <-w.ready:
			case <-ctx.Done():
				return
			}
		}
	}
}

// Run expires approvals that nobody waits for and nobody looks at, so that the
// end of each is told. It returns when ctx ends.
func (s *Store) Run(ctx context.Context) {
	for {
		s.mu.Lock()
		s.expire(s.opts.Now())
		s.mu.Unlock()
		s.tell()
		timer := time.NewTimer(sweep)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// sweep is the longest that Run sleeps: an approval made meanwhile is not
// noticed, and may end this much late when nobody waits for it.
const sweep = time.Second
