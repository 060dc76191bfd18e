package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/sandbox"
)

// LaunchArg makes postern-guard the launcher of a run.
const LaunchArg = "launch"

// Descriptors of a launcher besides the three of the command.
const (
	planFD = 3
	failFD = 4
)

// launchPlan is what the launcher does.
type launchPlan struct {
	Args  []string
	Env   []string
	Dir   string
	As    who
	Files []file
	Box   *box // nil: the tier redirected
}

// Launch runs in the new process, inside the run's cgroup and mount namespace
// and still root. It arranges the file system, gives up every privilege and
// becomes the command; it returns only to say why it could not.
func Launch() { launchWith(launch) }

func launchWith(launch func() error) {
	runtime.LockOSThread() // privileges are the thread's that executes
	fail := os.NewFile(failFD, "failure")
	unix.CloseOnExec(failFD)
	fmt.Fprint(fail, launch())
	os.Exit(exitNotRun)
}

// ready is what a launcher writes before it waits for the guard to go on.
const ready = 0

// launch executes the command, or says why not.
func launch() error {
	in := os.NewFile(planFD, "plan")
	plan, err := readPlan(in)
	if err != nil {
		return err
	}
	if plan.Box != nil {
		if err := sandbox.Loopback(); err != nil {
			return err
		}
		if err := plan.await(in); err != nil {
			return err
		}
	}
	if err := plan.mount(); err != nil {
		return err
	}
	if plan.Box != nil {
		return plan.pack()
	}
	in.Close()
	if err := plan.As.become(); err != nil {
		return err
	}
	if err := os.Chdir(plan.Dir); err != nil {
		return err
	}
	return plan.execute()
}

// readPlan reads a line.
func readPlan(in io.Reader) (*launchPlan, error) {
	var plan launchPlan
	if err := json.NewDecoder(in).Decode(&plan); err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	return &plan, nil
}

// await waits until the guard has opened the gateway's listener in this network
// namespace.
func (p *launchPlan) await(in io.Reader) error {
	if _, err := unix.Write(failFD, []byte{ready}); err != nil {
		return fmt.Errorf("tell the guard: %w", err)
	}
	for goOn := make([]byte, 1); goOn[0] != ready+1; {
		if _, err := io.ReadFull(in, goOn); err != nil {
			return errors.New("the guard did not go on")
		}
	}
	return nil
}

// execute becomes the command.
func (p *launchPlan) execute() error {
	plan := p
	path, err := find(plan.Args[0], plan.Env)
	if err != nil {
		return err
	}
	if err := unix.CloseRange(failFD+1, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		if err := closeOnExec(); err != nil {
			return fmt.Errorf("close other descriptors: %w", err)
		}
	}
	return fmt.Errorf("execute %s: %w", path, unix.Exec(path, plan.Args, plan.Env))
}

// closeOnExec is close_range for kernels before 5.11.
func closeOnExec() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err == nil && fd > failFD {
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
	for _, socket := range hidden {
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
