package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/redirect"
	"github.com/postern/postern/internal/sandbox"
)

// A guard becomes the next version of itself: its process executes the new
// program, and so stays the parent of its runs, with the connections of those who
// wait for them, with listeners and published ports. What is in memory goes along
// as a handover in a file without a name; what is open, as descriptors.

const (
	// handoverVariable names the descriptor of the handover to the next guard.
	handoverVariable = "POSTERN_GUARD_HANDOVER"
	// HandoverVersion changes when an older guard's handover is no longer understood.
	HandoverVersion = 1
)

// handover is what one guard leaves to the next. Numbers of files are descriptors;
// noFile is none.
type handover struct {
	Version      int                    `json:"version"`
	Socket       int                    `json:"socket"` // the guard's
	Doors        []heldDoor             `json:"doors"`
	Runs         []heldRun              `json:"runs"`
	Placeholders map[string]placeholder `json:"placeholders"`
	Cgroups      map[string]uint64      `json:"cgroups"`
}

const noFile = -1

type heldDoor struct {
	At      redirect.Door `json:"at"`
	Files   []int         `json:"files"`
	Opened  time.Time     `json:"opened"`
	Weighed bool          `json:"weighed"`
}

type heldRun struct {
	Name      string                `json:"name"`
	Agent     string                `json:"agent"`
	Dir       string                `json:"dir"`
	PID       int                   `json:"pid"`
	Command   int                   `json:"command"` // pidfd
	Conn      int                   `json:"conn"`
	Used      []sandbox.Placeholder `json:"used"`
	Stranger  bool                  `json:"stranger"`
	Listeners []int                 `json:"listeners"`
	Netns     int                   `json:"netns"`
	Carried   []heldCarried         `json:"carried"`
}

type heldCarried struct {
	Outside int     `json:"outside"`
	Inside  int     `json:"inside"`
	Port    int     `json:"port"`
	Done    [2]bool `json:"done"`
}

// luggage are descriptors that go along.
type luggage struct {
	files []*os.File
	errs  []error
}

// take adds a file, and returns its number.
func (g *luggage) take(f *os.File, err error) int {
	if err != nil {
		g.errs = append(g.errs, err)
		return noFile
	}
	g.files = append(g.files, f)
	fd, err := number(f)
	g.errs = append(g.errs, err)
	return fd
}

// copied adds a copy of what may be a nil file.
func (g *luggage) copied(c syscall.Conn) int {
	if f, ok := c.(*os.File); ok && f == nil {
		return noFile
	}
	return g.take(copyOf(c))
}

// handOverTime bounds how long is waited for what begins or ends: a launch takes a
// minute at most.
const handOverTime = 100 * time.Second

// handOver makes this process the next guard; it returns only with an error, and
// then all goes on as before. A run that is being launched is waited for, and who
// wants another one meanwhile is told to ask again. When who asked for it is gone, or
// the guard is to end, nothing comes of it.
func (s *Server) handOver(ctx context.Context, asked *net.UnixConn) error {
	if s.Successor == nil {
		return errors.New("this guard does not know what it was executed from")
	}
	if !s.handing.TryLock() {
		return errors.New("another reload is under way")
	}
	defer s.handing.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, handOverTime, errors.New("something that is being launched does not come to an end"))
	defer cancel()
	go func() { // ends with the connection
		asked.Read(make([]byte, 1)) //nolint:errcheck // nothing comes
		cancel()
	}()
	argv, err := s.Successor(ctx)
	if err == nil {
		err = s.steady.close(ctx)
	}
	if err != nil {
		return fmt.Errorf("the guard stays what it is: %w", err)
	}
	defer s.steady.open()
	s.socket.SetDeadline(time.Now()) //nolint:errcheck // who comes waits for the next guard
	defer s.socket.SetDeadline(time.Time{})
	if err := s.arriving.close(ctx); err != nil {
		return fmt.Errorf("the guard stays what it is: %w", err)
	}
	defer s.arriving.open()
	s.Log.Info("the next guard takes over", "program", argv[0])
	runs := s.live.all()
	each(runs, (*liveRun).pause)
	defer each(runs, (*liveRun).resume)
	s.closing.Lock()
	defer s.closing.Unlock()
	if problems := redirect.Check(s.Redirect); len(problems) > 0 {
		return fmt.Errorf("the guard stays what it is: the policy root is not closed: %s", problems[0])
	}
	s.doors.mu.Lock()
	defer s.doors.mu.Unlock()
	var along luggage
	defer func() { closeAll(along.files) }()
	h := s.pack(&along, runs)
	if err := errors.Join(along.errs...); err != nil {
		return fmt.Errorf("the guard stays what it is: %w", err)
	}
	return execute(ctx, argv, h, along.files)
}

func each(runs []*liveRun, f func(*liveRun)) {
	var all sync.WaitGroup
	for _, g := range runs {
		all.Go(func() { f(g) })
	}
	all.Wait()
}

// pack is called with the doors locked and the runs paused.
func (s *Server) pack(along *luggage, runs []*liveRun) handover {
	h := handover{Version: HandoverVersion, Socket: along.copied(s.socket), Placeholders: map[string]placeholder{}, Cgroups: s.cgroups.all()}
	for _, d := range s.doors.kept {
		files, err := d.listener.Files()
		along.errs = append(along.errs, err)
		held := heldDoor{At: d.listener.Door(), Opened: d.opened, Weighed: d.weighed}
		for _, f := range files {
			held.Files = append(held.Files, along.take(f, nil))
		}
		h.Doors = append(h.Doors, held)
	}
	for _, g := range runs {
		h.Runs = append(h.Runs, g.pack(along))
	}
	s.placeholders.mu.Lock()
	defer s.placeholders.mu.Unlock()
	for path, p := range s.placeholders.held {
		h.Placeholders[path] = *p
	}
	return h
}

func (g *liveRun) pack(along *luggage) heldRun {
	held := heldRun{
		Name: g.name, Agent: g.agent, Dir: g.dir, PID: g.process.above.Pid, Command: along.copied(g.process.command),
		Conn: along.copied(g.conn), Used: g.used, Stranger: g.stranger, Netns: along.copied(g.published.ns),
	}
	for _, l := range g.published.listeners {
		held.Listeners = append(held.Listeners, along.copied(l))
	}
	for c := range g.published.carried {
		held.Carried = append(held.Carried, heldCarried{along.copied(c.outside), along.copied(c.inside), c.port, c.done})
	}
	return held
}

// execute makes this process another program, with these files open in it.
func execute(ctx context.Context, argv []string, h handover, files []*os.File) error {
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("handover", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("leave a handover: %w", err)
	}
	memory := os.NewFile(uintptr(fd), "handover")
	defer memory.Close()
	if _, err := memory.WriteAt(text, 0); err != nil {
		return fmt.Errorf("leave a handover: %w", err)
	}
	// Nothing else that is started meanwhile is to have them.
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	for _, f := range append(files, memory) {
		n, err := number(f)
		if err == nil {
			defer unix.CloseOnExec(n)
			_, err = unix.FcntlInt(uintptr(n), unix.F_SETFD, 0)
		}
		if err != nil {
			return fmt.Errorf("leave a descriptor: %w", err)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err = syscall.Exec(argv[0], argv, append(os.Environ(), handoverVariable+"="+strconv.Itoa(fd)))
	return fmt.Errorf("execute %s: %w", argv[0], err)
}

// Rehearse says whether a guard would serve after one that leaves a handover of this
// version.
func Rehearse(o Options, version int) error {
	if version != HandoverVersion {
		return fmt.Errorf("a handover of version %d is not understood, only of %d", version, HandoverVersion)
	}
	kernel, err := redirect.OpenPinned(o.Redirect)
	if err != nil {
		return err
	}
	return kernel.Close()
}

// Inheritance is what a guard that this process was before has left.
type Inheritance struct {
	Socket    *net.UnixListener // the guard's
	left      handover
	unclaimed map[int]bool // descriptors that nobody has taken yet
}

// Inherit takes it over. Nil: there was no guard before. To be called before
// anything is executed.
func Inherit() (*Inheritance, error) {
	value, there := os.LookupEnv(handoverVariable)
	if !there {
		return nil, nil
	}
	os.Unsetenv(handoverVariable)
	fd, err := strconv.Atoi(value)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s=%q names no descriptor", handoverVariable, value)
	}
	memory := os.NewFile(uintptr(fd), "handover")
	defer memory.Close()
	unix.CloseOnExec(fd)
	i := &Inheritance{unclaimed: map[int]bool{}}
	if err := json.NewDecoder(io.NewSectionReader(memory, 0, 1<<30)).Decode(&i.left); err != nil {
		return nil, fmt.Errorf("what the guard before has left: %w", err)
	}
	if i.left.Version != HandoverVersion {
		return nil, fmt.Errorf("what the guard before has left is of version %d, and this one understands %d", i.left.Version, HandoverVersion)
	}
	for _, n := range i.left.files() {
		if n != noFile {
			unix.CloseOnExec(n)
			i.unclaimed[n] = true
		}
	}
	socket, err := connection(i, i.left.Socket, net.FileListener)
	if err != nil {
		return nil, fmt.Errorf("the socket of the guard before: %w", err)
	}
	i.Socket = socket.(*net.UnixListener)
	i.Socket.SetUnlinkOnClose(true)
	return i, nil
}

// files are the numbers of all that goes along.
func (h *handover) files() (all []int) {
	all = append(all, h.Socket)
	for _, d := range h.Doors {
		all = append(all, d.Files...)
	}
	for _, r := range h.Runs {
		all = append(append(all, r.Command, r.Conn, r.Netns), r.Listeners...)
		for _, c := range r.Carried {
			all = append(all, c.Outside, c.Inside)
		}
	}
	return all
}

// inherit takes up what the guard before has left, and closes what nobody takes. Its
// runs go on in goroutines of their own.
func (s *Server) inherit(ctx context.Context, i *Inheritance) {
	s.cgroups.of = i.left.Cgroups
	s.doors.inherit(i)
	s.placeholders.held = map[string]*placeholder{}
	for path, p := range i.left.Placeholders {
		s.placeholders.held[path] = &p
	}
	for _, held := range i.left.Runs {
		g, err := i.run(held, s.Log)
		if err != nil {
			s.Log.Error("a run of the guard before is lost", "run", held.Name, "error", err)
			go lose(held)
			continue
		}
		g.published.resume()
		g.follow()
		s.live.add(g)
		slots := s.slots
		if g.stranger {
			slots = s.strangers
		}
		slots <- struct{}{}
		s.live.enter() // there was room before
		s.runs.Go(func() {
			defer func() { g.conn.Close(); s.live.leave(); <-slots }()
			s.attend(ctx, g)
		})
	}
	for fd := range i.unclaimed {
		unix.Close(fd)
	}
	s.Log.Info("taken over from the guard before", "runs", len(i.left.Runs), "listeners", len(i.left.Doors))
}

// lose ends a run for which nobody can wait any more.
func lose(held heldRun) {
	killEach(held.Dir)
	if above, err := os.FindProcess(held.PID); err == nil {
		above.Wait() //nolint:errcheck // nobody asks
	}
	removeCgroup(held.Dir) //nolint:errcheck // it is on record that the run is lost
}

// claim takes one of the descriptors.
func (i *Inheritance) claim(fd int) *os.File {
	delete(i.unclaimed, fd)
	return os.NewFile(uintptr(fd), "inherited")
}

// connection makes what package net has of one.
func connection[T any](i *Inheritance, fd int, of func(*os.File) (T, error)) (T, error) {
	f := i.claim(fd)
	defer f.Close()
	return of(f)
}

func (d *doors) inherit(i *Inheritance) {
	for _, held := range i.left.Doors {
		var files []*os.File
		for _, n := range held.Files {
			files = append(files, i.claim(n))
		}
		err := d.keep(held.At, files)
		closeAll(files)
		if err != nil {
			d.log.Error("a listener of the guard before is lost", "policy", held.At.PolicyID, "error", err)
			d.giveUp(held.At)
			continue
		}
		kept := d.kept[doorKey{held.At.PolicyID, held.At.Netns}]
		kept.opened, kept.weighed = held.Opened, held.Weighed
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.awaitDaemon()
}

// run makes a run of what was left of it.
func (i *Inheritance) run(held heldRun, log *slog.Logger) (*liveRun, error) {
	above, err := os.FindProcess(held.PID)
	if err != nil {
		return nil, err
	}
	conn, err := connection(i, held.Conn, net.FileConn)
	if err != nil {
		return nil, err
	}
	g := &liveRun{
		name: held.Name, agent: held.Agent, dir: held.Dir, conn: conn.(*net.UnixConn), process: &process{above: above},
		used: held.Used, stranger: held.Stranger, published: newPublished(),
	}
	if held.Command != noFile {
		g.process.command = i.claim(held.Command)
	}
	if held.Netns != noFile {
		g.published.ns = i.claim(held.Netns)
	}
	for _, n := range held.Listeners {
		l, err := connection(i, n, net.FileListener)
		if err != nil {
			log.Error("a published port is lost", "run", held.Name, "error", err)
			continue
		}
		g.published.listeners = append(g.published.listeners, l.(*net.TCPListener))
	}
	for _, c := range held.Carried {
		outside, err1 := connection(i, c.Outside, net.FileConn)
		inside, err2 := connection(i, c.Inside, net.FileConn)
		if err := errors.Join(err1, err2); err != nil {
			log.Error("a connection to a published port is lost", "run", held.Name, "error", err)
			continue
		}
		g.published.carried[&carried{outside: outside.(*net.TCPConn), inside: inside.(*net.TCPConn), port: c.Port, done: c.Done}] = true
	}
	return g, nil
}
