// Package guard is the small part of Postern that is root. It hands the
// daemon the kernel maps, makes policy cgroups, says whether the programs are
// attached, and launches runs: a process inside its agent's cgroup from its
// first instruction on, with a mount namespace of its own in which the host CA
// is trusted.
//
// It reads nothing that came over a network. What reaches it comes over a Unix
// socket from processes whose credentials the kernel attests; who may launch
// which agent is in the configuration, and a process inside a policy cgroup may
// ask for nothing. Attaching the programs is package redirect's work, everything
// else the daemon's. Start with Server.answer; launch.go is what happens inside
// the new process.
package guard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
)

const (
	// requestTimeout bounds how long a peer may take to say what it wants.
	requestTimeout = 10 * time.Second
	// maxRuns bounds the runs of one host.
	maxRuns = 1024
	// maxPeers bounds the connections that are served at once, of root and the daemon,
	// and of everybody else; a run is one.
	maxPeers = maxRuns + 64
	// socketMode lets every user connect: the peer's credentials decide.
	socketMode = 0o666
)

// Options of a Server.
type Options struct {
	Log      *slog.Logger
	Config   string           // path of postern.yaml, read anew for every request that needs it
	Redirect redirect.Options // the policy root and its pins
	Daemon   uint32           // uid of posternd
	Grace    time.Duration    // how long connections are queued without a daemon; default 15 s
	// Attended is told when the daemon is there, with all its listeners kept, and when
	// it no longer is. Nil: nobody is told.
	Attended func(bool)
	// Successor is what the guard is to become, as arguments of which the first is a
	// path, after it was looked at whether that may be. Nil: nothing else.
	Successor func(context.Context) ([]string, error)
	// Store keeps listeners, nil: nobody does; Stored are those of a guard that was
	// killed, by name.
	Store  Store
	Stored map[string][]*os.File
	// Bubblewrap is its path; empty: what FindBubblewrap finds.
	Bubblewrap string
}

// Server is the guard's socket.
type Server struct {
	Options
	placeholders placeholders
	mount        string // of cgroup v2
	kernel       *redirect.Kernel
	doors        *doors
	cgroups      cgroupIDs
	binds        binds
	slots        chan struct{} // for root and the daemon
	strangers    chan struct{} // for everybody else
	runs         sync.WaitGroup
	live         liveRuns
	socket       *net.UnixListener
	handing      sync.Mutex // held by the one who hands over
	// What is over before another guard takes over: arriving goes from when a
	// connection is accepted until it is known what is asked, steady is the beginning
	// and the end of a run.
	arriving, steady shift
	large            largeRequests
	inotify          func(flags int) (fd int, err error)
	closing          sync.Mutex // held while the root is being closed again
}

// New returns a server; Serve starts it.
func New(o Options) (*Server, error) {
	mount, err := identity.CgroupMount()
	if err != nil {
		return nil, err
	}
	kernel, err := redirect.OpenPinned(o.Redirect)
	if err != nil {
		return nil, err
	}
	doors, err := newDoors(kernel, o.Log, o.Redirect.Cgroup)
	if err != nil {
		kernel.Close()
		return nil, err
	}
	if o.Grace > 0 {
		doors.grace = o.Grace
	}
	if o.Attended != nil {
		doors.tell = o.Attended
	}
	if o.Store != nil {
		doors.store = o.Store
	}
	return &Server{
		Options: o, mount: mount, kernel: kernel, doors: doors, inotify: unix.InotifyInit1,
		slots: make(chan struct{}, maxPeers), strangers: make(chan struct{}, maxPeers),
	}, nil
}

// Listen makes the socket.
func Listen(at string) (*net.UnixListener, error) { return identity.Listen(at, socketMode) }

// Serve answers until ctx ends, then ends the runs and returns. Before is what the
// guard before has left; nil: nothing.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener, before *Inheritance) error {
	defer s.kernel.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer s.runs.Wait()
	if err := Anchor(s.Redirect.Cgroup); err != nil {
		return err
	}
	s.socket = l
	if before != nil {
		s.inherit(ctx, before)
	} else {
		s.doors.restore(s.Stored)
	}
	orphans := s.orphans() // before there are others
	s.runs.Go(func() { s.buryOrphans(ctx, orphans) })
	s.runs.Go(func() { s.doors.run(ctx) })
	s.runs.Go(func() {
		w := &watch{server: s, looks: make(chan struct{}, maxLooks), dirs: map[int32]string{}}
		w.run(ctx)
	})
	for {
		conn, err := s.accept(ctx, l)
		if err != nil && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("guard socket: %w", err)
		}
		slots := s.slotsFor(conn)
		select {
		case slots <- struct{}{}:
		default: // there is room for root and the daemon, whoever else asks
			conn.Close()
			s.arriving.leave()
			continue
		}
		s.runs.Go(func() {
			held := &slot{slots}
			defer held.leave()
			s.serve(ctx, conn, held)
		})
	}
}

// accept waits for a connection, with which somebody has entered arriving. While a
// guard hands over there is none.
func (s *Server) accept(ctx context.Context, l *net.UnixListener) (*net.UnixConn, error) {
	for {
		s.arriving.enterNext()
		conn, err := l.AcceptUnix()
		if err == nil {
			return conn, nil
		}
		s.arriving.leave()
		if !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			return nil, err
		}
	}
}

// slot is that of a connection among those that are served at once.
type slot struct{ in chan struct{} }

func (l *slot) leave() { <-l.in }

// move says whether there is room elsewhere.
func (l *slot) move(to chan struct{}) bool {
	if l.in == to {
		return true
	}
	select {
	case to <- struct{}{}:
		l.leave()
		l.in = to
		return true
	default:
		return false
	}
}

// slotsFor are those of root and the daemon, or everybody else's, by the uid: who is
// an agent is known later. A peer that cannot be looked at has gone.
func (s *Server) slotsFor(conn *net.UnixConn) chan struct{} {
	if peer, err := credentials(conn); err == nil && (peer.Uid == 0 || peer.Uid == s.Daemon) {
		return s.slots
	}
	return s.strangers
}

// serve reads what is asked, by whom it may be. A stranger's descriptors are not
// taken: to watch or to close one may wait for who serves its file system.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn, held *slot) {
	defer conn.Close()
	heard := sync.OnceFunc(s.arriving.leave)
	defer heard()
	// The kernel closes what is not taken of a stranger's, which may take its time.
	defer time.AfterFunc(requestTimeout+time.Second, heard).Stop()
	peer, err := identity.PeerOf(conn)
	if err != nil {
		s.Log.Error("who asks cannot be told", "error", err)
		return
	}
	defer peer.Close()
	if !s.trusts(peer) && !held.move(s.strangers) {
		return // there is room for root and the daemon, whoever else asks
	}
	c := caller{conn: conn, peer: peer, begun: func() {}}
	q, err := s.hear(&c)
	defer closeAll(c.files)
	if err != nil {
		heard()
		s.Log.Warn("not heard", "pid", peer.PID, "uid", peer.UID, "error", brief(err.Error()))
		writeReply(conn, reply{Error: err.Error()}) //nolint:errcheck // the peer is gone
		return
	}
	if q.Op == opRun || q.Op == opRunFor {
		if !s.steady.enter() {
			writeReply(conn, reply{Retry: true}) //nolint:errcheck // the peer is gone
			return
		}
		c.begun = sync.OnceFunc(s.steady.leave)
		defer c.begun()
	}
	heard()
	if err := s.answer(ctx, c, q); err != nil {
		s.Log.Warn("refused", "op", brief(q.Op), "pid", peer.PID, "uid", peer.UID, "error", brief(err.Error()))
		writeReply(conn, reply{Error: err.Error()}) //nolint:errcheck // the peer is gone
	}
}

// hear reads what is asked, in time.
func (s *Server) hear(c *caller) (q request, err error) {
	c.conn.SetReadDeadline(time.Now().Add(requestTimeout))
	defer c.conn.SetReadDeadline(time.Time{})
	if c.peer.InPolicyCgroup(s.Redirect.Cgroup) {
		s.large.read(c.conn, c.peer.UID, &q) //nolint:errcheck // so that it hears the answer
		return request{}, errors.New("processes inside a policy cgroup may not ask the guard")
	}
	if s.trusts(c.peer) {
		c.files, err = readFrame(c.conn, &q)
		return q, err
	}
	return q, s.large.read(c.conn, c.peer.UID, &q)
}

// caller is who asks.
type caller struct {
	conn  *net.UnixConn
	peer  *identity.Peer
	files []*os.File // that came along
	begun func()     // of a run: from now on it can be handed over
}

// trusts says whether a peer is root, or the daemon's user, and no agent.
func (s *Server) trusts(peer *identity.Peer) bool {
	return (peer.UID == 0 || peer.UID == s.Daemon) && !peer.InPolicyCgroup(s.Redirect.Cgroup)
}

// answer is the list of everything that can be asked, and by whom.
func (s *Server) answer(ctx context.Context, c caller, q request) error {
	switch {
	case !known(q.Op):
		return fmt.Errorf("%q is nothing the guard does: are guard and client of one version?", q.Op)
	case (q.Op == opRun || q.Op == opRunFor) && q.Run != nil:
		return s.run(ctx, c, q.Run)
	case !s.trusts(c.peer):
		return errors.New("this takes root, or the daemon's own user")
	case q.Op == opMaps:
		return s.maps(c.conn)
	case q.Op == opStatus:
		status := redirect.StatusOf(s.Redirect)
		glass, err := s.glass()
		if err != nil {
			return err
		}
		return writeReply(c.conn, reply{Status: &status, Glass: glass})
	case q.Op == opReload && c.peer.UID == 0:
		return s.handOver(ctx, c.conn)
	case q.Op == opGlass && q.Glass != nil:
		if err := s.breakGlass(c.peer, *q.Glass); err != nil {
			return err
		}
		return writeReply(c.conn, reply{})
	case q.Op == opCgroup:
		id, err := s.cgroup(q.Cgroup)
		if err != nil {
			return err
		}
		s.cgroups.set(q.Cgroup, id)
		return writeReply(c.conn, reply{CgroupID: id})
	case q.Op == opAttend:
		defer context.AfterFunc(ctx, func() { c.conn.Close() })()
		s.doors.attend(c.conn)
		return nil
	case q.Op == opNamed:
		named, err := s.container(q.Cgroup)
		if err != nil {
			return err
		}
		return writeReply(c.conn, reply{Container: named})
	case q.Op == opListen:
		return s.listen(c.conn, q)
	case q.Op == opBound && q.Bound != nil:
		if err := s.binds.answer(*q.Bound); err != nil {
			return err
		}
		return writeReply(c.conn, reply{})
	case q.Op == opKeep && q.Door != nil:
		if err := s.doors.keep(*q.Door, c.files); err != nil {
			return err
		}
		return writeReply(c.conn, reply{})
	}
	return fmt.Errorf("%q lacks what it is about", q.Op)
}

func (s *Server) maps(conn *net.UnixConn) error {
	files, err := redirect.MapFiles(s.Redirect)
	if err != nil {
		return err
	}
	var r reply
	var open []*os.File
	for name, f := range files {
		r.Maps = append(r.Maps, name)
		open = append(open, f)
	}
	defer closeAll(open)
	return writeReply(conn, r, open...)
}

// listen opens a listener of an agent. One that is not at home is told on the
// life line, like those that the guard opens by itself.
func (s *Server) listen(conn *net.UnixConn, q request) error {
	cfg, err := s.config()
	if err != nil {
		return err
	}
	agent, err := agentOf(cfg, q.Agent)
	if err != nil {
		return err
	}
	if q.PID != 0 {
		if err := s.doors.open(where{agent.Name, agent.Cgroup, q.PID, q.Netns}); err != nil {
			return err
		}
		return writeReply(conn, reply{})
	}
	at, files, err := s.doors.atHome(agent.Name)
	if err != nil {
		return err
	}
	defer closeAll(files)
	return writeReply(conn, reply{Door: &at}, files...)
}

// cgroup makes a cgroup of an agent and returns its id.
func (s *Server) cgroup(relative string) (uint64, error) {
	full := filepath.Join(s.mount, relative)
	if !filepath.IsLocal(relative) || path.Clean(relative) != relative || !strings.HasPrefix(full, s.Redirect.Cgroup+"/") {
		return 0, fmt.Errorf("cgroup %q is not inside the policy root %s", relative, s.Redirect.Cgroup)
	}
	if err := os.MkdirAll(full, 0o755); err != nil {
		return 0, fmt.Errorf("make the cgroup: %w", err)
	}
	return identity.CgroupID(full)
}

// config reads the configuration. Its problems are the daemon's to report.
func (s *Server) config() (*config.Config, error) {
	cfg, problems := config.Load(s.Config)
	if cfg == nil {
		return nil, fmt.Errorf("the configuration has problems: %s; `postern check` lists them", problems[0])
	}
	return cfg, nil
}

// mayRun says whether a peer may launch an agent.
func mayRun(peer *identity.Peer, a *config.Agent, userOf func(name string) (uint32, error), groupOf func(name string) (uint32, error)) bool {
	if peer.UID == 0 {
		return true
	}
	for _, name := range a.RunBy.Users {
		if uid, err := userOf(name); err == nil && uid == peer.UID {
			return true
		}
	}
	for _, name := range a.RunBy.Groups {
		if gid, err := groupOf(name); err == nil && peer.In(gid) {
			return true
		}
	}
	return false
}

func agentOf(cfg *config.Config, name string) (*config.Agent, error) {
	i := slices.IndexFunc(cfg.Agents, func(a config.Agent) bool { return a.Name == name })
	if i >= 0 {
		return &cfg.Agents[i], nil
	}
	var known []string
	for _, a := range cfg.Agents {
		known = append(known, a.Name)
	}
	return nil, fmt.Errorf("there is no agent %q; configured are: %s", name, strings.Join(known, ", "))
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// killPause is how long a cgroup is given to empty before it is looked at again.
const killPause = 5 * time.Millisecond

// removeCgroup kills what is in a run's cgroup and removes it.
func removeCgroup(dir string) error {
	for range 1000 {
		// From kernel 5.14 on one write kills all at once.
		if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err != nil {
			killEach(dir)
		}
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if below, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs")); len(below) > 0 {
			for _, p := range below {
				removeCgroup(filepath.Dir(p)) //nolint:errcheck // the next Rmdir tells
			}
		}
		time.Sleep(killPause)
	}
	return fmt.Errorf("cgroup %s does not empty", dir)
}

func killEach(dir string) {
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(procs)) {
		var pid int
		if _, err := fmt.Sscan(line, &pid); err == nil && pid > 1 {
			unix.Kill(pid, unix.SIGKILL) //nolint:errcheck // it ended by itself
		}
	}
}
