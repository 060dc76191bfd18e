package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/sandbox"
)

// Arguments that make postern-guard something else than the guard.
const (
	launchArg = "launch"        // the launcher of a run
	insideArg = "launch-inside" // the same, inside of bubblewrap's sandbox
	firstArg  = "launch-first"  // the first process of a run that sees no others
)

// Descriptors of a launcher besides the three of the command.
const (
	planFD   = 3
	reportFD = 4
	// complaintFD is what bubblewrap has for standard error: its words are the
	// guard's to tell.
	complaintFD = 5
	// These are empty, and kept free for what is passed on to the launcher inside.
	stdioFD   = 6 // and the two behind it
	argsFD    = 9
	programFD = 10
	// clientFD is the connection of who waits for the run.
	clientFD = 11
)

// launchPlan is what the launcher does.
type launchPlan struct {
	Args  []string
	Env   []string
	Dir   string
	As    who
	Files []file
	Box   *sandbox.Box // nil: the tier redirected
	Bwrap string       // path of bubblewrap
	// Alone: it sees the processes of its run only. Hide is a file that it does not
	// see. Both are for the tier redirected; a sandbox has them anyway.
	Alone bool
	Hide  string
	// Mounted: what it sees is in place already.
	Mounted bool
	// Filter system calls: set inside.
	Filter bool
}

// report is what a launcher tells the guard, and is told to go on with.
type report struct {
	Step   string          `json:"step,omitempty"`
	Error  string          `json:"error,omitempty"` // why it ends
	Result *sandbox.Result `json:"result,omitempty"`
}

// The steps of a launcher. It says each when it is there, and waits to be told
// the next one after stepNetwork.
const (
	stepNetwork = "network" // it is in a network namespace that has lo
	stepGo      = "go"      // from the guard
	stepBuilt   = "built"   // what the run sees is gathered
	stepCommand = "command" // it becomes the command; its pidfd travels along
)

// Main does what postern-guard is executed for by itself, if it is; it says
// whether it was.
func Main(args []string) bool {
	if len(args) != 2 {
		return false
	}
	switch args[1] {
	case launchArg:
		launchWith(launch)
	case insideArg:
		launchWith(launchInside)
	case firstArg:
		launchWith(launchFirst)
	case sandbox.HoldArg:
		sandbox.Hold()
	case anchorArg:
		holdFast()
	default:
		return false
	}
	return true
}

// launchWith runs in a new process, inside the run's cgroup and still root. It
// ends only when the command could not be executed.
func launchWith(launch func(*net.UnixConn) error) {
	runtime.LockOSThread() // privileges are the thread's that executes
	conn, err := reportConn()
	if err == nil {
		err = launch(conn)
		writeFrame(conn, report{Error: err.Error()}) //nolint:errcheck // nobody listens any more
	}
	os.Exit(exitNotRun)
}

// reportConn leaves the descriptor as it is: the launcher inside has it too.
func reportConn() (*net.UnixConn, error) {
	fd, err := unix.FcntlInt(reportFD, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "report")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// launch is the first launcher's work: for the tier redirected all of it.
func launch(conn *net.UnixConn) error {
	plan, err := readPlan()
	if err != nil {
		return err
	}
	if !plan.Mounted {
		if err := takeStdio(); err != nil {
			return err
		}
	}
	if plan.Box != nil {
		return plan.enter(conn)
	}
	if !plan.Mounted {
		if err := plan.mount(); err != nil {
			return err
		}
	}
	return plan.become(conn)
}

// descriptor reads from one that stays open.
type descriptor int

func (d descriptor) Read(b []byte) (int, error) {
	n, err := unix.Read(int(d), b)
	if n <= 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

func readPlan() (*launchPlan, error) {
	var plan launchPlan
	if err := json.NewDecoder(descriptor(planFD)).Decode(&plan); err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	return &plan, nil
}

// enter builds the sandbox and executes bubblewrap, which executes the launcher
// inside.
func (p *launchPlan) enter(conn *net.UnixConn) error {
	if err := sandbox.Loopback(); err != nil {
		return err
	}
	if err := writeFrame(conn, report{Step: stepNetwork}); err != nil {
		return err
	}
	var goOn report
	if files, err := readFrame(conn, &goOn); err != nil || goOn.Step != stepGo {
		closeAll(files)
		return errors.New("the guard did not go on")
	}
	args, result, err := p.Box.Build()
	// Told in any case: what was made has to be removed.
	if told := writeFrame(conn, report{Step: stepBuilt, Result: &result}); err == nil {
		err = told
	}
	if err != nil {
		return err
	}
	inside := *p
	inside.Box, inside.Files = nil, nil
	text, err := json.Marshal(inside)
	if err != nil {
		return err
	}
	// An agent sees the arguments of every process of its run.
	if err := errors.Join(
		passOn("arguments", []byte(strings.Join(args, "\x00")+"\x00"), argsFD),
		passOn("plan", text, planFD),
	); err != nil {
		return err
	}
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	nothing, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for _, d := range [][2]int{
		{0, stdioFD},
		{1, stdioFD + 1},
		{2, stdioFD + 2},
		{int(program.Fd()), programFD},
		{int(nothing.Fd()), 0},
		{int(nothing.Fd()), 1},
		{complaintFD, 2},
	} {
		if err := unix.Dup3(d[0], d[1], 0); err != nil {
			return fmt.Errorf("pass descriptor %d on: %w", d[0], err)
		}
	}
	unix.CloseOnExec(complaintFD)
	argv := []string{"bwrap", "--args", strconv.Itoa(argsFD), "/proc/self/fd/" + strconv.Itoa(programFD), insideArg}
	return fmt.Errorf("execute %s: %w", p.Bwrap, unix.Exec(p.Bwrap, argv, []string{}))
}

// passOn makes a descriptor one from which text is read.
func passOn(name string, text []byte, as int) error {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return unix.Dup3(fd, as, 0)
}

// launchInside is the second launcher's work, in bubblewrap's sandbox and with
// the capabilities to become somebody else.
func launchInside(conn *net.UnixConn) error {
	for fd := range 3 {
		if err := unix.Dup3(stdioFD+fd, fd, 0); err != nil {
			return fmt.Errorf("take standard descriptors: %w", err)
		}
	}
	plan, err := readPlan()
	if err != nil {
		return err
	}
	plan.Filter = true
	return plan.become(conn)
}

// become gives up every privilege and becomes the command.
func (p *launchPlan) become(conn *net.UnixConn) error {
	if err := sandbox.Terminal(); err != nil {
		return err
	}
	if err := p.As.become(); err != nil {
		return err
	}
	if err := os.Chdir(p.Dir); err != nil {
		return err
	}
	path, err := find(p.Args[0], p.Env)
	if err != nil {
		return err
	}
	if err := unix.CloseRange(planFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		if err := closeOnExec(); err != nil {
			return fmt.Errorf("close other descriptors: %w", err)
		}
	}
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("pidfd: %w", err)
	}
	if err := writeFrame(conn, report{Step: stepCommand}, os.NewFile(uintptr(self), "self")); err != nil {
		return err
	}
	if p.Filter {
		if err := sandbox.Filter(); err != nil {
			return err
		}
	}
	return fmt.Errorf("execute %s: %w", path, unix.Exec(path, p.Args, p.Env))
}

// closeOnExec is close_range for kernels before 5.11.
func closeOnExec() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err == nil && fd >= planFD {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// mount puts the run's own files over the host's. Nothing of it reaches the
// host; mounts of the host go on to appear here.
func (p *launchPlan) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("separate the mounts: %w", err)
	}
	if err := unix.Mount("postern", RunDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=64m"); err != nil {
		return fmt.Errorf("mount the run's own %s: %w", RunDir, err)
	}
	for _, f := range p.Files {
		if err := os.WriteFile(filepath.Join(RunDir, f.Name), f.Content, 0o444); err != nil {
			return err
		}
	}
	if err := unix.Mount("", RunDir, "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755"); err != nil {
		return fmt.Errorf("seal the run's own %s: %w", RunDir, err)
	}
	for _, f := range p.Files {
		if f.Over == "" {
			continue
		}
		err := unix.Mount(filepath.Join(RunDir, f.Name), f.Over, "", unix.MS_BIND, "")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("put the run's own %s in place: %w", f.Over, err)
		}
	}
	if p.Alone {
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mount the run's own /proc: %w", err)
		}
	}
	over := hidden
	if p.Hide != "" {
		over = append(slices.Clone(hidden), p.Hide)
	}
	for _, socket := range over {
		if err := unix.Mount("/dev/null", socket, "", unix.MS_BIND, ""); err != nil &&
			!errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("hide %s: %w", socket, err)
		}
	}
	return nil
}

// become gives up every privilege for good.
func (w who) become() error {
	if w.UID == 0 {
		return errors.New("an agent does not run as root")
	}
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // the last capability was the one before
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	groups := make([]int, len(w.Groups))
	for i, g := range w.Groups {
		groups[i] = int(g)
	}
	// From here on without a way back: setuid of all three ids drops what is
	// permitted and effective.
	if err := unix.Setgroups(groups); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if err := unix.Setresgid(int(w.GID), int(w.GID), int(w.GID)); err != nil {
		return fmt.Errorf("set group %d: %w", w.GID, err)
	}
	if err := unix.Setresuid(int(w.UID), int(w.UID), int(w.UID)); err != nil {
		return fmt.Errorf("set user %d: %w", w.UID, err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData // bubblewrap leaves what it was told to keep inheritable
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("clear capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	return nil
}

// find looks a command up as a shell does, by the PATH that the run will have.
func find(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, v := range env {
		path, ok := strings.CutPrefix(v, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(path) {
			if dir == "" {
				dir = "."
			}
			at := filepath.Join(dir, name)
			if st, err := os.Stat(at); err == nil && st.Mode().IsRegular() && unix.Access(at, unix.X_OK) == nil {
				return at, nil
			}
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}
