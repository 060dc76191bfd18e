package guard

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/postern/postern/internal/sandbox"
)

// liveRun is a run that goes on, and all that has to be put away after it.
type liveRun struct {
	name, agent string
	dir         string // its cgroup
	conn        *net.UnixConn
	process     *process
	used        []sandbox.Placeholder
	published   *published
	stranger    bool // somebody else's than root's or the daemon's

	reading   sync.Mutex // held while a message of the client is read
	paused    bool
	following sync.WaitGroup
}

// launch starts a run, or leaves nothing of it but what begin says.
func (s *Server) launch(ctx context.Context, l launching) (_ *liveRun, err error) {
	g := &liveRun{
		name: l.name, agent: l.agent.Name, dir: filepath.Join(s.mount, l.agent.Cgroup, l.name), conn: l.conn, stranger: !s.trusts(l.peer),
	}
	id, err := s.cgroup(filepath.Join(l.agent.Cgroup, l.name))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.putAway(g)
		}
	}()
	if err := s.announced(ctx, l, id); err != nil {
		return nil, err
	}
	if g.published, err = s.publish(l.agent, l.run); err != nil {
		return nil, err
	}
	building := false
	g.process, err = start(g.dir, l.plan, l.conn, launched{
		entered: func(pid int) error {
			if err := g.published.serve(pid); err != nil {
				return err
			}
			s.placeholders.building.RLock()
			building = true
			return s.doors.open(where{agent: l.agent.Name, cgroup: l.agent.Cgroup, pid: pid})
		},
		built: func(r sandbox.Result) {
			g.used = append(g.used, s.placeholders.take(r)...)
			for _, note := range r.Notes {
				s.Log.Warn("a run is not all it should be", "run", l.name, "what", note)
			}
			s.placeholders.building.RUnlock()
			building = false
		},
	})
	if building {
		s.placeholders.building.RUnlock()
	}
	if err != nil {
		return g, err
	}
	if err := writeReply(l.conn, reply{Started: l.name}); err != nil {
		killEach(g.dir)
	}
	g.follow()
	s.live.add(g)
	return g, nil
}

// attend waits for the end, while signals are passed on, puts away what the run leaves, and
// tells the client how it ended.
func (s *Server) attend(ctx context.Context, g *liveRun) {
	stop := context.AfterFunc(ctx, func() { killEach(g.dir) })
	defer stop()
	g.process.awaitEnd()
	// From here on to the end it is this guard's, and not the next one's.
	s.steady.enterLate()
	defer s.steady.leave()
	defer s.live.remove(g)
	exit := exitOf(g.process.wait())
	s.putAway(g)
	s.Log.Info("run ended", "run", g.name, "agent", g.agent, "code", exit.Code)
	if err := writeReply(g.conn, reply{Exit: &exit}); err != nil {
		s.Log.Info("nobody waits for a run that ended", "run", g.name, "error", err)
	}
}

// putAway removes what a run leaves.
func (s *Server) putAway(g *liveRun) {
	if g.published != nil {
		g.published.close()
	}
	err := removeCgroup(g.dir)
	if err = errors.Join(append(s.placeholders.leave(g.used), err)...); err != nil {
		s.Log.Error("end a run", "run", g.name, "error", err)
	}
	s.doors.tellEnded(g.name)
	// Nobody is in its network namespace any more; the next run may need the room.
	if err := s.doors.tidy(); err != nil {
		s.Log.Error("end a run", "run", g.name, "error", err)
	}
}

// follow passes on what the client sends, until the client goes, and the run with it.
func (g *liveRun) follow() {
	g.following.Go(func() { // ends with the connection, which ends with the run
		for {
			sig, err := g.nextSignal()
			if errors.Is(err, errPaused) {
				return
			}
			if err != nil {
				killEach(g.dir)
				return
			}
			if sig > 0 {
				g.process.signal(sig)
			}
		}
	})
}

// errPaused: the run is being handed over.
var errPaused = errors.New("paused")

// nextSignal reads one message whole, or nothing of it.
func (g *liveRun) nextSignal() (syscall.Signal, error) {
	raw, err := g.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	waiting := raw.Read(readable) // ends early when the run is paused
	g.reading.Lock()
	defer g.reading.Unlock()
	if g.paused {
		return 0, errPaused
	}
	if waiting != nil {
		return 0, waiting
	}
	g.conn.SetReadDeadline(time.Now().Add(requestTimeout))
	defer g.conn.SetReadDeadline(time.Time{})
	var sig signal
	err = readPlain(g.conn, &sig, maxSignal)
	return syscall.Signal(sig.Number), err
}

// readable says whether a read would have something.
func readable(fd uintptr) bool {
	var b [1]byte
	_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR)
}

// pause ends the following, between two messages, and the carrying.
func (g *liveRun) pause() {
	g.reading.Lock()
	g.paused = true
	g.conn.SetReadDeadline(time.Now())
	g.reading.Unlock()
	g.following.Wait()
	g.published.pause()
}

// resume follows and carries again.
func (g *liveRun) resume() {
	g.reading.Lock()
	g.paused = false
	g.conn.SetReadDeadline(time.Time{})
	g.reading.Unlock()
	g.follow()
	g.published.resume()
}

func exitOf(state *os.ProcessState, err error) Exit {
	if err != nil {
		return Exit{Code: exitNotRun}
	}
	if w, ok := state.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return Exit{Code: 128 + int(w.Signal()), Signal: int(w.Signal())}
	}
	return Exit{Code: state.ExitCode()}
}

// exitNotRun is what shells say of a command that could not be run.
const exitNotRun = 126

// liveRuns are the runs that go on.
type liveRuns struct {
	mu sync.Mutex
	n  int // with those that begin or end
	of map[*liveRun]bool
}

// enter counts one in, if there is room.
func (r *liveRuns) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n >= maxRuns {
		return false
	}
	r.n++
	return true
}

func (r *liveRuns) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n--
}

func (r *liveRuns) add(g *liveRun) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[*liveRun]bool{}
	}
	r.of[g] = true
}

func (r *liveRuns) remove(g *liveRun) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.of, g)
}

func (r *liveRuns) all() []*liveRun {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.of))
}
