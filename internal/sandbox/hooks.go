package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// Some files of a project are executed by the tools of the people who work on
// it, without anybody asking for it: git runs hooks and what its configuration
// names whenever a prompt shows the branch, editors run tasks when a folder is
// opened. A run may read them and not write them.
//
// What there is, is mounted read-only. A name that there is not cannot be kept
// from being made, but by something in its place: folders are made empty, and
// two files of git with what stands for their absence. They are removed when
// the run ends. Files that tools ask about first (.envrc) or that are read in
// the home folder only are held where they are and may be made where not.
var (
	heldFolders = []string{".git/hooks", ".vscode", ".idea", ".husky"}
	heldFiles   = []string{
		".envrc", ".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".profile", ".zshrc", ".zshenv", ".zprofile", ".zlogin",
	}
	// gitFiles say where git finds its configuration and hooks. A commondir that
	// names its own folder is as good as none.
	gitFiles = map[string]string{".git/config": "", ".git/config.worktree": "", ".git/commondir": ".\n"}
)

// Placeholder is what is held read-only in a bind, and perhaps was made for it.
type Placeholder struct {
	Root    string // of the bind
	Rel     string // below it
	By      *Credential
	Folder  bool
	Content string // of a file
	write   bool   // pinned to its place only
}

// Path is where it is on the host.
func (p *Placeholder) Path() string { return filepath.Join(p.Root, p.Rel) }

// errLink says what to do about a link in the place of what is to be held.
var errLink = errors.New("is a symbolic link, which cannot be held: put what it leads to in its place, or use --allow-hooks")

// prepare finds what is to be held, and makes what is missing, with the rights
// of who named the bind.
func (s *staged) prepare(r *Result) error {
	git, err := s.kind(".git")
	if err != nil {
		return err
	}
	repository := false
	switch git {
	case unix.S_IFDIR:
		head, err := s.kind(".git/HEAD")
		if err != nil {
			return err
		}
		repository = head != 0
		// Pinned; without a repository in it, it is held.
		s.held = append(s.held, Placeholder{Root: s.Path, Rel: ".git", Folder: true, write: repository})
	case unix.S_IFREG:
		s.held = append(s.held, Placeholder{Root: s.Path, Rel: ".git"})
	default:
		if err := s.keep(Placeholder{Rel: ".git", Folder: true}, r); err != nil {
			return err
		}
	}
	folders := heldFolders
	if repository {
		for _, rel := range s.hooksPaths() {
			s.pin(path.Dir(rel))
			folders = append(folders[:len(folders):len(folders)], rel)
		}
		for rel, content := range gitFiles {
			if err := s.keep(Placeholder{Rel: rel, Content: content}, r); err != nil {
				return err
			}
		}
	}
	for _, rel := range folders {
		if strings.HasPrefix(rel, ".git/") && !repository {
			continue
		}
		if err := s.keep(Placeholder{Rel: rel, Folder: true}, r); err != nil {
			return err
		}
	}
	for _, rel := range heldFiles {
		kind, err := s.kind(rel)
		if err != nil {
			return err
		}
		if kind != 0 {
			s.held = append(s.held, Placeholder{Root: s.Path, Rel: rel, Folder: kind == unix.S_IFDIR})
		}
	}
	return nil
}

// keep holds what is there, or makes it.
func (s *staged) keep(p Placeholder, r *Result) error {
	p.Root, p.By = s.Path, s.By
	// Without the folder above, that one is what must not be made.
	for up := path.Dir(p.Rel); up != "."; up = path.Dir(up) {
		if kind, err := s.kind(up); err != nil || kind == 0 {
			p.Rel, p.Folder = up, true
		}
	}
	kind, err := s.kind(p.Rel)
	if err != nil {
		return err
	}
	if kind != 0 {
		p.Folder = kind == unix.S_IFDIR
		s.held = append(s.held, p)
		r.Held = append(r.Held, p)
		return nil
	}
	err = s.make(p)
	switch {
	case errors.Is(err, unix.EEXIST): // another run was faster
		s.held = append(s.held, p)
		r.Held = append(r.Held, p)
		return nil
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
		return nil // nor can the run
	case err != nil:
		return fmt.Errorf("make %s: %w", p.Rel, err)
	}
	s.held = append(s.held, p)
	r.Made = append(r.Made, p)
	return nil
}

// pin mounts folders above of what is held upon themselves, so that they cannot
// be renamed and others put in their place.
func (s *staged) pin(rel string) {
	if rel == "." {
		return
	}
	s.pin(path.Dir(rel))
	if kind, err := s.kind(rel); err == nil && kind == unix.S_IFDIR {
		s.held = append(s.held, Placeholder{Root: s.Path, Rel: rel, Folder: true, write: true})
	}
}

// kind is the type of a file in the bind, 0 when there is none.
func (s *staged) kind(rel string) (uint32, error) {
	fd, err := openBeneath(s.fd, rel, unix.O_PATH)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return 0, nil
	case errors.Is(err, unix.ELOOP):
		return 0, fmt.Errorf("%s %w", rel, errLink)
	case err != nil:
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	return st.Mode & unix.S_IFMT, nil
}

// make makes a placeholder that belongs to whom the bind belongs to.
func (s *staged) make(p Placeholder) error {
	in, err := openBeneath(s.fd, path.Dir(p.Rel), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	name := path.Base(p.Rel)
	if p.Folder {
		err = unix.Mkdirat(in, name, 0o755)
	} else {
		var fd int
		if fd, err = unix.Openat(in, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644); err == nil {
			f := os.NewFile(uintptr(fd), name)
			_, err = f.WriteString(p.Content)
			f.Close()
		}
	}
	if err != nil || s.By != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		return err
	}
	return unix.Fchownat(in, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
}

// hold mounts what is to be held over itself.
func (s *staged) hold() error {
	for _, p := range s.held {
		place := func() (int, error) { return s.beneath(p.Path()) }
		fd, err := place()
		if err == nil {
			err = attach(fd, place, !p.write)
			unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("hold %s: %w", p.Rel, err)
		}
	}
	return nil
}

var (
	section   = regexp.MustCompile(`^\s*\[\s*([A-Za-z0-9.-]+)`)
	hooksPath = regexp.MustCompile(`(?i)^\s*(?:\[\s*core\s*\]\s*)?hookspath\s*=\s*"?([^"#;]+?)"?\s*(?:[#;].*)?$`)
)

// maxGitConfig bounds what is read of a repository's configuration.
const maxGitConfig = 1 << 20

// hooksPaths are the folders of the project that its git takes hooks from,
// besides .git/hooks.
func (s *staged) hooksPaths() (out []string) {
	fd, err := openBeneath(s.fd, ".git/config", unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), ".git/config")
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxGitConfig))
	if err != nil {
		return nil
	}
	in := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if m := section.FindStringSubmatch(line); m != nil {
			in = strings.ToLower(m[1])
		}
		m := hooksPath.FindStringSubmatch(line)
		if m == nil || in != "core" {
			continue
		}
		rel := m[1]
		if filepath.IsAbs(rel) {
			rel = strings.TrimPrefix(path.Clean(rel), s.Path+"/")
		}
		if rel = path.Clean(rel); filepath.IsLocal(rel) && rel != "." && rel != ".git" {
			out = append(out, rel)
		}
	}
	return out
}

// Remove removes a placeholder that nothing was put into.
func (p *Placeholder) Remove() error {
	bind := staged{Bind: Bind{Path: p.Root, By: p.By}}
	return As(bind.by(), func() error {
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC}
		if p.By == nil {
			how.Resolve = unix.RESOLVE_NO_SYMLINKS
		}
		root, err := unix.Openat2(unix.AT_FDCWD, p.Root, &how)
		if err != nil {
			return err
		}
		defer unix.Close(root)
		in, err := openBeneath(root, path.Dir(p.Rel), unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer unix.Close(in)
		name := path.Base(p.Rel)
		if p.Folder {
			err := unix.Unlinkat(in, name, unix.AT_REMOVEDIR)
			if errors.Is(err, unix.ENOTEMPTY) {
				return nil
			}
			return err
		}
		fd, err := openBeneath(in, name, unix.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		if text, err := io.ReadAll(io.LimitReader(f, 16)); err != nil || string(text) != p.Content {
			return err
		}
		return unix.Unlinkat(in, name, 0)
	})
}
