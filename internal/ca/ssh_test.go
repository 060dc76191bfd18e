package ca

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func openSSH(t testing.TB, dir string, c *clock) *SSH {
	t.Helper()
	s, err := OpenSSH(dir, Options{Now: c.Now})
	must(t, err)
	return s
}

// What agents trust stays: the authority, and the keys that follow from it.
func TestSSHStays(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "ca"), newClock()
	at := []Address{{"build.internal", 22}, {"build.internal", 2222}, {"*.wild.internal", 22}, {"2001:db8::7", 22}}
	first, err := openSSH(t, dir, now).KnownHosts(at)
	must(t, err)
	now.add(400 * 24 * time.Hour)
	second, err := openSSH(t, dir, now).KnownHosts(at)
	must(t, err)
	if first != second {
		t.Error("what agents trust changed")
	}
	other, err := openSSH(t, t.TempDir(), now).KnownHosts(at)
	must(t, err)
	if other == first {
		t.Error("two hosts have one key")
	}
	lines := strings.Split(strings.TrimSpace(first), "\n")
	if len(lines) != 1+3*2 || !strings.HasPrefix(lines[0], "@cert-authority build.internal,[build.internal]:2222,*.wild.internal,2001:db8::7 ssh-ed25519 ") {
		t.Errorf("%s", first)
	}
	for i, want := range []string{"build.internal ssh-ed25519 ", "build.internal ecdsa-sha2-nistp256 ", "[build.internal]:2222 ssh-ed25519 "} {
		if !strings.HasPrefix(lines[1+i], want) {
			t.Errorf("line %d is %q", 1+i, lines[1+i])
		}
	}
	if st, err := os.Stat(filepath.Join(dir, sshStateFile)); err != nil || st.Mode().Perm() != 0o600 {
		t.Error("the key's mode:", st.Mode(), err)
	}
	if none, err := openSSH(t, dir, now).KnownHosts(nil); none != "" || err != nil {
		t.Error("without targets:", none, err)
	}
}

// A host certificate is for the one name, of the right kind, and valid whenever
// it is shown.
func TestSSHHostCertificates(t *testing.T) {
	now := newClock()
	s := openSSH(t, t.TempDir(), now)
	checker := ssh.CertChecker{
		Clock:           now.Now,
		IsHostAuthority: func(k ssh.PublicKey, _ string) bool { return bytes.Equal(k.Marshal(), s.signer.PublicKey().Marshal()) },
	}
	seen := map[string]bool{}
	for range 60 {
		keys, err := s.HostKeys("Build.internal")
		must(t, err)
		if len(keys) != 2 {
			t.Fatal(len(keys), "keys")
		}
		for _, k := range keys {
			public, err := ssh.ParsePublicKey(k.Certificate)
			must(t, err)
			if err := checker.CheckHostKey("build.internal:22", nil, public); err != nil {
				t.Fatal(err)
			}
			if err := checker.CheckHostKey("other.internal:22", nil, public); err == nil {
				t.Fatal("it is good for another name")
			}
			cert := public.(*ssh.Certificate)
			if own, err := ssh.NewPublicKey(k.Key.Public()); err != nil || !bytes.Equal(own.Marshal(), cert.Key.Marshal()) {
				t.Fatal("key and certificate do not belong together", err)
			}
			if left := time.Unix(int64(cert.ValidBefore), 0).Sub(now.Now()); left < hostCertificateLife/3 || left > hostCertificateLife {
				t.Fatal("it is good for", left)
			}
			seen[string(k.Certificate)] = true
		}
		now.add(time.Hour)
	}
	if n := len(seen); n < 4 || n > 16 {
		t.Errorf("%d certificates in 60 hours", n)
	}
	if _, err := s.HostKeys("no such\nname"); !errors.Is(err, ErrName) {
		t.Error(err)
	}
}

func TestSSHDamagedState(t *testing.T) {
	dir := t.TempDir()
	openSSH(t, dir, newClock())
	path := filepath.Join(dir, sshStateFile)
	good, err := os.ReadFile(path)
	must(t, err)
	for name, b := range map[string][]byte{
		"empty": {}, "noise": []byte("noise"), "noise behind": append(bytes.Clone(good), "noise"...),
		"damaged": bytes.Replace(good, good[40:44], []byte("AAAA"), 1), "another kind of key": leafPEM(t),
	} {
		must(t, os.WriteFile(path, b, 0o600))
		if _, err := OpenSSH(dir, Options{}); !errors.Is(err, ErrState) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), string(good[60:80])) {
			t.Errorf("%s: the error quotes the key", name)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, b) {
			t.Errorf("%s: the state was changed", name)
		}
	}
	must(t, os.WriteFile(path, good, 0o600))
	must(t, os.Chmod(path, 0o644))
	if _, err := OpenSSH(dir, Options{}); !errors.Is(err, ErrState) {
		t.Error("mode 0644:", err)
	}
}
