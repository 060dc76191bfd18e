package guard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
)

const (
	// graceTime is how long connections are queued when there is no daemon: a
	// restart or an upgrade is over by then. After it they are refused.
	graceTime = 15 * time.Second
	// maxDoorsPerAgent bounds the network namespaces of one agent that have
	// listeners, so that an agent that makes many of them has none left for itself
	// only.
	maxDoorsPerAgent = 64
	// maxDoors bounds those of all agents: six descriptors each.
	maxDoors = 1024
	// tidyInterval is how often network namespaces are looked for that nobody is in
	// any more. A listener keeps its namespace alive.
	tidyInterval = 2 * time.Second
	// settleTime is how long a container is given to become what it will be: while
	// it starts its first process is the runtime's, which has more.
	settleTime = time.Second
	// pushTimeout bounds how long a daemon may take to read what it is told, and
	// whoever asks to read the answer.
	pushTimeout = 5 * time.Second
)

// doors are the listeners of all agents, in all network namespaces. The guard
// opens them, for it takes root to do so in somebody else's namespace, and
// keeps a copy of each: so they outlive the daemon. It accepts nothing.
type doors struct {
	kernel *redirect.Kernel
	log    *slog.Logger
	root   string // the policy root, as a path
	home   uint64 // inode of the guard's own network namespace
	grace  time.Duration
	tell   func(bool) // that there is a daemon, or is none
	store  Store
	stored int // bytes of names, see maxStored; with mu

	mu      sync.Mutex
	kept    map[doorKey]*door
	daemons map[*net.UnixConn]bool
	ending  *time.Timer // runs while there is no daemon
	ended   bool        // it ran out: until there is a daemon nothing is opened
}

// doorKey: one listener for each policy and network namespace; 0 is home.
type doorKey struct {
	policy uint32
	netns  uint64
}

type door struct {
	listener *redirect.Listener
	inode    uint64 // of the network namespace; 0 at home
	opened   time.Time
	weighed  bool // whether who is there can send past the hooks was looked at
}

func newDoors(k *redirect.Kernel, log *slog.Logger, root string) (*doors, error) {
	home, err := netnsInode("self")
	if err != nil {
		return nil, err
	}
	if err := k.SetHome(); err != nil {
		return nil, err
	}
	return &doors{
		kernel: k, log: log, root: root, home: home, grace: graceTime, tell: func(bool) {}, store: noStore{},
		kept: map[doorKey]*door{}, daemons: map[*net.UnixConn]bool{},
	}, nil
}

// netnsInode identifies the network namespace of a process.
func netnsInode(pid string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join("/proc", pid, "ns/net"), &st); err != nil {
		return 0, fmt.Errorf("network namespace of process %s: %w", pid, err)
	}
	return st.Ino, nil
}

// atHome opens an agent's listener in the guard's own network namespace, or
// returns the one that is open. The caller closes the files.
func (d *doors) atHome(agent string) (redirect.Door, []*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := doorKey{redirect.PolicyID(agent), 0}
	if d.kept[key] == nil {
		l, err := d.kernel.Listen(key.policy)
		if err != nil {
			return redirect.Door{}, nil, err
		}
		d.kept[key] = &door{listener: l}
		d.putInStore(l)
	}
	files, err := d.kept[key].listener.Files()
	return d.kept[key].listener.Door(), files, err
}

// wanted says whether there is anybody to serve listeners, or soon will be.
func (d *doors) wanted() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.ended
}

// where a process of an agent is, that is to have a listener.
type where struct {
	agent  string
	cgroup string // the agent's, relative to the cgroup2 root
	pid    int
	netns  uint64 // the cookie, where the kernel told it; else 0
}

// open opens the agent's listener in the network namespace of a process and
// tells the daemon. It does nothing at home, or where one is open.
func (d *doors) open(w where) error {
	ns, inode, err := d.netnsOf(w)
	if err != nil || ns == nil {
		return err
	}
	defer ns.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	policy := redirect.PolicyID(w.agent)
	mine := 0
	for key, o := range d.kept {
		if key.policy == policy && key.netns != 0 {
			if o.inode == inode {
				return nil
			}
			mine++
		}
	}
	if mine >= maxDoorsPerAgent || len(d.kept) >= maxDoors {
		return fmt.Errorf("agent %s has listeners in %d network namespaces: more are not opened", w.agent, mine)
	}
	var l *redirect.Listener
	err = inside(ns, func() error {
		cookie, err := redirect.NetnsCookie()
		if err != nil {
			return err
		}
		if cookie == 0 {
			cookie = w.netns // a kernel before 5.14, which told it in its own way
		}
		l, err = d.kernel.ListenIn(policy, cookie)
		return err
	})
	if err != nil {
		return fmt.Errorf("listen where process %d is: %w", w.pid, err)
	}
	d.kept[doorKey{policy, l.Door().Netns}] = &door{listener: l, inode: inode, opened: time.Now()}
	d.putInStore(l)
	for conn := range d.daemons {
		d.push(conn, l)
	}
	d.log.Info("listener opened", "agent", w.agent, "netns", inode, "for_pid", w.pid)
	return nil
}

// netnsOf opens the network namespace of a process, after making sure that it
// is one of the agent's. Nil: it is at home.
func (d *doors) netnsOf(w where) (*os.File, uint64, error) {
	facts, err := identity.AtAccept(w.pid)
	if err != nil {
		return nil, 0, err
	}
	if c := strings.TrimPrefix(facts.Cgroup, "/"); c != w.cgroup && !strings.HasPrefix(c, w.cgroup+"/") {
		return nil, 0, fmt.Errorf("process %d is not one of agent %s", w.pid, w.agent)
	}
	ns, err := os.Open(filepath.Join("/proc", strconv.Itoa(w.pid), "ns/net"))
	if err != nil {
		return nil, 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil || st.Ino == d.home {
		ns.Close()
		return nil, 0, err
	}
	return ns, st.Ino, nil
}

// inside runs f on a thread in the network namespace; the thread ends with it.
func inside(ns *os.File, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}

// keep takes a listener that the daemon has and the guard, started anew, does
// not. It closes none of the files.
func (d *doors) keep(at redirect.Door, files []*os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := doorKey{at.PolicyID, at.Netns}
	if d.kept[key] != nil {
		return nil
	}
	l, err := d.kernel.Adopt(at, files)
	if err != nil {
		return err
	}
	kept := &door{listener: l}
	if at.Netns != 0 {
		if kept.inode, err = l.NetnsInode(); err != nil {
			l.Close()
			return err
		}
	}
	d.kept[key] = kept
	d.putInStore(l)
	return nil
}

// push tells a daemon of a listener; called with mu held. A daemon that does
// not read is one that is gone.
func (d *doors) push(conn *net.UnixConn, l *redirect.Listener) {
	files, err := l.Files()
	if err != nil {
		d.log.Error("hand over a listener", "error", err)
		return
	}
	defer closeAll(files)
	at := l.Door()
	d.say(conn, reply{Door: &at}, files...)
}

func (d *doors) say(conn *net.UnixConn, r reply, files ...*os.File) {
	if err := writeReply(conn, r, files...); err != nil {
		delete(d.daemons, conn)
		conn.Close()
	}
}

// again tells the daemons that cgroups of agents were made anew.
func (d *doors) again() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for conn := range d.daemons {
		d.say(conn, reply{Again: true})
	}
}

// attend serves a daemon's life line: it is told of every listener outside of
// home, of those that are open first.
func (d *doors) attend(conn *net.UnixConn) {
	d.mu.Lock()
	d.daemons[conn] = true
	if d.ending != nil {
		d.ending.Stop()
		d.ending = nil
	}
	d.ended = false
	for key, o := range d.kept {
		if key.netns != 0 {
			d.push(conn, o.listener)
		}
	}
	d.tell(true)
	d.mu.Unlock()
	var nothing request
	files, _ := readFrame(conn, &nothing) // ends with the daemon
	closeAll(files)
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.daemons, conn)
	if len(d.daemons) == 0 {
		d.tell(false)
	}
	d.awaitDaemon()
}

// awaitDaemon gives a daemon time to come; called with mu held.
func (d *doors) awaitDaemon() {
	if len(d.daemons) == 0 && d.ending == nil {
		d.log.Info("no daemon; connections are queued", "for", d.grace)
		d.ending = time.AfterFunc(d.grace, d.end)
	}
}

// end gives all listeners up: what is queued is reset, what comes is refused.
func (d *doors) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.daemons) > 0 {
		return
	}
	d.ended = true
	if len(d.kept) == 0 {
		return
	}
	d.log.Warn("still no daemon; connections are refused from now on")
	for key, o := range d.kept {
		d.close(key, o)
	}
}

// close closes one; called with mu held. At home its port stays known to the
// kernel, and nobody is there: ECONNREFUSED.
func (d *doors) close(key doorKey, o *door) {
	delete(d.kept, key)
	d.takeFromStore(o.listener)
	if key.netns != 0 {
		if err := d.kernel.Forget(key.policy, key.netns); err != nil {
			d.log.Error("close a listener", "error", err)
		}
	}
	o.listener.Close() //nolint:errcheck // nothing depends on it any more
	if key.netns != 0 {
		d.log.Info("listener closed", "netns", o.inode)
	}
	at := o.listener.Door()
	for conn := range d.daemons {
		d.say(conn, reply{Closed: &at})
	}
}

// run tidies until ctx ends, then closes the guard's copies. The daemon's go on.
func (d *doors) run(ctx context.Context) {
	tick := time.NewTicker(tidyInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			if err := d.tidy(); err != nil {
				d.log.Error("look for network namespaces", "error", err)
			}
		case <-ctx.Done():
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ending != nil {
		d.ending.Stop()
	}
	for _, o := range d.kept {
		o.listener.Close() //nolint:errcheck // nothing depends on it any more
	}
	clear(d.kept)
}

// tidy closes listeners where no process of the policy root is any more.
func (d *doors) tidy() error {
	began := time.Now()
	d.mu.Lock()
	away := 0
	for key := range d.kept {
		if key.netns != 0 {
			away++
		}
	}
	d.mu.Unlock()
	if away == 0 {
		return nil
	}
	inhabited := map[uint64][]string{}
	err := processes(d.root, func(_, pid string) {
		if inode, err := netnsInode(pid); err == nil {
			inhabited[inode] = append(inhabited[inode], pid)
		}
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, o := range d.kept {
		if key.netns == 0 || o.opened.After(began.Add(-settleTime)) {
			continue
		}
		if inhabited[o.inode] == nil {
			d.close(key, o)
			continue
		}
		if !o.weighed {
			o.weighed = true
			d.weigh(inhabited[o.inode])
		}
	}
	return nil
}

// processes calls f with every process in a cgroup and below, and with the
// directory of the cgroup that it is in.
func processes(root string, f func(in, pid string)) error {
	return filepath.WalkDir(root, func(dir string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !e.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		for pid := range strings.FieldsSeq(string(procs)) {
			f(dir, pid)
		}
		return nil
	})
}
