package systemd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/secret/source"
	"github.com/postern/postern/internal/secret/source/sourcetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write exchanges a file, as the manager does.
func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.WriteFile(path+".new", []byte(content), 0o400))
	must(t, os.Rename(path+".new", path))
}

func TestSuite(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Place {
		dir := t.TempDir()
		in := func(name string) string { return filepath.Join(dir, name) }
		content := func(s string) func(*testing.T, string) {
			return func(t *testing.T, path string) { write(t, in(path), s) }
		}
		canary := sourcetest.Canary
		return sourcetest.Place{
			Source: New(Options{Dir: dir}), Versions: true,
			Put: func(t *testing.T, path, value string) { write(t, in(path), value) },
			PutFields: func(t *testing.T, path string, fields map[string]string) {
				all := ""
				for k, v := range fields {
					all += fmt.Sprintf("%s: %q\n", k, v)
				}
				write(t, in(path), all)
			},
			Remove: func(t *testing.T, path string) { must(t, os.Remove(in(path))) },
			Spoiled: []sourcetest.Spoiled{
				{Name: "one newline", Make: content("\n"), Want: source.ErrEmpty},
				{Name: "too long", Make: content(strings.Repeat(canary, source.MaxContent/len(canary)+1)), Want: source.ErrMalformed},
				{Name: "no map", Make: content(canary), Key: "password", Want: source.ErrMalformed},
				{Name: "a folder", Make: func(t *testing.T, path string) { must(t, os.Mkdir(in(path), 0o700)) }, Want: source.ErrMalformed},
				{Name: "a pipe", Make: func(t *testing.T, path string) { must(t, unix.Mkfifo(in(path), 0o600)) }, Want: source.ErrMalformed},
			},
		}
	})
}

// A name is one file in the folder and nothing else.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "outside"), sourcetest.Canary)
	must(t, os.MkdirAll(filepath.Join(dir, "inside", "deep"), 0o700))
	write(t, filepath.Join(dir, "inside", "deep", "x"), sourcetest.Canary)
	s := New(Options{Dir: filepath.Join(dir, "inside")})
	for _, name := range []string{"", ".", "..", "../outside", "deep/x", "/etc/hostname", filepath.Join(dir, "outside"), "x\x00", strings.Repeat("x", 256)} {
		got, _, err := s.Fetch(t.Context(), source.Ref{Path: name})
		sourcetest.Fails(t, got, err, source.ErrNotFound)
	}
}

// The manager says where the credentials are; a daemon that it did not start
// has none.
func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "db"), "value")
	t.Setenv(Env, dir)
	got, _, err := New(Options{}).Fetch(t.Context(), source.Ref{Path: "db"})
	if err != nil || string(got.Reveal()) != "value" {
		t.Errorf("%q, %v", got.Reveal(), err)
	}
	t.Setenv(Env, "")
	got, _, err = New(Options{}).Fetch(t.Context(), source.Ref{Path: "db"})
	sourcetest.Fails(t, got, err, source.ErrUnavailable)
}
