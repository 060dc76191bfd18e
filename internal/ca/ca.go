// Package ca is the host's certificate authority: a root that only agents
// trust, and the leaves that they see in place of their targets'.
//
// The root is made on the first start and stays, because it is in the trust
// stores of running agents. It signs one intermediate per configuration, which
// is short-lived and may sign for the configured targets and nothing else: a
// stolen intermediate is worth little, and the root need not be constrained to
// targets that change. Leaves are made when they are asked for.
//
// SSH is the same for SSH, with certificates of host keys: ssh.go.
//
// Who trusts the root (bundles in agents' mount namespaces) is left to the
// launcher, which names are targets to the configuration. Start with Open and
// Issuer.Config.
package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

const (
	// rootLife is long because replacing a root means restarting every agent.
	rootLife = 10 * 365 * 24 * time.Hour
	// skew is how far an agent's clock may be behind.
	skew = time.Hour

	stateFile = "ca.pem" // key and certificate in one file, so that both or none are there
)

// ErrState is wrapped by the errors of Open for a state that is there and
// cannot be used. It is never overwritten: agents trust the root in it.
var ErrState = errors.New("the certificate authority's state cannot be used")

// CA is the host's root.
type CA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	now  func() time.Time
}

// Options of a CA.
type Options struct {
	Host string // goes into the root's name, for people who look at it
	Now  func() time.Time
}

// Open reads the root from dir or, when there is none, makes one.
func Open(dir string, o Options) (*CA, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	path := filepath.Join(dir, stateFile)
	c, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := create(path, o); err != nil {
			return nil, fmt.Errorf("make the certificate authority: %w", err)
		}
		c, err = read(path)
	}
	if err != nil {
		return nil, err
	}
	c.now = o.Now
	if now := o.Now(); now.After(c.cert.NotAfter) {
		return nil, fmt.Errorf("%w: %s expired on %s", ErrState, path, c.cert.NotAfter.Format(time.DateOnly))
	}
	return c, nil
}

func read(path string) (*CA, error) {
	b, err := readState(path)
	if err != nil {
		return nil, err
	}
	c, what := parse(b)
	if what != "" {
		return nil, fmt.Errorf("%w: %s: %s; restore it from a backup, or remove it and restart every agent", ErrState, path, what)
	}
	return c, nil
}

// readState reads a file with a key, which nobody else may have read.
func readState(path string) ([]byte, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrState, path)
	}
	if mode := st.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %04o: others may have read the key", ErrState, path, mode)
	}
	return os.ReadFile(path)
}

// parse says what is wrong in words of its own: an error of a parser could
// quote the key.
func parse(b []byte) (c *CA, wrong string) {
	c = &CA{}
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		switch block.Type {
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			ec, ok := key.(*ecdsa.PrivateKey)
			if err != nil || !ok {
				return nil, "the key is damaged"
			}
			c.key = ec
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, "the certificate is damaged"
			}
			c.cert = cert
		}
	}
	switch {
	case len(bytes.TrimSpace(b)) > 0:
		return nil, "there is something in it that is no PEM"
	case c.key == nil:
		return nil, "the key is missing"
	case c.cert == nil:
		return nil, "the certificate is missing"
	case !c.cert.IsCA:
		return nil, "the certificate is not an authority's"
	case !c.key.PublicKey.Equal(c.cert.PublicKey):
		return nil, "key and certificate do not belong together"
	}
	return c, ""
}

func create(path string, o Options) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := o.Now()
	name := "Postern agents' CA"
	if o.Host != "" {
		name += " on " + o.Host
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"Postern"}, CommonName: name},
		NotBefore: now.Add(-skew), NotAfter: now.Add(rootLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLen: 1,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	return install(path, b)
}

// install puts a file in place that is whole or not there, and never replaces
// one: of two processes that start at once, one has to read the other's.
func install(path string, b []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".ca-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program first
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}

// RootPEM returns the root's certificate.
func (c *CA) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

// Fingerprint is the SHA-256 of the root's certificate in hex, for people.
func (c *CA) Fingerprint() string {
	sum := sha256.Sum256(c.cert.Raw)
	return hex.EncodeToString(sum[:])
}
