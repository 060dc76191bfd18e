package file

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
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

// folder is a place for files, and who they are encrypted to.
type folder struct {
	dir      string
	identity *age.X25519Identity
}

func newFolder(t *testing.T) (*folder, *Source) {
	id, err := age.GenerateX25519Identity()
	must(t, err)
	f := &folder{t.TempDir(), id}
	must(t, os.WriteFile(f.key(), []byte("# the daemon's\n"+id.String()+"\n"), 0o600))
	return f, New(Options{Dir: f.dir, Identity: f.key()})
}

func (f *folder) key() string             { return filepath.Join(f.dir, "identity") }
func (f *folder) path(path string) string { return filepath.Join(f.dir, path) }

func sealed(t *testing.T, to age.Recipient, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := age.Encrypt(&b, to)
	must(t, err)
	_, err = io.WriteString(w, content)
	must(t, err)
	must(t, w.Close())
	return b.Bytes()
}

// put writes over the file in place, as an editor may.
func (f *folder) put(t *testing.T, path, value string) {
	t.Helper()
	f.raw(t, path, sealed(t, f.identity.Recipient(), value))
}

func (f *folder) raw(t *testing.T, path string, b []byte) {
	t.Helper()
	must(t, os.WriteFile(f.path(path), b, 0o600))
}

// exchange puts a new file in place of the old, as a tool should.
func (f *folder) exchange(t *testing.T, path, value string) {
	t.Helper()
	f.raw(t, path+".new", sealed(t, f.identity.Recipient(), value))
	must(t, os.Rename(f.path(path+".new"), f.path(path)))
}

func TestSuite(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Place {
		f, s := newFolder(t)
		return sourcetest.Place{
			Source: s, Put: f.exchange, Versions: true,
			PutFields: func(t *testing.T, path string, fields map[string]string) {
				content := "# YAML\n"
				for k, v := range fields {
					content += fmt.Sprintf("%s: %q\n", k, v)
				}
				f.exchange(t, path, content)
			},
			Remove:  func(t *testing.T, path string) { must(t, os.Remove(f.path(path))) },
			Spoiled: spoiled(f),
		}
	})
}

func spoiled(f *folder) []sourcetest.Spoiled {
	raw := func(b []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) { f.raw(t, path, b) }
	}
	content := func(s string) func(*testing.T, string) {
		return func(t *testing.T, path string) { f.put(t, path, s) }
	}
	canary := sourcetest.Canary
	return []sourcetest.Spoiled{
		{Name: "plain text", Make: raw([]byte(canary)), Want: source.ErrMalformed},
		{Name: "no bytes", Make: raw(nil), Want: source.ErrEmpty},
		{Name: "one newline", Make: content("\r\n"), Want: source.ErrEmpty},
		{Name: "to another", Want: source.ErrMalformed, Make: func(t *testing.T, path string) {
			other, err := age.GenerateX25519Identity()
			must(t, err)
			f.raw(t, path, sealed(t, other.Recipient(), canary))
		}},
		{Name: "cut", Want: source.ErrMalformed, Make: func(t *testing.T, path string) {
			b := sealed(t, f.identity.Recipient(), canary)
			f.raw(t, path, b[:len(b)-5])
		}},
		{Name: "altered", Want: source.ErrMalformed, Make: func(t *testing.T, path string) {
			b := sealed(t, f.identity.Recipient(), canary)
			b[len(b)-1] ^= 1
			f.raw(t, path, b)
		}},
		{Name: "too long", Make: raw(make([]byte, source.MaxContent+1)), Want: source.ErrMalformed},
		{Name: "too long inside", Make: content(strings.Repeat(canary, source.MaxContent/len(canary)) + canary), Want: source.ErrMalformed},
		{Name: "a folder", Make: func(t *testing.T, path string) { must(t, os.Mkdir(f.path(path), 0o700)) }, Want: source.ErrMalformed},
		{Name: "a pipe", Make: func(t *testing.T, path string) { must(t, unix.Mkfifo(f.path(path), 0o600)) }, Want: source.ErrMalformed},
		{Name: "no map", Make: content(canary), Key: "password", Want: source.ErrMalformed},
		{Name: "bad YAML", Make: content("password: [" + canary), Key: "password", Want: source.ErrMalformed},
		{Name: "a list", Make: content("password: [" + canary + "]"), Key: "password", Want: source.ErrMalformed},
		{Name: "a map", Make: content("password: {" + canary + ": x}"), Key: "password", Want: source.ErrMalformed},
		{Name: "null", Make: content("password: null"), Key: "password", Want: source.ErrEmpty},
		{Name: "tilde", Make: content("password: ~"), Key: "password", Want: source.ErrEmpty},
	}
}

// A file that is written over in place is read again, however quickly and with
// whatever its old time of change.
func TestWrittenInPlace(t *testing.T) {
	f, s := newFolder(t)
	f.put(t, "a", "0")
	st, err := os.Stat(f.path("a"))
	must(t, err)
	for i := range 200 {
		want := fmt.Sprint(i % 10)
		f.put(t, "a", want)
		must(t, os.Chtimes(f.path("a"), st.ModTime(), st.ModTime()))
		got, _, err := s.Fetch(t.Context(), source.Ref{Path: "a"})
		must(t, err)
		if string(got.Reveal()) != want {
			t.Fatalf("write %d: it holds %s, want %s", i, got.Reveal(), want)
		}
	}
}

func TestForms(t *testing.T) {
	f, s := newFolder(t)
	var armored bytes.Buffer
	w := armor.NewWriter(&armored)
	_, err := w.Write(sealed(t, f.identity.Recipient(), "armored\n"))
	must(t, err)
	must(t, w.Close())
	f.raw(t, "armored", armored.Bytes())
	f.put(t, "json", `{"password": "in JSON", "port": 5432}`)
	f.put(t, "newlines", "kept\n\n")
	for ref, want := range map[source.Ref]string{
		{Path: "armored"}: "armored", {Path: f.path("armored")}: "armored", {Path: "json", Key: "password"}: "in JSON",
		{Path: "json", Key: "port"}: "5432", {Path: "newlines"}: "kept\n",
	} {
		got, _, err := s.Fetch(t.Context(), ref)
		must(t, err)
		if string(got.Reveal()) != want {
			t.Errorf("%v holds %q", ref, got.Reveal())
		}
	}
}

// An identity that others may read, that another user may change, that is
// missing or damaged opens nothing; the error has none of it.
func TestIdentity(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, path string)
		want   error
	}{
		"readable by the group": {func(t *testing.T, p string) { must(t, os.Chmod(p, 0o640)) }, source.ErrPermission},
		"readable by all":       {func(t *testing.T, p string) { must(t, os.Chmod(p, 0o604)) }, source.ErrPermission},
		"missing":               {func(t *testing.T, p string) { must(t, os.Remove(p)) }, source.ErrNotFound},
		"damaged": {func(t *testing.T, p string) {
			must(t, os.WriteFile(p, []byte("AGE-SECRET-KEY-"+sourcetest.Canary), 0o600))
		}, source.ErrMalformed},
		"empty":    {func(t *testing.T, p string) { must(t, os.Truncate(p, 0)) }, source.ErrMalformed},
		"a folder": {func(t *testing.T, p string) { must(t, os.Remove(p)); must(t, os.Mkdir(p, 0o700)) }, source.ErrMalformed},
		"another user's": {func(t *testing.T, p string) {
			if os.Geteuid() != 0 {
				t.Skip("a file can be given to another user by root only")
			}
			must(t, os.Chown(p, 12345, -1))
		}, source.ErrPermission},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := newFolder(t)
			f.put(t, "a", sourcetest.Canary)
			c.change(t, f.key())
			got, _, err := s.Fetch(t.Context(), source.Ref{Path: "a"})
			sourcetest.Fails(t, got, err, c.want)
		})
	}
}

// A file that the daemon may not read is no missing file.
func TestUnreadable(t *testing.T) {
	f, s := newFolder(t)
	f.put(t, "a", sourcetest.Canary)
	must(t, os.Chmod(f.path("a"), 0))
	if os.Geteuid() == 0 {
		// Root reads everything; a thread whose file system user is another does not.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		unix.SetfsuidRetUid(12345)
		defer unix.SetfsuidRetUid(0)
	}
	got, _, err := s.Fetch(t.Context(), source.Ref{Path: f.path("a")})
	sourcetest.Fails(t, got, err, source.ErrPermission)
}
