package file

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"

	"github.com/postern/postern/internal/secret/source"
)

// What a new identity's public key encrypts, the source opens; and a second one
// does not take its place.
func TestNewIdentity(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "identity.txt")
	public, err := NewIdentity(key)
	must(t, err)
	to, err := age.ParseX25519Recipient(public)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "secrets.age"), sealed(t, to, "the real one\n"), 0o600))
	got, _, err := New(Options{Dir: dir, Identity: key}).Fetch(t.Context(), source.Ref{Path: "secrets.age"})
	must(t, err)
	if string(got.Reveal()) != "the real one" {
		t.Errorf("%q", got.Reveal())
	}
	before, err := os.ReadFile(key)
	must(t, err)
	if _, err := NewIdentity(key); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made anew: %v", err)
	}
	if after, err := os.ReadFile(key); err != nil || string(after) != string(before) {
		t.Errorf("changed: %v", err)
	}
}
