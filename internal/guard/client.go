package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
)

// Client asks the guard at a socket. Each call is a connection of its own.
type Client struct{ Socket string }

// ErrNotRunning is wrapped when nobody listens at the socket.
var ErrNotRunning = errors.New("postern-guard is not running")

func (c Client) dial(ctx context.Context) (*net.UnixConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.Socket)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: nobody listens at %s", ErrNotRunning, c.Socket)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the guard: %w", err)
	}
	if err := isGuards(conn.(*net.UnixConn)); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%s: %w", c.Socket, err)
	}
	return conn.(*net.UnixConn), nil
}

// isGuards makes sure that root listens, or who asks: the daemon's user could put
// a socket of its own in the place of the guard's.
func isGuards(conn *net.UnixConn) error {
	peer, err := credentials(conn)
	if err != nil {
		return fmt.Errorf("who listens: %w", err)
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d listens there, and not root: it is not the guard", peer.Uid)
	}
	return nil
}

// ask asks again where the guard went before it answered: it was replaced, and what
// is asked so may be asked twice.
func (c Client) ask(ctx context.Context, q request, files ...*os.File) (reply, []*os.File, error) {
	r, open, err := c.askOnce(ctx, q, files...)
	if isGone(err) && ctx.Err() == nil {
		return c.askOnce(ctx, q, files...)
	}
	return r, open, err
}

// isGone says whether a guard ended with a connection on its hands.
func isGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

func (c Client) askOnce(ctx context.Context, q request, files ...*os.File) (reply, []*os.File, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return reply{}, nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := writeFrame(conn, q, files...); err != nil {
		return reply{}, nil, fmt.Errorf("ask the guard: %w", err)
	}
	return readReply(conn)
}

// Reload has the guard become the program that lies where its own did, with its
// runs, and waits until that answers.
func (c Client) Reload(ctx context.Context) error {
	_, files, err := c.askOnce(ctx, request{Op: opReload})
	closeAll(files)
	if !isGone(err) {
		return err
	}
	_, err = c.Status(ctx)
	return err
}

func readReply(conn *net.UnixConn) (r reply, files []*os.File, err error) {
	if files, err = readFrame(conn, &r); err != nil {
		closeAll(files)
		return r, nil, fmt.Errorf("read the guard's answer: %w", err)
	}
	if r.Error != "" {
		closeAll(files)
		return r, nil, errors.New("the guard refuses: " + r.Error)
	}
	return r, files, nil
}

// Maps asks for the kernel maps, by name. The caller closes the files.
func (c Client) Maps(ctx context.Context) (map[string]*os.File, error) {
	r, files, err := c.ask(ctx, request{Op: opMaps})
	if err != nil {
		return nil, err
	}
	if len(r.Maps) != len(files) {
		closeAll(files)
		return nil, fmt.Errorf("the guard names %d maps and sends %d", len(r.Maps), len(files))
	}
	byName := map[string]*os.File{}
	for i, name := range r.Maps {
		byName[name] = files[i]
	}
	return byName, nil
}

// Status is what the guard says of the policy root.
type Status struct {
	redirect.Status                      // what is attached, and what is wrong with it
	Glass           map[string]time.Time // for whom the glass is broken, "*" for all, and until when
}

// Status asks for it.
func (c Client) Status(ctx context.Context) (Status, error) {
	r, files, err := c.ask(ctx, request{Op: opStatus})
	closeAll(files)
	if err != nil {
		return Status{}, err
	}
	if r.Status == nil {
		return Status{}, errors.New("the guard says nothing of what is attached")
	}
	return Status{*r.Status, r.Glass}, nil
}

// BreakGlass lets agents past the gateway for a while, or no longer.
func (c Client) BreakGlass(ctx context.Context, g Glass) error {
	_, files, err := c.ask(ctx, request{Op: opGlass, Glass: &g})
	closeAll(files)
	return err
}

// Cgroup makes a cgroup of an agent, given relative to the cgroup2 root, and
// returns its id.
func (c Client) Cgroup(ctx context.Context, relative string) (uint64, error) {
	r, files, err := c.ask(ctx, request{Op: opCgroup, Cgroup: relative})
	closeAll(files)
	return r.CgroupID, err
}

// Container asks which container a cgroup of an agent is of, relative to the
// cgroup2 root; nil: of none.
func (c Client) Container(ctx context.Context, cgroup string) (*identity.Container, error) {
	r, files, err := c.ask(ctx, request{Op: opNamed, Cgroup: cgroup})
	closeAll(files)
	return r.Container, err
}

// Listen asks for an agent's listener at home. The caller closes the files.
func (c Client) Listen(ctx context.Context, agent string) (redirect.Door, []*os.File, error) {
	r, files, err := c.ask(ctx, request{Op: opListen, Agent: agent})
	if err != nil {
		return redirect.Door{}, nil, err
	}
	if r.Door == nil {
		closeAll(files)
		return redirect.Door{}, nil, errors.New("the guard sends no listener")
	}
	return *r.Door, files, nil
}

// ListenAt asks for an agent's listener where a process of it is. It comes on
// the life line (Attend). Netns is what the kernel asked with.
func (c Client) ListenAt(ctx context.Context, agent string, pid int, netns uint64) error {
	_, files, err := c.ask(ctx, request{Op: opListen, Agent: agent, PID: pid, Netns: netns})
	closeAll(files)
	return err
}

// Keep gives the guard a listener that it does not have. The files remain the
// caller's to close.
func (c Client) Keep(ctx context.Context, at redirect.Door, files []*os.File) error {
	_, open, err := c.ask(ctx, request{Op: opKeep, Door: &at}, files...)
	closeAll(open)
	return err
}

// Bound tells the guard for whom a run is, or why it is not to be.
func (c Client) Bound(ctx context.Context, b Bound) error {
	_, files, err := c.ask(ctx, request{Op: opBound, Bound: &b})
	closeAll(files)
	return err
}

// News is what a daemon is told on its life line: one of these.
type News struct {
	Door   *redirect.Door // a listener somewhere else than at home
	Files  []*os.File     // its sockets, the receiver's to close
	Closed *redirect.Door // the agent is there no longer
	Again  bool           // cgroups of agents were made anew, and have other ids
	Launch *Launch        // a run that waits for Bound
	Ended  string         // a run of which nothing is left
}

// Attend is the daemon's life line: while it lasts the guard keeps listeners
// open, and for a while afterwards. F is told the news. It returns when ctx
// ends or the guard does.
func (c Client) Attend(ctx context.Context, f func(News)) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := writeFrame(conn, request{Op: opAttend}); err != nil {
		return fmt.Errorf("ask the guard: %w", err)
	}
	for {
		r, files, err := readReply(conn)
		if ctx.Err() != nil {
			closeAll(files)
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		f(News{Door: r.Door, Files: files, Closed: r.Closed, Again: r.Again, Launch: r.Launch, Ended: r.Ended})
	}
}

// Run launches an agent and waits for its end. Signals are passed on to it; before it
// has started, one that is to end it does. When ctx ends, so does the run. Started,
// which may be nil, is told its name.
func (c Client) Run(ctx context.Context, run Run, stdio [3]*os.File, signals <-chan os.Signal, started func(name string)) (Exit, error) {
	for _, f := range stdio {
		f.Fd() // makes what Go opened block, as commands expect of what they are given
	}
	for {
		exit, err := c.runOnce(ctx, run, stdio, signals, started)
		if !errors.Is(err, errRetry) {
			return exit, err
		}
		select {
		case <-ctx.Done():
			return Exit{}, ctx.Err()
		case s := <-signals:
			if n, ends := endsBefore(s); ends {
				return exitBySignal(n), nil
			}
		case <-time.After(retryPause):
		}
	}
}

// retryPause is how long is waited for the next guard. It comes when what is being
// launched has been.
const retryPause = 100 * time.Millisecond

// startTime is how long a run that is being launched may take to start, where it is to
// end already.
const startTime = 2 * time.Second

// errRetry: nothing was launched, for another guard takes over.
var errRetry = errors.New("another guard takes over")

// endsBefore says whether a signal ends a run that has not started.
func endsBefore(s os.Signal) (unix.Signal, bool) {
	n, ok := s.(unix.Signal)
	return n, ok && slices.Contains([]unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT}, n)
}

func exitBySignal(n unix.Signal) Exit { return Exit{Code: 128 + int(n), Signal: int(n)} }

func (c Client) runOnce(ctx context.Context, run Run, stdio [3]*os.File, signals <-chan os.Signal, started func(name string)) (Exit, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return Exit{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	op := opRun
	if run.Ticket != "" {
		op = opRunFor
	}
	if err := writeFrame(conn, request{Op: op, Run: &run}); err != nil {
		return Exit{}, fmt.Errorf("ask the guard: %w", err)
	}
	over := make(chan struct{})
	defer close(over)
	answers := answersOn(conn, over)
	var early []unix.Signal // before it has started
	var ending unix.Signal  // that of these which ends it
	var late <-chan time.Time
	for running, launched := false, false; ; {
		select {
		case s := <-signals:
			n, ends := endsBefore(s)
			switch {
			case running:
				writeFrame(conn, signal{int(n)}) //nolint:errcheck // the run has ended
			case ends && !launched:
				return exitBySignal(n), nil
			case ends && late == nil:
				ending, late = n, time.After(startTime)
				fallthrough
			default:
				early = append(early, n)
			}
		case <-late: // with the connection, whatever is being launched
			return exitBySignal(ending), nil
		case a := <-answers:
			switch {
			case a.err != nil:
				return Exit{}, a.err
			case a.Retry:
				return Exit{}, errRetry
			case a.Stdio:
				launched, err = true, sendStdio(conn, stdio)
			case a.Started != "":
				running, late = true, nil
				for _, n := range early {
					writeFrame(conn, signal{int(n)}) //nolint:errcheck // the run has ended
				}
				if started != nil {
					started(a.Started)
				}
			case a.Exit != nil:
				return *a.Exit, nil
			}
		}
		if err != nil {
			return Exit{}, fmt.Errorf("ask the guard: %w", err)
		}
	}
}

// answer is one of the guard's.
type answer struct {
	reply
	err error
}

// answersOn are those until the run has ended, or over.
func answersOn(conn *net.UnixConn, over <-chan struct{}) <-chan answer {
	answers := make(chan answer)
	go func() {
		for {
			r, files, err := readReply(conn)
			closeAll(files)
			select {
			case answers <- answer{r, err}:
			case <-over:
				return
			}
			if err != nil || r.Exit != nil {
				return
			}
		}
	}()
	return answers
}
