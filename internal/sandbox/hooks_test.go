package sandbox

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// project is a folder with these files, opened; a name that ends in / is a
// folder.
func project(t *testing.T, files map[string]string) *staged {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		at := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := &staged{Bind: Bind{Path: dir, Write: true, By: &Credential{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}}}
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

func names(list []Placeholder) (out []string) {
	for _, p := range list {
		out = append(out, p.Rel)
	}
	slices.Sort(out)
	return out
}

// TestHeld: what is there is held, what is not is made, and removed again unless
// somebody has put something into it.
func TestHeld(t *testing.T) {
	for name, c := range map[string]struct {
		files            map[string]string
		made, held, stay []string // stay: after everything that was made is removed
	}{
		"no repository": {
			files: map[string]string{"a.txt": "a"},
			made:  []string{".git", ".husky", ".idea", ".vscode"},
			held:  []string{".git", ".husky", ".idea", ".vscode"},
			stay:  []string{"a.txt"},
		},
		"a repository": {
			files: map[string]string{".git/HEAD": "ref", ".git/config": "[core]\n", ".git/hooks/": "", ".envrc": "x", ".vscode/": ""},
			made:  []string{".git/commondir", ".git/config.worktree", ".husky", ".idea"},
			held:  []string{".envrc", ".git", ".git/commondir", ".git/config", ".git/config.worktree", ".git/hooks", ".husky", ".idea", ".vscode"},
			stay:  []string{".envrc", ".git", ".vscode"},
		},
		"hooks elsewhere": {
			files: map[string]string{".git/HEAD": "ref", ".git/config": "[core]\n\thooksPath = tools/git/hooks\n", "tools/git/hooks/pre-commit": "x"},
			made:  []string{".git/commondir", ".git/config.worktree", ".git/hooks", ".husky", ".idea", ".vscode"},
			held: []string{
				".git", ".git/commondir", ".git/config", ".git/config.worktree", ".git/hooks", ".husky", ".idea", ".vscode", "tools", "tools/git", "tools/git/hooks",
			},
			stay: []string{".git", "tools"},
		},
		"hooks that are not there": {
			files: map[string]string{".git/HEAD": "ref", ".git/config": "[core]\nhookspath=\"a/b/c\" ; comment\n", ".git/hooks/": "", ".husky/": "", ".idea/": "", ".vscode/": ""},
			made:  []string{".git/commondir", ".git/config.worktree", "a"},
			held:  []string{".git", ".git/commondir", ".git/config", ".git/config.worktree", ".git/hooks", ".husky", ".idea", ".vscode", "a"},
			stay:  []string{".git", ".husky", ".idea", ".vscode"},
		},
		"a worktree": {
			files: map[string]string{".git": "gitdir: /elsewhere", ".husky/": "", ".idea/": "", ".vscode/": ""},
			held:  []string{".git", ".husky", ".idea", ".vscode"},
			stay:  []string{".git", ".husky", ".idea", ".vscode"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, r := project(t, c.files), Result{}
			if err := s.prepare(&r); err != nil {
				t.Fatal(err)
			}
			if got := names(r.Made); !slices.Equal(got, c.made) {
				t.Errorf("made %q, want %q", got, c.made)
			}
			if got := names(s.held); !slices.Equal(got, c.held) {
				t.Errorf("held %q, want %q", got, c.held)
			}
			for _, p := range slices.Backward(r.Made) {
				if err := p.Remove(); err != nil {
					t.Errorf("remove %s: %v", p.Rel, err)
				}
			}
			entries, err := os.ReadDir(s.Path)
			var stay []string
			for _, e := range entries {
				stay = append(stay, e.Name())
			}
			if err != nil || !slices.Equal(stay, c.stay) {
				t.Errorf("%q stay, want %q, %v", stay, c.stay, err)
			}
		})
	}
}

// TestUsedPlaceholderStays: a person has made something of it meanwhile.
func TestUsedPlaceholderStays(t *testing.T) {
	s, r := project(t, map[string]string{".git/HEAD": "ref"}), Result{}
	if err := s.prepare(&r); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".vscode/settings.json", ".git/config", ".git/commondir"} {
		if err := os.WriteFile(filepath.Join(s.Path, name), []byte("a person's"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range r.Made {
		if err := p.Remove(); err != nil {
			t.Errorf("remove %s: %v", p.Rel, err)
		}
	}
	for name, there := range map[string]bool{".vscode/settings.json": true, ".git/config": true, ".git/commondir": true, ".idea": false, ".git/config.worktree": false} {
		if _, err := os.Stat(filepath.Join(s.Path, name)); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHeldLinks: what a link leads to could be exchanged with the link.
func TestHeldLinks(t *testing.T) {
	for _, link := range []string{".git", ".git/hooks", ".git/config", ".git/commondir", ".vscode", ".envrc", "hooks"} {
		s := project(t, map[string]string{"elsewhere/": ""})
		if link != ".git" {
			for name, text := range map[string]string{"HEAD": "ref", "config": "[core]\n hooksPath = hooks\n"} {
				at := filepath.Join(s.Path, ".git", name)
				if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		at := filepath.Join(s.Path, link)
		os.Remove(at)
		if err := os.Symlink(filepath.Join(s.Path, "elsewhere"), at); err != nil {
			t.Fatal(err)
		}
		err := s.prepare(&Result{})
		if err == nil || !strings.Contains(err.Error(), "symbolic link") || !strings.Contains(err.Error(), "--allow-hooks") {
			t.Errorf("%s: %v", link, err)
		}
	}
}

func TestHooksPaths(t *testing.T) {
	for config, want := range map[string][]string{
		"[core]\n\thooksPath = .githooks\n":                {".githooks"},
		"[CORE]\r\n\tHooksPath=\"a b/c\"\r\n":              {"a b/c"},
		"[core]\n hooksPath = x # why\n[alias]\n y = z\n":  {"x"},
		"[core] hooksPath = one\n":                         {"one"},
		"[core]\n hooksPath = /elsewhere/hooks\n":          nil,
		"[core]\n hooksPath = ../out\n":                    nil,
		"[core]\n hooksPath = .\n":                         nil,
		"[alias]\n hooksPath = no\n":                       nil,
		"[core]\n hooksPath = DIR/in\n":                    {"in"},
		"[core]\n hooksPath = a\n hooksPath = b\n":         {"a", "b"},
		"[core \"sub\"]\n x = y\n[core]\n hooksPath = c\n": {"c"},
		"": nil,
	} {
		s := project(t, map[string]string{".git/HEAD": "ref"})
		text := strings.ReplaceAll(config, "DIR", s.Path)
		if err := os.WriteFile(filepath.Join(s.Path, ".git/config"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := s.hooksPaths(); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", config, got, want)
		}
	}
}

// TestSwapped: every user is shown as one, and one only.
func TestSwapped(t *testing.T) {
	for _, c := range [][2]uint32{{1000, 999}, {0, 1}, {5, 5}, {1<<32 - 2, 7}, {1000, 1001}} {
		seen := map[uint32]uint32{}
		total := 0
		for _, m := range swapped(c[0], c[1]) {
			total += m.Size
			for _, id := range []uint32{0, 1, 5, 7, 999, 1000, 1001, 65534, 1<<32 - 2} {
				if at := int(id) - m.ContainerID; at >= 0 && at < m.Size {
					seen[id] = uint32(m.HostID + at)
				}
			}
		}
		if total != 1<<32-1 {
			t.Errorf("%d: %d ids", c, total)
		}
		for id, as := range seen {
			want := id
			switch id {
			case c[0]:
				want = c[1]
			case c[1]:
				want = c[0]
			}
			if as != want {
				t.Errorf("%d: %d is shown as %d", c, id, as)
			}
		}
	}
}

func TestHomeOf(t *testing.T) {
	for home, want := range map[string]string{
		"/home/ann": "/home/ann", "/var/lib/svc": "/var/lib/svc", "/nonexistent": "/nonexistent",
		"": homeless, "/": homeless, "/usr/games": homeless, "/bin": homeless, "/proc": homeless, "/var": homeless, "/dev": homeless, "x": homeless, "/a/../b": homeless,
	} {
		if got := HomeOf(home); got != want {
			t.Errorf("%s: %s, want %s", home, got, want)
		}
	}
}
