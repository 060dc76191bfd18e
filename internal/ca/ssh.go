package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	sshStateFile = "ssh.pem"
	// hostCertificateLife bounds what a host key that was stolen is good for with
	// agents that trust the authority; connections outlive it.
	hostCertificateLife = 24 * time.Hour
)

// SSH is the host's SSH authority. Agents trust it for the hosts of targets and
// for nothing else: its line of known_hosts names them.
//
// Its key is made on the first start and stays. The keys that agents see in place
// of their targets' follow from it, so that a client that has pinned one finds it
// again: two per host, Ed25519 and ECDSA, for clients that know only one.
type SSH struct {
	seed   []byte
	signer ssh.Signer
	now    func() time.Time

	mu    sync.Mutex
	hosts map[string]*sshHost // bounded by maxLeaves
}

// sshHost is what agents are shown for one host.
type sshHost struct {
	keys    []HostKey
	renewAt time.Time
}

// HostKey is a key of the gateway's for a host, with its certificate in SSH's
// wire format.
type HostKey struct {
	Key         crypto.Signer
	Certificate []byte
}

// OpenSSH reads the SSH authority from dir or, when there is none, makes one.
func OpenSSH(dir string, o Options) (*SSH, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	path := filepath.Join(dir, sshStateFile)
	b, err := readState(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createSSH(path); err != nil {
			return nil, fmt.Errorf("make the SSH authority: %w", err)
		}
		b, err = readState(path)
	}
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, fmt.Errorf("%w: %s is no key in PEM; restore it from a backup, or remove it and restart every agent", ErrState, path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := key.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%w: %s: the key is damaged; restore it from a backup, or remove it and restart every agent", ErrState, path)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		return nil, err
	}
	return &SSH{seed: private.Seed(), signer: signer, now: o.Now, hosts: map[string]*sshHost{}}, nil
}

func createSSH(path string) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return install(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// HostKeys returns what agents are shown for a host, a name or an address. The
// caller has checked that it is a target's.
func (s *SSH) HostKeys(host string) ([]HostKey, error) {
	name, _, ok := normal(host)
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrName, host)
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.hosts[name]; h != nil && now.Before(h.renewAt) && now.After(h.renewAt.Add(-hostCertificateLife)) {
		return h.keys, nil
	}
	h := &sshHost{renewAt: now.Add(hostCertificateLife / 2)}
	keys, err := s.keysOf(name)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		cert, err := s.certify(key, name, now)
		if err != nil {
			return nil, err
		}
		h.keys = append(h.keys, HostKey{Key: key, Certificate: cert})
	}
	if len(s.hosts) >= maxLeaves {
		clear(s.hosts)
	}
	s.hosts[name] = h
	return h.keys, nil
}

// keysOf derives the keys of a host.
func (s *SSH) keysOf(name string) ([]crypto.Signer, error) {
	seed, err := hkdf.Key(sha256.New, s.seed, nil, "postern ssh host key ed25519 "+name, ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	for i := range 128 { // one in four billion is out of range: the next is taken
		scalar, err := hkdf.Key(sha256.New, s.seed, nil, "postern ssh host key p256 "+strconv.Itoa(i)+" "+name, 32)
		if err != nil {
			return nil, err
		}
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar); err == nil {
			return []crypto.Signer{ed25519.NewKeyFromSeed(seed), key}, nil
		}
	}
	return nil, errors.New("no ECDSA key could be derived")
}

func (s *SSH) certify(key crypto.Signer, name string, now time.Time) ([]byte, error) {
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	var nonce [8]byte
	rand.Read(nonce[:])
	cert := &ssh.Certificate{
		Key: public, CertType: ssh.HostCert, KeyId: "postern " + name, ValidPrincipals: []string{name},
		Serial:     binary.BigEndian.Uint64(nonce[:]),
		ValidAfter: uint64(now.Add(-skew).Unix()), ValidBefore: uint64(now.Add(hostCertificateLife).Unix()),
	}
	if err := cert.SignCert(rand.Reader, s.signer); err != nil {
		return nil, err
	}
	return cert.Marshal(), nil
}

// Address is a host and port as agents dial it; a host may be a wildcard.
type Address struct {
	Host string
	Port uint16
}

// Known is the address as known_hosts has it.
func (a Address) Known() string {
	if a.Port == 22 {
		return a.Host
	}
	return "[" + a.Host + "]:" + strconv.Itoa(int(a.Port))
}

// Line is the authority's line of known_hosts, for these addresses.
func (s *SSH) Line(at []Address) string {
	var names []string
	for _, a := range at {
		names = append(names, a.Known())
	}
	return "@cert-authority " + strings.Join(names, ",") + " " + authorized(s.signer.PublicKey()) + " postern\n"
}

// KnownHosts is a known_hosts file for agents: the authority's line and, for
// clients that know no certificates, the keys of each address that is no
// wildcard. It is empty without addresses.
func (s *SSH) KnownHosts(at []Address) (string, error) {
	if len(at) == 0 {
		return "", nil
	}
	out := s.Line(at)
	for _, a := range at {
		name, _, ok := normal(a.Host)
		if !ok {
			continue
		}
		keys, err := s.keysOf(name)
		if err != nil {
			return "", err
		}
		for _, key := range keys {
			public, err := ssh.NewPublicKey(key.Public())
			if err != nil {
				return "", err
			}
			out += a.Known() + " " + authorized(public) + " postern\n"
		}
	}
	return out, nil
}

func authorized(key ssh.PublicKey) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n")
}

// Fingerprint is that of the authority's key, for people.
func (s *SSH) Fingerprint() string { return ssh.FingerprintSHA256(s.signer.PublicKey()) }
