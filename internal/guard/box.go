package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/sandbox"
)

// InsideArg makes postern-guard the launcher inside of bubblewrap's sandbox.
const InsideArg = "launch-inside"

// bubblewrap is looked for here, not on a PATH.
const bubblewrap = "/usr/bin/bwrap"

// maxBinds bounds what one run sees besides the system.
const maxBinds = 64

// box is what the launcher needs to put a run into a sandbox.
type box struct {
	Home    string
	Mounts  []mount // of the configuration, opened as root
	Binds   []mount // of the caller, opened with his rights
	Guard   bool    // names in Binds by which code is executed outside are read-only
	Program string  // this one, as a path
}

type mount struct {
	Path     string
	ReadOnly bool
}

// tierOf is the tier of a run: what was asked for, or what fits how it is
// launched, and never less than the agent's.
func tierOf(a *config.Agent, r *Run) (sandbox.Tier, error) {
	least := sandbox.Tier(a.Tier)
	tier := sandbox.Tier(r.Tier)
	switch {
	case tier == "" && (r.Terminal || a.User == "" && r.User == ""):
		tier = sandbox.Workspace
	case tier == "":
		tier = sandbox.Strict
	}
	if !tier.AtLeast(sandbox.Redirected) {
		return "", fmt.Errorf("%q is no tier: redirected, workspace or strict", r.Tier)
	}
	if !tier.AtLeast(least) {
		if r.Tier != "" {
			return "", fmt.Errorf("agent %s runs in the tier %s at least", a.Name, least)
		}
		tier = least
	}
	if tier == sandbox.Redirected {
		return tier, nil
	}
	if _, err := os.Stat(bubblewrap); err != nil {
		return "", fmt.Errorf("the tier %s takes bubblewrap, and %s is missing: install it, or use --tier redirected where the agent allows it", tier, bubblewrap)
	}
	return tier, nil
}

// asOf is who a run runs as. In strict that is the agent's own user, whoever
// launches it.
func asOf(peer *identity.Peer, a *config.Agent, r *Run, tier sandbox.Tier) (who, error) {
	if tier == sandbox.Strict && r.User == "" {
		if a.User == "" {
			return who{}, fmt.Errorf("the tier strict takes a user of the agent's own: set agents.user of %s, or name one with --user as root", a.Name)
		}
		return userNamed(a.User)
	}
	return runAs(peer, r.User)
}

// boxOf checks what a run is to see.
func boxOf(a *config.Agent, r *Run, as who, tier sandbox.Tier) (*box, error) {
	if tier == sandbox.Redirected {
		if len(r.Binds) > 0 || len(r.Publish) > 0 {
			return nil, errors.New("--bind and --publish are for the tiers workspace and strict: redirected has the host's files and ports")
		}
		return nil, nil
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b := &box{Home: as.Home, Program: program, Guard: !r.AllowHooks}
	for _, m := range a.Mounts {
		b.Mounts = append(b.Mounts, mount{m.Path, m.Mode != "rw"})
	}
	switch {
	case tier == sandbox.Strict && len(r.Binds) > 0:
		return nil, errors.New("in the tier strict the configuration says what a run sees: agents.mounts")
	case tier == sandbox.Strict:
		return b, nil
	}
	binds := r.Binds
	if !covered(r.Dir, binds, b.Mounts) {
		binds = append([]string{r.Dir}, binds...)
	}
	if len(binds) > maxBinds {
		return nil, fmt.Errorf("more than %d --bind", maxBinds)
	}
	for _, text := range binds {
		path, mode, _ := strings.Cut(text, ":")
		if mode != "" && mode != "ro" && mode != "rw" {
			return nil, fmt.Errorf("--bind %s: behind the colon goes ro or rw", text)
		}
		if err := sandbox.Bindable(path, as.Home); err != nil {
			return nil, err
		}
		b.Binds = append(b.Binds, mount{path, mode == "ro"})
	}
	return b, nil
}

// covered says whether a directory is in one that is bound.
func covered(dir string, binds []string, mounts []mount) bool {
	in := func(at string) bool { return dir == at || strings.HasPrefix(dir, at+"/") }
	for _, text := range binds {
		if path, _, _ := strings.Cut(text, ":"); in(path) {
			return true
		}
	}
	for _, m := range mounts {
		if in(m.Path) {
			return true
		}
	}
	return false
}

// pack is the launcher's last step outside: it opens what the run is to see and
// becomes bubblewrap, which executes launchInside.
func (p *launchPlan) pack() error {
	b := sandbox.Box{Launcher: p.Box.Program, Home: p.Box.Home}
	for _, m := range p.Box.Mounts {
		fd, err := open(m.Path)
		if err != nil {
			return fmt.Errorf("agents.mounts %s: %w", m.Path, err)
		}
		b.Binds = append(b.Binds, sandbox.Bind{FD: fd, At: m.Path, ReadOnly: m.ReadOnly})
	}
	err := p.As.rightsOf(func() error {
		for _, m := range p.Box.Binds {
			binds, err := openBind(m, p.Box.Guard)
			if err != nil {
				return err
			}
			b.Binds = append(b.Binds, binds...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	args, err := b.Args()
	if err != nil {
		return err
	}
	inside := *p
	inside.Box, inside.Files = nil, nil
	text, err := json.Marshal(inside)
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("plan", 0)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	plan := os.NewFile(uintptr(fd), "plan")
	if _, err := plan.Write(text); err != nil {
		return err
	}
	if _, err := plan.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := unix.Dup2(fd, planFD); err != nil {
		return err
	}
	// The launcher inside says on it what fails there.
	if _, err := unix.FcntlInt(failFD, unix.F_SETFD, 0); err != nil {
		return err
	}
	return fmt.Errorf("execute %s: %w", bubblewrap, unix.Exec(bubblewrap, append(append([]string{"bwrap"}, args...), InsideArg), []string{}))
}

// openBind opens a directory and what in it is to be read-only.
func openBind(m mount, guarded bool) ([]sandbox.Bind, error) {
	fd, err := open(m.Path)
	if err != nil {
		return nil, fmt.Errorf("bind %s: %w", m.Path, err)
	}
	binds := []sandbox.Bind{{FD: fd, At: m.Path, ReadOnly: m.ReadOnly}}
	if m.ReadOnly || !guarded {
		return binds, nil
	}
	if st, err := os.Lstat(filepath.Join(m.Path, ".git")); err == nil && st.IsDir() {
		// A hook that is not there yet could be made: an empty directory keeps it out.
		if err := os.Mkdir(filepath.Join(m.Path, ".git/hooks"), 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	for _, name := range sandbox.Guarded {
		at := filepath.Join(m.Path, name)
		// A link could lead to what the user may write and the run must not.
		inner, err := unix.Openat2(fd, name, &unix.OpenHow{
			Flags: unix.O_PATH, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		})
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			continue
		case err != nil:
			return nil, fmt.Errorf("bind %s read-only: %w (--allow-hooks leaves it as it is)", at, err)
		}
		binds = append(binds, sandbox.Bind{FD: inner, At: at, ReadOnly: true})
	}
	return binds, nil
}

func open(path string) (int, error) { return unix.Open(path, unix.O_PATH, 0) }

// rightsOf calls f with the rights of the user on files: whatever f opens the
// user could. The thread is the launcher's only one that does anything.
func (w who) rightsOf(f func() error) error {
	groups := make([]uint32, len(w.Groups)+1)
	copy(groups, w.Groups)
	groups[len(w.Groups)] = w.GID
	if err := setgroups(groups); err != nil {
		return err
	}
	if err := errors.Join(unix.Setfsgid(int(w.GID)), unix.Setfsuid(int(w.UID))); err != nil {
		return err
	}
	// Setfsuid says what it was, not whether it worked.
	if was, err := unix.SetfsuidRetUid(-1); err != nil || was != int(w.UID) {
		return fmt.Errorf("take the rights of user %d: %w", w.UID, errors.Join(err, unix.EPERM))
	}
	err := f()
	return errors.Join(err, unix.Setfsuid(0), unix.Setfsgid(0), setgroups(nil))
}

// LaunchInside runs inside of the sandbox, still root there: it gives up every
// privilege and becomes the command.
func LaunchInside() { launchWith(launchInside) }

func launchInside() error {
	plan, err := readPlan(os.NewFile(planFD, "plan"))
	if err != nil {
		return err
	}
	if plan.As.Home != "" {
		if err := os.Chown(plan.As.Home, int(plan.As.UID), int(plan.As.GID)); err != nil {
			return fmt.Errorf("the run's own home: %w", err)
		}
	}
	if _, err := unix.Setsid(); err != nil {
		return fmt.Errorf("a session of the run's own: %w", err)
	}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
			return fmt.Errorf("take the terminal: %w", err)
		}
	}
	if err := plan.As.become(); err != nil {
		return err
	}
	if err := os.Chdir(plan.Dir); err != nil {
		plan.Dir = plan.As.Home
		if err := os.Chdir(plan.Dir); err != nil {
			return err
		}
	}
	if err := sandbox.Filter(); err != nil {
		return err
	}
	return plan.execute()
}

// setgroups sets those of the calling thread only.
func setgroups(groups []uint32) error {
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0])
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0); errno != 0 {
		return fmt.Errorf("set groups: %w", errno)
	}
	return nil
}
