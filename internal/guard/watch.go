package guard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
)

const (
	// lookInterval and lookTime: how a new cgroup is watched for processes in
	// network namespaces of their own. A container runtime takes some tens of
	// milliseconds from making the cgroup to executing the program, and runc only
	// a few from making the network namespace: closeLook is how often it is looked
	// at during the first closeTime.
	lookInterval = 5 * time.Millisecond
	lookTime     = 3 * time.Second
	closeLook    = time.Millisecond
	closeTime    = 500 * time.Millisecond
	// maxLooks bounds the cgroups that are watched so at once. The kernel asks for
	// a listener in any case; this is only earlier, for lookups by UDP.
	maxLooks = 64
	// checkInterval is how often the root is looked at, whether or not the kernel
	// told of a change: whether it is closed, and whether there are listeners
	// wherever processes of agents are. Those that were running when the guard was
	// started, that joined another namespace, or whose start took longer than
	// lookTime get theirs so.
	checkInterval = time.Second
	// watchPause is how long inotify rests that failed.
	watchPause = 10 * time.Second
)

// watch keeps the policy root closed and finds new network namespaces in it.
type watch struct {
	server *Server
	looks  chan struct{}
	mu     sync.Mutex
	dirs   map[int32]string // by watch descriptor
	read   os.FileInfo      // the configuration's file, as the agents were read
	known  []config.Agent
}

// run watches until ctx ends. What it is told of new cgroups makes it quick; what it
// looks at by itself keeps the root closed, also where the kernel has no room for
// another watch.
func (w *watch) run(ctx context.Context) {
	var looking sync.WaitGroup
	defer looking.Wait()
	looking.Go(func() { w.check(ctx) })
	last := ""
	for ctx.Err() == nil {
		err := w.listen(ctx, &looking)
		if err != nil && err.Error() != last {
			w.server.Log.Error("new cgroups of agents are found late", "error", err)
			last = err.Error()
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchPause):
		}
	}
}

// check looks at the root, and for network namespaces without a listener, until
// ctx ends.
func (w *watch) check(ctx context.Context) {
	root := w.server.Redirect.Cgroup
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	last := "" // what was wrong then, which is said once
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.server.ensureClosed()
			w.tellAnew(root)
			err := w.cover(root, map[place]bool{})
			if err != nil && err.Error() != last {
				w.server.Log.Warn("no listener where an agent is", "error", err)
			}
			last = fmt.Sprint(err)
		}
	}
}

// listen acts on what inotify tells, until ctx ends or it tells nothing more.
func (w *watch) listen(ctx context.Context, looking *sync.WaitGroup) error {
	fd, err := w.server.inotify(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch the policy root: %w", err)
	}
	w.mu.Lock()
	w.dirs = map[int32]string{} // of another descriptor's watches
	w.mu.Unlock()
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	defer context.AfterFunc(ctx, func() { events.Close() })()
	root := w.server.Redirect.Cgroup
	if err := w.add(fd, filepath.Dir(root)); err != nil {
		return err
	}
	w.addAll(fd, root)
	buf := make([]byte, 64<<10)
	for {
		n, err := events.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch the policy root: %w", err)
		}
		for _, made := range w.madeIn(buf[:n]) {
			if made == root {
				w.server.ensureClosed()
			}
			if made == root || strings.HasPrefix(made, root+"/") {
				w.addAll(fd, made)
				w.tellAnew(made)
				w.look(ctx, looking, made)
			}
		}
	}
}

// tellAnew tells the daemons when the cgroup of an agent in dir or below has
// another id than they were told: systemd removes that of a slice when it stops,
// and until they know the new one what runs there gets nowhere. It is said again
// until they have asked.
func (w *watch) tellAnew(dir string) {
	if w.server.cgroups.stale(w.server.mount, strings.TrimPrefix(dir, w.server.mount+"/"), w.agents()) {
		w.server.doors.again()
	}
}

// add watches a directory for new ones in it.
func (w *watch) add(fd int, dir string) error {
	wd, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_ONLYDIR)
	if err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirs[int32(wd)] = dir
	return nil
}

// addAll watches a directory and those below, which may end meanwhile.
func (w *watch) addAll(fd int, dir string) {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil //nolint:nilerr // it is gone
		}
		if err := w.add(fd, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.server.Log.Error("cgroups of agents cannot be watched", "error", err)
		}
		return nil
	})
	if err != nil {
		w.server.Log.Error("cgroups of agents cannot be watched", "error", err)
	}
}

// madeIn are the directories that the events say were made.
func (w *watch) madeIn(events []byte) (made []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(events) >= unix.SizeofInotifyEvent {
		var e unix.InotifyEvent
		size := int(unsafe.Sizeof(e))
		if _, err := binary.Decode(events, binary.NativeEndian, &e); err != nil || len(events) < size+int(e.Len) {
			return made
		}
		name := strings.TrimRight(string(events[size:size+int(e.Len)]), "\x00")
		events = events[size+int(e.Len):]
		dir, known := w.dirs[e.Wd]
		switch {
		case e.Mask&unix.IN_IGNORED != 0:
			delete(w.dirs, e.Wd)
		case known && e.Mask&unix.IN_CREATE != 0 && e.Mask&unix.IN_ISDIR != 0:
			made = append(made, filepath.Join(dir, name))
		}
	}
	return made
}

// look opens listeners where the first processes of a new cgroup go, and of
// those in it: what was made before the watch upon it began told nobody.
func (w *watch) look(ctx context.Context, looking *sync.WaitGroup, dir string) {
	if strings.HasPrefix(filepath.Base(dir), RunPrefix) {
		return // a run's is opened before it starts
	}
	select {
	case w.looks <- struct{}{}:
	default:
		return
	}
	looking.Go(func() {
		defer func() { <-w.looks }()
		covered := map[place]bool{}
		began := time.Now()
		var err error
		for looked := time.Duration(0); looked < lookTime && ctx.Err() == nil; looked = time.Since(began) {
			err = w.cover(dir, covered)
			if _, err := os.Stat(dir); err != nil {
				return
			}
			pause := lookInterval
			if looked < closeTime {
				pause = closeLook
			}
			time.Sleep(pause)
		}
		if err != nil {
			w.server.Log.Warn("no listener where an agent is", "cgroup", dir, "error", err)
		}
	})
}

// place is an agent in a network namespace.
type place struct {
	agent string
	netns uint64 // inode
}

// cover opens listeners for the processes of agents in a cgroup and below that
// are in a network namespace of their own and have none there, and notes them.
// What fails is tried again by who calls again: in a new namespace nothing can
// listen before lo is up. A run that is being launched has its own opened when it
// is.
func (w *watch) cover(dir string, covered map[place]bool) error {
	doors := w.server.doors
	if !doors.wanted() {
		return nil
	}
	var failed error
	var agent *config.Agent
	last := ""
	err := processes(dir, func(in, pid string) {
		inode, err := netnsInode(pid)
		if err != nil || inode == doors.home {
			return
		}
		if in != last {
			agent, last = nearest(w.agents(), strings.TrimPrefix(in, w.server.mount+"/")), in
		}
		if agent == nil || covered[place{agent.Name, inode}] || beingLaunched(in, pid) {
			return
		}
		n, _ := strconv.Atoi(pid)
		err = doors.open(where{agent: agent.Name, cgroup: agent.Cgroup, pid: n})
		switch {
		case err == nil:
			covered[place{agent.Name, inode}] = true
		case !errors.Is(err, identity.ErrGone):
			failed = err
		}
	})
	return errors.Join(err, failed)
}

// beingLaunched says whether a process of a run is still the guard's program.
func beingLaunched(in, pid string) bool {
	own, err := os.Stat("/proc/self/exe")
	if err != nil || !strings.HasPrefix(filepath.Base(in), RunPrefix) {
		return false
	}
	exe, err := os.Stat(filepath.Join("/proc", pid, "exe"))
	return err == nil && os.SameFile(own, exe)
}

// agents are those of the configuration, which is read when its file is another
// one: a look has no time for more.
func (w *watch) agents() []config.Agent {
	st, err := os.Stat(w.server.Config)
	if err != nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.read != nil && os.SameFile(w.read, st) && w.read.ModTime().Equal(st.ModTime()) && w.read.Size() == st.Size() {
		return w.known
	}
	cfg, err := w.server.config()
	if err != nil {
		return w.known // the daemon goes on with these, too
	}
	w.read, w.known = st, cfg.Agents
	return w.known
}

// nearest is the agent whose cgroup this is, or is in, relative to the cgroup2
// root; nil: none.
func nearest(agents []config.Agent, cgroup string) *config.Agent {
	var found *config.Agent
	for i := range agents {
		a := &agents[i]
		if (cgroup == a.Cgroup || strings.HasPrefix(cgroup, a.Cgroup+"/")) && (found == nil || len(a.Cgroup) > len(found.Cgroup)) {
			found = a
		}
	}
	return found
}

// ensureClosed attaches the programs again when the root was made anew, and
// makes the agents' cgroups.
func (s *Server) ensureClosed() {
	s.closing.Lock()
	defer s.closing.Unlock()
	if len(redirect.Check(s.Redirect)) == 0 {
		return
	}
	report, err := redirect.Attach(s.Redirect)
	if err != nil {
		s.Log.Error("THE POLICY ROOT IS NOT CLOSED", "root", s.Redirect.Cgroup, "error", err)
		return
	}
	s.Log.Warn("the policy root was open; it is closed again", "root", s.Redirect.Cgroup,
		"attached", report.Attached, "updated", report.Updated)
	if err := Anchor(s.Redirect.Cgroup); err != nil {
		s.Log.Error("anchor", "error", err)
	}
	cfg, err := s.config()
	if err != nil {
		s.Log.Error("cgroups of agents", "error", err)
		return
	}
	for _, a := range cfg.Agents {
		if _, err := s.cgroup(a.Cgroup); err != nil {
			s.Log.Error("cgroup of an agent", "agent", a.Name, "error", err)
		}
	}
	s.doors.again()
}
