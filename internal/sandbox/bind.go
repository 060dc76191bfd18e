package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Bind is a file or folder of the host that a run sees, at its own path.
type Bind struct {
	Path  string // absolute and clean
	Write bool
	// By is who named it, and whom the run is. Without, it is root in the
	// configuration: then no part of the path may be a symbolic link, which
	// somebody else may have put there.
	By *Credential
	// Hooks lets a run write what people's tools execute.
	Hooks bool
	// Swap shows what belongs to one user as another's.
	Swap *Swap
}

// Swap exchanges who somebody is on disk and who they are in the run.
type Swap struct{ UID, GID, RunUID, RunGID uint32 }

// staged is a bind that is opened, and then mounted below the stage.
type staged struct {
	Bind
	fd     int
	folder bool
	swap   bool
	held   []Placeholder // what the run may not write in it
	at     string        // below the stage
}

// open opens all binds, parents before what is in them, and makes what is to be
// held in them.
func (b *Box) open(r *Result) ([]*staged, error) {
	binds := slices.Clone(b.Binds)
	slices.SortFunc(binds, func(x, y Bind) int { return strings.Compare(x.Path, y.Path) })
	var out []*staged
	for _, bind := range binds {
		s := &staged{Bind: bind}
		err := As(s.by(), func() error {
			if err := s.open(); err != nil {
				return fmt.Errorf("show %s: %w", s.Path, err)
			}
			if !s.holds() {
				return nil
			}
			if err := s.prepare(r); err != nil {
				return fmt.Errorf("hold what people's tools execute in %s: %w", s.Path, err)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (b *Bind) by() Credential {
	if b.By == nil {
		return Credential{}
	}
	return *b.By
}

// holds says whether there is anything to keep the run from writing.
func (s *staged) holds() bool { return s.folder && s.Write && !s.Hooks }

// open opens what whoever named the path could. What they may do with it is
// the permissions' to say, for By is who the run is.
func (s *staged) open() error {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC}
	if s.By == nil {
		how.Resolve = unix.RESOLVE_NO_SYMLINKS
	}
	var err error
	if s.fd, err = unix.Openat2(unix.AT_FDCWD, s.Path, &how); err != nil {
		if errors.Is(err, unix.ELOOP) && s.By == nil {
			return errors.New("a part of the path is a symbolic link: write the real path in mounts")
		}
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		s.folder = true
	case unix.S_IFREG:
	default:
		return errors.New("it is neither a file nor a folder")
	}
	s.swap = s.Swap != nil && st.Uid == s.Swap.UID && s.Swap.UID != s.Swap.RunUID
	return nil
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// bindAll mounts what was opened below the stage. A bind inside of another one
// is mounted into it here, where no name is followed that the user could make
// lead elsewhere; the others bubblewrap mounts, in folders of its own making.
func (b *Box) bindAll(opened []*staged, r *Result) (args []string, err error) {
	for i, s := range opened {
		top, outer := b.at(bindsDir, strconv.Itoa(i)), innermost(opened[:i], s.Path)
		place := func() (int, error) { return unix.Open(top, unix.O_PATH|unix.O_CLOEXEC, 0) }
		switch {
		case outer != nil:
			s.at = filepath.Join(outer.at, strings.TrimPrefix(s.Path, outer.Path))
			place = func() (int, error) { return outer.beneath(s.Path) }
		case s.folder:
			s.at, err = top, os.Mkdir(top, 0o700)
		default:
			s.at, err = top, os.WriteFile(top, nil, 0o600)
		}
		if err == nil {
			err = s.mount(place, r)
		}
		if err == nil && outer == nil {
			err = b.parents(s.Path)
			args = append(args, show("--bind", s.at, s.Path)...)
		}
		if err != nil {
			return nil, fmt.Errorf("show %s: %w", s.Path, err)
		}
	}
	return args, nil
}

// innermost is the bind that a path is in, or nil. They are in order, parents
// first.
func innermost(binds []*staged, path string) *staged {
	for _, s := range slices.Backward(binds) {
		if Inside(path, s.Path) {
			return s
		}
	}
	return nil
}

// parents makes the folders above a bind the user's, where they are in the
// user's home.
func (b *Box) parents(path string) error {
	rel, err := filepath.Rel(b.Home, filepath.Dir(path))
	if err != nil || !filepath.IsLocal(rel) || rel == "." {
		return nil
	}
	at := b.at(ownDir, "home")
	for name := range strings.SplitSeq(rel, "/") {
		at = filepath.Join(at, name)
		if err := b.folder(at, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// mount binds what was opened at a place, and holds in it what is to be held.
func (s *staged) mount(place func() (int, error), r *Result) error {
	mapped := false
	if s.swap {
		err := s.mountMapped(place)
		if mapped = err == nil; !mapped {
			r.Notes = append(r.Notes, fmt.Sprintf("%s keeps its owner in the run: %v", s.Path, err))
		}
	}
	if !mapped {
		if err := attach(s.fd, place, !s.Write); err != nil {
			return err
		}
	}
	if !s.holds() {
		return nil
	}
	return s.hold()
}

// attach binds what a descriptor has at a place, with what is mounted below it.
func attach(fd int, place func() (int, error), readOnly bool) error {
	to, err := place()
	if err != nil {
		return err
	}
	defer unix.Close(to)
	if !readOnly {
		return unix.Mount(fdPath(fd), fdPath(to), "", unix.MS_BIND|unix.MS_REC, "")
	}
	err = move(fd, to, unix.AT_RECURSIVE, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if errors.Is(err, unix.ENOSYS) {
		return attachOne(fd, to, place)
	}
	return err
}

// attachOne is the same for kernels before 5.12, where one mount at a time is
// made read-only: those below are left out.
func attachOne(fd, to int, place func() (int, error)) error {
	if err := unix.Mount(fdPath(fd), fdPath(to), "", unix.MS_BIND, ""); err != nil {
		return err
	}
	top, err := place()
	if err != nil {
		return err
	}
	defer unix.Close(top)
	return seal(top)
}

// move mounts a copy of what one descriptor has at another, with attributes.
func move(fd, to int, recursive uint, attributes unix.MountAttr) error {
	tree, err := unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|recursive)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|recursive, &attributes); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", to, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// seal makes the mount at a descriptor read-only. What else it is, it stays:
// these flags have the same values in statfs.
func seal(fd int) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err
	}
	kept := uintptr(st.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	return unix.Mount("", fdPath(fd), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|kept, "")
}

// over binds a file of ours over one in the bind.
func (s *staged) over(from, path string) error {
	fd, err := unix.Open(from, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return attach(fd, func() (int, error) { return s.beneath(path) }, true)
}

// beneath opens what is at a path of the host inside of the bind, as it is
// staged.
func (s *staged) beneath(path string) (int, error) {
	root, err := unix.Open(s.at, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	rel, err := filepath.Rel(s.Path, path)
	if err != nil {
		return -1, err
	}
	fd, err := openBeneath(root, rel, unix.O_PATH)
	if errors.Is(err, unix.ELOOP) {
		return -1, errors.New("a part of the path is a symbolic link")
	}
	return fd, err
}

// openBeneath opens a path below a folder. It leads out of it by no means, and
// no part of it may be a symbolic link.
func openBeneath(root int, rel string, flags uint64) (int, error) {
	return unix.Openat2(root, rel, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
}
