package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// apart runs f on a thread with mounts of its own.
func apart(t *testing.T, f func() error) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting takes root")
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and its mounts with it
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "")
		}
		if err == nil {
			err = f()
		}
		result <- err
	}()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// TestAttachReadOnly: with and without mount_setattr, what is read-only is, and
// stays what else it was.
func TestAttachReadOnly(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	place := func() (int, error) { return unix.Open(to, unix.O_PATH|unix.O_CLOEXEC, 0) }
	for name, attach := range map[string]func(fd int) error{
		"with": func(fd int) error { return attach(fd, place, true) },
		"without": func(fd int) error {
			at, err := place()
			if err != nil {
				return err
			}
			defer unix.Close(at)
			return attachOne(fd, at, place)
		},
	} {
		apart(t, func() error {
			if err := unix.Mount("test", from, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(from, "file"), nil, 0o644); err != nil {
				return err
			}
			fd, err := unix.Open(from, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := attach(fd); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(to, "file"), []byte("x"), 0o644); !errors.Is(err, unix.EROFS) {
				t.Errorf("%s: writing: %v", name, err)
			}
			var st unix.Statfs_t
			if err := unix.Statfs(to, &st); err != nil {
				return err
			}
			if got := st.Flags & (unix.ST_NOSUID | unix.ST_NOEXEC | unix.ST_NODEV); got != unix.ST_NOSUID|unix.ST_NOEXEC {
				t.Errorf("%s: flags %#x", name, st.Flags)
			}
			return os.WriteFile(filepath.Join(from, "file"), []byte("x"), 0o644)
		})
	}
}

// TestBeneath: no name leads out of a bind.
func TestBeneath(t *testing.T) {
	s := project(t, map[string]string{"a/b/file": "x"})
	s.at = s.Path
	for name, to := range map[string]string{"out": "/etc", "a/up": "../../..", "in": "a"} {
		if err := os.Symlink(to, filepath.Join(s.Path, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, ok := range map[string]bool{"a": true, "a/b/file": true, "out": false, "out/passwd": false, "a/up/etc": false, "in/b": false, "../x": false, "none": false} {
		fd, err := s.beneath(filepath.Join(s.Path, name))
		if err == nil {
			unix.Close(fd)
		}
		if (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAs: the thread has the rights of whom it works for, and no others; other
// threads keep theirs.
func TestAs(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("becoming somebody else takes root")
	}
	dir, err := os.MkdirTemp("", "postern-as-") // others get into it
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	closed := filepath.Join(dir, "closed")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(closed, 0o750), os.Chown(closed, 0, 4343)); err != nil {
		t.Fatal(err)
	}
	try := func(c Credential) error {
		return As(c, func() error {
			fd, err := unix.Open(closed, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				unix.Close(fd)
			}
			return err
		})
	}
	if err := try(Credential{UID: 4242, GID: 4242}); !errors.Is(err, unix.EACCES) {
		t.Errorf("somebody else: %v", err)
	}
	if err := try(Credential{UID: 4242, GID: 4242, Groups: []uint32{4343}}); err != nil {
		t.Errorf("a member of the group: %v", err)
	}
	if err := try(Credential{}); err != nil {
		t.Errorf("root: %v", err)
	}
}
