// Package sandbox keeps a run of the tiers workspace and strict from the host:
// its file system is a list of what it may see, it has processes, shared memory
// and a network of its own, a filter on its system calls, and a terminal that
// nobody else uses.
//
// Bubblewrap makes the namespaces and mounts, executed as root and without a
// user namespace, so that it works where those are switched off. Bubblewrap
// follows paths, which whoever owns a folder can exchange under its eyes. So
// before it, in a mount namespace of the run's own, Box.Build opens what the run
// is to see with the rights of who named it, and binds what it has opened below
// a folder of root's; that is what bubblewrap is told of. After it, inside,
// Terminal and Filter prepare the process that becomes the command.
//
// Who may see what is decided by package guard, which also starts all of it and
// gives up the privileges. Start with Box.Build.
package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Box is what a run sees of the host.
type Box struct {
	Stage  string     // an empty folder; a file system is mounted there while the box is built
	Run    Credential // who the run is
	Home   string     // an empty folder of its own
	Binds  []Bind
	Files  []File
	Hidden []string // folders among the system's that are shown empty
}

// File is one that a run sees in place of the host's.
type File struct {
	Name    string // in FilesAt
	Over    string // where else it is; empty: nowhere
	Content []byte
}

// Result is what Build has done besides.
type Result struct {
	Made  []Placeholder // made for this run: somebody has to remove them after it
	Held  []Placeholder // were there; they may be another run's
	Notes []string      // what could not be had, for the log
}

// shown are the parts of the host that every run sees, read-only, where they
// exist. The rest of the file system is not there.
var shown = []string{
	"/usr", "/etc", "/opt",
	"/nix", "/gnu", "/snap",
	// Runtimes count processors and look for huge pages.
	"/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/kernel/mm/transparent_hugepage",
	// What is installed; fonts; where SUSE keeps what /etc/ssl leads to.
	"/var/lib/dpkg", "/var/lib/rpm", "/var/cache/fontconfig", "/var/lib/ca-certificates",
}

// roots are links into /usr on most hosts, and folders on some.
var roots = []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}

// own are folders of the run's own, below the stage, and where they are shown.
var own = []struct{ name, at string }{{"tmp", "/tmp"}, {"var-tmp", "/var/tmp"}, {"shm", "/dev/shm"}}

// Folders below the stage.
const (
	filesDir = "files"
	bindsDir = "binds"
	ownDir   = "own"
)

// FilesAt is where a run finds all of Files.
const FilesAt = "/run/postern"

// Build gathers what the run is to see and returns bubblewrap's arguments. The
// process is in a mount namespace of its own, and root; nothing that it mounts
// reaches the host.
func (b *Box) Build() (args []string, r Result, err error) {
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return nil, r, fmt.Errorf("separate the mounts: %w", err)
	}
	opened, err := b.open(&r)
	if err != nil {
		return nil, r, err
	}
	if err := b.stage(); err != nil {
		return nil, r, err
	}
	// There is no --die-with-parent: the parent would be a thread of the guard,
	// which ends when Go's runtime wants it to. The guard kills the run's cgroup.
	args = []string{
		"--unshare-pid", "--unshare-ipc", "--unshare-uts",
		// To become the run's user, for good.
		"--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP",
	}
	args = append(args, system()...)
	args = append(args, "--proc", "/proc", "--dev", "/dev", "--dir", "/run", "--symlink", "../run", "/var/run")
	for _, o := range own {
		args = append(args, show("--bind", b.at(ownDir, o.name), o.at)...)
	}
	args = append(args, show("--bind", b.at(ownDir, "home"), b.Home)...)
	args = append(args, show("--ro-bind", b.at(filesDir), FilesAt)...)
	for _, dir := range b.Hidden {
		if at, err := filepath.EvalSymlinks(dir); err == nil && isShown(at) {
			args = append(args, "--tmpfs", at)
		}
	}
	binds, err := b.bindAll(opened, &r)
	if err != nil {
		return nil, r, err
	}
	files, err := b.overlay(opened)
	return slices.Concat(args, console(b.at("console")), files, binds), r, err
}

// show makes the folders above what is mounted, where there are none: left to
// itself bubblewrap gives them a mode that lets nobody but root through.
func show(how, from, to string) (args []string) {
	for i, c := range to {
		if c == '/' && i > 0 {
			args = append(args, "--dir", to[:i])
		}
	}
	return append(args, how, from, to)
}

func (b *Box) at(names ...string) string {
	return filepath.Join(append([]string{b.Stage}, names...)...)
}

// system shows the parts of the host that everybody may see.
func system() (args []string) {
	for _, at := range shown {
		if _, err := os.Stat(at); err == nil {
			args = append(args, show("--ro-bind", at, at)...)
		}
	}
	for _, at := range roots {
		st, err := os.Lstat(at)
		switch {
		case err != nil:
		case st.Mode().Type() == os.ModeSymlink:
			if to, err := os.Readlink(at); err == nil {
				args = append(args, "--symlink", to, at)
			}
		default:
			args = append(args, "--ro-bind", at, at)
		}
	}
	return args
}

// isShown says whether a path of the host is among what every run sees.
func isShown(path string) bool {
	return slices.ContainsFunc(slices.Concat(shown, roots), func(at string) bool { return Inside(path, at) })
}

// stage mounts the file system that holds what is gathered and the folders of
// the run's own. It has the kernel's limit, half of the memory; what is in it
// counts as the run's.
func (b *Box) stage() error {
	if err := unix.Mount("postern", b.Stage, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount the run's own files: %w", err)
	}
	for _, dir := range []string{filesDir, bindsDir, ownDir} {
		if err := os.Mkdir(b.at(dir), 0o755); err != nil {
			return err
		}
	}
	for _, o := range own {
		if err := errors.Join(os.Mkdir(b.at(ownDir, o.name), 0o700), os.Chmod(b.at(ownDir, o.name), os.ModeSticky|0o777)); err != nil {
			return err
		}
	}
	if err := b.folder(b.at(ownDir, "home"), 0o700); err != nil {
		return err
	}
	for _, f := range b.Files {
		if err := os.WriteFile(b.at(filesDir, f.Name), f.Content, 0o444); err != nil {
			return err
		}
	}
	return nil
}

// folder makes a folder of the run's user.
func (b *Box) folder(path string, mode os.FileMode) error {
	err := os.Mkdir(path, mode)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chown(path, int(b.Run.UID), int(b.Run.GID))
}

// overlay puts Files over the host's. A file that the host does not have is
// left out.
func (b *Box) overlay(opened []*staged) (args []string, err error) {
	for _, f := range b.Files {
		if f.Over == "" {
			continue
		}
		at, err := filepath.EvalSymlinks(f.Over)
		if err != nil {
			continue
		}
		from := b.at(filesDir, f.Name)
		// Below a bind the names are the user's: bubblewrap must not follow them.
		if in := innermost(opened, at); in != nil {
			err = in.over(from, at)
		} else {
			args = append(args, show("--ro-bind", from, at)...)
			err = b.parents(at)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("put the run's own %s in place: %w", at, err)
		}
	}
	return args, nil
}

// Inside says whether a path is another one or below it. Both are clean.
func Inside(path, of string) bool {
	return path == of || strings.HasPrefix(path, strings.TrimSuffix(of, "/")+"/")
}

// console shows the run's terminal under a name that exists inside, where
// programs look for the name of theirs.
func console(at string) []string {
	var st, there unix.Stat_t
	if unix.Fstat(0, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return nil
	}
	name, err := os.Readlink("/proc/self/fd/0")
	if err != nil || !strings.HasPrefix(name, "/dev/pts/") {
		return nil
	}
	if unix.Lstat(name, &there) != nil || there.Rdev != st.Rdev || there.Ino != st.Ino || there.Dev != st.Dev {
		return nil
	}
	if os.WriteFile(at, nil, 0o600) != nil || unix.Mount(name, at, "", unix.MS_BIND, "") != nil {
		return nil
	}
	return []string{"--dev-bind", at, "/dev/console"}
}
