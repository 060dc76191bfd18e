package scan

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A link is not followed, and neither a folder nor a pipe holds anything up.
func TestOddFiles(t *testing.T) {
	home := t.TempDir()
	real := filepath.Join(t.TempDir(), "real")
	if err := os.WriteFile(real, []byte("h:1:d:u:secret-value\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, filepath.Join(home, ".pgpass")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(home, ".netrc"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := New()
	s.Home(home)
	if len(s.Findings) > 0 || len(s.Unread) > 0 {
		t.Errorf("%+v", s)
	}
}

// The same value in the environment of a child is found once.
func TestSameValueOnce(t *testing.T) {
	s := New()
	for _, pid := range []string{"1", "2"} {
		s.variables(map[string]string{"API_TOKEN": "secret-value"}, func(name string) string { return name + " of " + pid }, "environ")
	}
	if len(s.Findings) != 1 || s.Findings[0].Length != len("secret-value") {
		t.Errorf("%+v", s.Findings)
	}
}

// FuzzFiles: whatever a file holds, a value of length is in no finding.
func FuzzFiles(f *testing.F) {
	f.Add("postgres://u:%s@h/d")
	f.Add("host=h user=u password='%s' dbname=d")
	f.Add("h:1:d:u:%s")
	f.Add("machine m login l password %s")
	f.Add(`{"auths": {"h": {"auth": "%s"}}}`)
	f.Add("users: [{user: {token: '%s'}}]")
	f.Add("[s]\npassword=%s")
	f.Fuzz(func(t *testing.T, text string) {
		const value = "canaryZq8vR2mN7"
		text = strings.ReplaceAll(text, "%s", value)
		s := New()
		for _, file := range files {
			file.read(s, "place", []byte(text))
		}
		s.dotenv("place", []byte(text))
		s.dotenv("place", []byte("DATABASE_URL="+text))
		for _, found := range s.Findings {
			if found.Length == len(value) && strings.Contains(found.User+found.Host+found.Database+found.Place, value) {
				t.Errorf("%+v", found)
			}
		}
	})
}
