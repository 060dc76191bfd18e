package guard

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/sandbox"
)

// bindTime bounds how long the daemon may take to say for whom a run is.
const bindTime = 5 * time.Second

// Launch is a run whose cgroup is there and in which nothing runs yet, as the
// daemon is told of it.
type Launch struct {
	Ticket   string `json:"ticket"` // by which it was announced to the daemon; empty: it was not
	Run      string `json:"run"`
	Agent    string `json:"agent"`
	Cgroup   string `json:"cgroup"` // relative to the cgroup2 root
	CgroupID uint64 `json:"cgroup_id"`
	UID      uint32 `json:"uid"` // who asked for it
}

// Bound is what the daemon says to that: an empty Error, it knows for whom the
// run is.
type Bound struct {
	Run   string `json:"run"`
	Error string `json:"error,omitempty"`
}

// binds are the runs that wait for the daemon's word.
type binds struct {
	mu      sync.Mutex
	waiting map[string]chan error
}

func (b *binds) wait(run string) (answer <-chan error, done func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting == nil {
		b.waiting = map[string]chan error{}
	}
	ch := make(chan error, 1)
	b.waiting[run] = ch
	return ch, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.waiting, run)
	}
}

func (b *binds) answer(a Bound) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	ch := b.waiting[a.Run]
	if ch == nil {
		return fmt.Errorf("no run %q waits", a.Run)
	}
	delete(b.waiting, a.Run)
	if a.Error != "" {
		ch <- errors.New(a.Error)
	} else {
		ch <- nil
	}
	return nil
}

// bind has the daemon say for whom a run is, which was announced to it. Without
// its word nothing is launched.
func (s *Server) bind(ctx context.Context, l Launch) error {
	answer, done := s.binds.wait(l.Run)
	defer done()
	if !s.doors.launches(l) {
		return errors.New("posternd does not run: nobody knows for whom the run would be")
	}
	timer := time.NewTimer(bindTime)
	defer timer.Stop()
	select {
	case err := <-answer:
		return err
	case <-timer.C:
		return fmt.Errorf("posternd did not say within %s for whom the run is", bindTime)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// awaitExpected waits for a daemon that was there a moment ago: it or the guard is
// being replaced.
func (d *doors) awaitExpected(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, bindTime)
	defer cancel()
	for d.expected() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(killPause):
		}
	}
}

func (d *doors) expected() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.daemons) == 0 && d.ending != nil && !d.ended
}

// launches tells the daemon; false: there is none.
func (d *doors) launches(l Launch) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for conn := range d.daemons {
		d.say(conn, reply{Launch: &l})
	}
	return len(d.daemons) > 0
}

// tellEnded tells the daemon that nothing is left of a run.
func (d *doors) tellEnded(run string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for conn := range d.daemons {
		d.say(conn, reply{Ended: run})
	}
}

// announced tells the daemon of a run. Where that was announced to it, its word
// is the condition of the run; where not, it is only told who launched it.
func (s *Server) announced(ctx context.Context, l launching, id uint64) error {
	launch := Launch{
		Ticket: l.run.Ticket, Run: l.name, Agent: l.agent.Name, Cgroup: filepath.Join(l.agent.Cgroup, l.name), CgroupID: id, UID: l.peer.UID,
	}
	s.doors.awaitExpected(ctx)
	if launch.Ticket == "" {
		s.doors.launches(launch)
		return nil
	}
	return s.bind(ctx, launch)
}

// needsIdentity refuses a run for nobody of an agent that acts for somebody. The
// daemon would refuse its connections; it is said here because it is seen here.
func needsIdentity(a *config.Agent, r *Run) error {
	if a.Identity.Required && r.Ticket == "" {
		return fmt.Errorf("agent %s acts for somebody: log in with postern login, or say postern run --as", a.Name)
	}
	return nil
}

// unseen refuses a run that would see the file that its token comes from. In the
// tier redirected, which sees the host's files, another lies over it.
func unseen(token string, box *sandbox.Box) error {
	if token == "" || box == nil {
		return nil
	}
	places := []string{token}
	if real, err := filepath.EvalSymlinks(token); err == nil {
		places = append(places, real)
	}
	for _, b := range box.Binds {
		if slices.ContainsFunc(places, func(at string) bool { return sandbox.Inside(at, b.Path) }) {
			return fmt.Errorf("the run would see its own token: %s lies in %s, which it sees", token, b.Path)
		}
	}
	return nil
}
