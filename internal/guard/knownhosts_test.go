package guard

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern/postern/internal/config"
)

// The guard hands over what the daemon says of host keys, and nothing else that
// it could read as root.
func TestKnownHostsHandsOverNothingElse(t *testing.T) {
	state := t.TempDir()
	path := filepath.Join(state, KnownHostsFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := &config.Config{StateDir: state}
	if files, err := sshFiles(cfg); err != nil || len(files) != 0 {
		t.Error("without the file:", files, err)
	}
	good := "@cert-authority build.internal,[build.internal]:2222,*.wild.internal ssh-ed25519 AAAAC3Nz postern\n" +
		"2001:db8::7 ecdsa-sha2-nistp256 AAAAE2Vj== postern\n"
	for text, fine := range map[string]bool{
		good: true,
		good + "-----BEGIN OPENSSH PRIVATE KEY-----\n":    false,
		"root:x:0:0::/root:/bin/sh\n":                     false,
		good + "build.internal ssh-ed25519 AAAA":          false,
		"build.internal ssh-ed25519 AAAA postern\nroot\n": false,
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		files, err := sshFiles(cfg)
		if (err == nil) != fine {
			t.Errorf("%q: %v", text, err)
		}
		if fine && (len(files) == 0 || string(files[0].Content) != good) {
			t.Errorf("%q: %v", text, files)
		}
		for _, f := range files[min(1, len(files)):] {
			if f.Over != sshConfig || !strings.HasPrefix(string(f.Content), "GlobalKnownHostsFile /run/postern/known_hosts ") {
				t.Errorf("over %s: %.100q", f.Over, f.Content)
			}
		}
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	if err := os.Symlink(secret, path); err != nil {
		t.Fatal(err)
	}
	if files, err := sshFiles(cfg); err == nil {
		t.Error("a link was followed:", files)
	}
}
