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

	"github.com/postern/postern/internal/redirect"
)

const (
	// lookInterval and lookTime: how a new cgroup is watched for processes in
	// network namespaces of their own. A container runtime takes some tens of
	// milliseconds from making the cgroup to executing the program.
	lookInterval = 5 * time.Millisecond
	lookTime     = 3 * time.Second
	// maxLooks bounds the cgroups that are watched so at once. The kernel asks for
	// a listener in any case; this is only earlier, for lookups by UDP.
	maxLooks = 64
	// checkInterval is how often the root is looked at, whether or not the kernel
	// told of a change.
	checkInterval = time.Second
)

// watch keeps the policy root closed and finds new network namespaces in it.
type watch struct {
	server *Server
	looks  chan struct{}
	mu     sync.Mutex
	dirs   map[int32]string // by watch descriptor
}

// run watches until ctx ends.
func (w *watch) run(ctx context.Context) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch the policy root: %w", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	defer context.AfterFunc(ctx, func() { events.Close() })()
	root := w.server.Redirect.Cgroup
	if err := w.add(fd, filepath.Dir(root)); err != nil {
		return err
	}
	w.addAll(fd, root)
	var looking sync.WaitGroup
	defer looking.Wait()
	looking.Go(func() {
		tick := time.NewTicker(checkInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				w.server.ensureClosed()
			}
		}
	})
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
				w.look(ctx, &looking, made)
			}
		}
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

// look opens listeners where the first processes of a new cgroup go.
func (w *watch) look(ctx context.Context, looking *sync.WaitGroup, dir string) {
	agent := w.server.agentAt(dir)
	if agent == nil || strings.HasPrefix(filepath.Base(dir), RunPrefix) {
		return // a run's is opened before it starts
	}
	select {
	case w.looks <- struct{}{}:
	default:
		return
	}
	looking.Go(func() {
		defer func() { <-w.looks }()
		seen := map[uint64]bool{w.server.doors.home: true}
		for end := time.Now().Add(lookTime); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(lookInterval) {
			procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err != nil {
				return
			}
			for pid := range strings.FieldsSeq(string(procs)) {
				inode, err := netnsInode(pid)
				if err != nil || seen[inode] {
					continue
				}
				seen[inode] = true
				n, _ := strconv.Atoi(pid)
				if err := w.server.doors.open(where{agent: agent.Name, cgroup: agent.Cgroup, pid: n}); err != nil {
					w.server.Log.Warn("no listener yet", "agent", agent.Name, "error", err)
				}
			}
		}
	})
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
