// Package sandbox says what a run of the tiers workspace and strict is put in:
// the arguments of bubblewrap, which makes its mounts and its namespaces of
// processes and IPC, the filter of system calls, and what loopback needs in a
// network namespace that has nothing else. It starts nothing; package guard does.
// Start with Box.
package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Tier is how much a run is held by besides the kernel programs.
type Tier string

// The tiers, weakest first.
const (
	Redirected Tier = "redirected" // the kernel programs, and nothing else
	Workspace  Tier = "workspace"  // a person's own user and project, in namespaces of the run's own
	Strict     Tier = "strict"     // the same as a user of the agent's own, with nothing of a person's
)

// Tiers are all of them, weakest first.
var Tiers = []Tier{Redirected, Workspace, Strict}

// AtLeast says whether t is as strong as least.
func (t Tier) AtLeast(least Tier) bool { return slices.Index(Tiers, t) >= slices.Index(Tiers, least) }

// Open is what a tier leaves open, in a line, for people.
func (t Tier) Open() string {
	switch t {
	case Workspace:
		return "the project, and what the user may read under /usr, /etc and /opt"
	case Strict:
		return "its mounts, and what its user may read under /usr, /etc and /opt"
	case Redirected:
	}
	return "the host's Unix sockets, vsock, helpers of the same user, files of the user"
}

// Bind is a directory or file that a run sees. Source is a descriptor of it that
// bubblewrap inherits, opened with the rights of whoever asked for it.
type Bind struct {
	FD       int
	At       string
	ReadOnly bool
}

// Box is one run's.
type Box struct {
	Launcher string // the program that bubblewrap executes inside, as a path of the host
	Home     string // of the user; empty inside
	Binds    []Bind // in this order; a later one may lie in an earlier one
}

const (
	// Launcher is where the launcher is inside.
	Launcher = "/run/postern-launch"
)

// system are directories of the host's system, read-only inside where the host
// has them. What is a link stays one.
var system = []string{
	"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix", "/gnu", "/snap",
	"/sys/devices/system/cpu", "/var/lib/dpkg", "/var/cache/fontconfig", "/var/lib/ca-certificates",
}

// hidden are directories in those that are nobody's business inside.
var hidden = []string{"/etc/postern", "/etc/systemd/system"}

// Args are bubblewrap's, up to the command. There is no --die-with-parent: the
// parent would be a thread of the guard, which ends when Go's runtime wants it
// to. The guard kills the run's cgroup.
func (b Box) Args() ([]string, error) {
	args := []string{
		"--unshare-pid", "--unshare-ipc", "--unshare-uts", "--cap-add", "ALL",
		"--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/dev/shm",
		"--perms", "1777", "--tmpfs", "/tmp", "--perms", "1777", "--tmpfs", "/var/tmp",
		"--perms", "0755", "--tmpfs", "/run", "--symlink", "../run", "/var/run",
	}
	for _, dir := range system {
		st, err := os.Lstat(dir)
		switch {
		case os.IsNotExist(err):
			continue
		case err != nil:
			return nil, err
		case st.Mode()&os.ModeSymlink != 0:
			to, err := os.Readlink(dir)
			if err != nil {
				return nil, err
			}
			args = append(args, "--symlink", to, dir)
		default:
			args = append(args, "--ro-bind", dir, dir)
		}
	}
	for _, dir := range hidden {
		if _, err := os.Stat(dir); err == nil {
			args = append(args, "--perms", "0755", "--tmpfs", dir)
		}
	}
	args = append(args, "--ro-bind", "/run/postern", "/run/postern", "--ro-bind", b.Launcher, Launcher)
	if b.Home != "" {
		args = append(args, parents(b.Home)...)
		args = append(args, "--perms", "0700", "--tmpfs", b.Home)
	}
	for _, bind := range b.Binds {
		how := "--bind"
		if bind.ReadOnly {
			how = "--ro-bind"
		}
		args = append(args, parents(bind.At)...)
		args = append(args, how, fmt.Sprintf("/proc/self/fd/%d", bind.FD), bind.At)
	}
	return append(args, "--chdir", "/", "--", Launcher), nil
}

// parents makes the directories above one, where there are none: left to itself
// bubblewrap gives them a mode that lets nobody but root through.
func parents(of string) (args []string) {
	for i, c := range of {
		if c == '/' && i > 0 {
			args = append(args, "--perms", "0755", "--dir", of[:i])
		}
	}
	return args
}

// Guarded are names in a project by which code in it is executed outside, by the
// person's own tools: read-only in a workspace where they are.
var Guarded = []string{
	".git/hooks", ".git/config", ".husky", ".envrc", ".vscode", ".idea",
	".bashrc", ".bash_profile", ".profile", ".zshrc", ".zshenv",
}

// Bindable says whether a directory may be bound at its own path: not what the
// sandbox makes itself, nor a whole home.
func Bindable(dir, home string) error {
	switch {
	case !filepath.IsAbs(dir) || filepath.Clean(dir) != dir:
		return fmt.Errorf("%q is not an absolute path", dir)
	case dir == "/":
		return fmt.Errorf("the whole file system cannot be bound; name a project with --bind")
	case dir == home || strings.HasPrefix(home, dir+"/"):
		return fmt.Errorf("%s is or holds the home directory, which stays outside: go to a project in it, or name one with --bind", dir)
	}
	for _, own := range []string{"/proc", "/dev", "/sys", "/run", "/tmp", "/var/tmp", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/boot", "/var", "/home"} {
		if dir == own || strings.HasPrefix(dir, own+"/") && own != "/tmp" && own != "/home" && own != "/var" && own != "/var/tmp" {
			return fmt.Errorf("%s belongs to the system; go to a project, or name one with --bind", dir)
		}
	}
	return nil
}
