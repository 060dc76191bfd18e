package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// clock is moved by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 14, 9, 0, 0, 0, time.UTC)} }

func open(t testing.TB, dir string, c *clock) *CA {
	t.Helper()
	ca, err := Open(dir, Options{Host: "build-7", Now: c.Now})
	must(t, err)
	return ca
}

// The root is made once and stays.
func TestRootStays(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "ca"), newClock()
	first := open(t, dir, now)
	before, err := os.ReadFile(filepath.Join(dir, stateFile))
	must(t, err)
	now.add(5 * 365 * 24 * time.Hour)
	second := open(t, dir, now)
	after, err := os.ReadFile(filepath.Join(dir, stateFile))
	must(t, err)
	if !bytes.Equal(before, after) || first.Fingerprint() != second.Fingerprint() || !bytes.Equal(first.RootPEM(), second.RootPEM()) {
		t.Error("the root changed")
	}
	if !strings.Contains(first.cert.Subject.CommonName, "build-7") || !first.cert.IsCA || first.cert.MaxPathLen != 1 {
		t.Errorf("%+v", first.cert.Subject)
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 1 {
		t.Error("left behind:", entries)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, stateFile): 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s has mode %s", path, st.Mode())
		}
	}
	if bytes.Contains(first.RootPEM(), []byte("PRIVATE")) {
		t.Error("the key is among what agents are given")
	}
}

// State that cannot be used is refused, not replaced: agents trust what is in it.
func TestDamagedState(t *testing.T) {
	good := func(t *testing.T) (key, cert []byte) {
		dir := t.TempDir()
		open(t, dir, newClock())
		b, err := os.ReadFile(filepath.Join(dir, stateFile))
		must(t, err)
		i := bytes.Index(b, []byte("-----BEGIN CERTIFICATE"))
		return b[:i], b[i:]
	}
	key, cert := good(t)
	otherKey, _ := good(t)
	secretPart := string(key[40:80])
	leaf := leafPEM(t)
	for name, b := range map[string][]byte{
		"empty":                      {},
		"noise":                      []byte("noise"),
		"no certificate":             key,
		"no key":                     cert,
		"another key":                append(bytes.Clone(otherKey), cert...),
		"noise behind":               append(append(bytes.Clone(key), cert...), "noise"...),
		"cut":                        append(bytes.Clone(key), cert[:len(cert)-30]...),
		"a damaged key":              append(bytes.Replace(key, key[60:64], []byte("AAAA"), 1), cert...),
		"a damaged certificate":      append(bytes.Clone(key), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})...),
		"a key that is none":         append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), cert...),
		"a leaf instead of the root": leaf,
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, stateFile)
		must(t, os.WriteFile(path, b, 0o600))
		_, err := Open(dir, Options{Now: newClock().Now})
		if !errors.Is(err, ErrState) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), secretPart) {
			t.Errorf("%s: the error quotes the key", name)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, b) {
			t.Errorf("%s: the state was changed", name)
		}
	}
}

// leafPEM is a key with a certificate that is no authority's.
func leafPEM(t *testing.T) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: serial(), NotAfter: newClock().now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	return append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
}

// A key that others may have read is not used, nor one behind a link.
func TestStateModes(t *testing.T) {
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o644, 0o620} {
		dir := t.TempDir()
		open(t, dir, newClock())
		must(t, os.Chmod(filepath.Join(dir, stateFile), mode))
		if _, err := Open(dir, Options{}); !errors.Is(err, ErrState) {
			t.Errorf("mode %s: %v", mode, err)
		}
	}
	dir, elsewhere := t.TempDir(), t.TempDir()
	open(t, elsewhere, newClock())
	must(t, os.Symlink(filepath.Join(elsewhere, stateFile), filepath.Join(dir, stateFile)))
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrState) {
		t.Error("a link:", err)
	}
	dir = t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, stateFile), 0o700))
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrState) {
		t.Error("a folder:", err)
	}
}

func TestExpiredRoot(t *testing.T) {
	dir, now := t.TempDir(), newClock()
	open(t, dir, now)
	now.add(rootLife + time.Second)
	if _, err := Open(dir, Options{Now: now.Now}); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "expired on 2036-03-11") {
		t.Error(err)
	}
}

// Of several that start at once all have the same root.
func TestOpenRace(t *testing.T) {
	for range 10 {
		dir := filepath.Join(t.TempDir(), "ca")
		var mu sync.Mutex
		prints := map[string]bool{}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				c, err := Open(dir, Options{})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				prints[c.Fingerprint()] = true
			})
		}
		all.Wait()
		if len(prints) != 1 {
			t.Fatal("roots:", prints)
		}
	}
}
