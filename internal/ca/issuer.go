package ca

import (
	"container/list"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	// intermediateLife bounds what a stolen intermediate is good for.
	intermediateLife = 7 * 24 * time.Hour
	// leafLife bounds the same for a leaf; connections outlive it.
	leafLife = 24 * time.Hour
	// maxLeaves bounds the cache: only wildcard targets have more names.
	maxLeaves = 1024
	// maxName is the limit of RFC 1035 in its text form.
	maxName = 253
)

// ErrName is wrapped when a leaf is asked for a name that is not a configured
// target's.
var ErrName = errors.New("no target has this name")

// Issuer makes leaves for the targets of one configuration.
type Issuer struct {
	ca    *CA
	names map[string]bool // exact names and addresses
	wild  []string        // ".example.com" for "*.example.com"

	mu     sync.Mutex
	signer *signer
	leaves map[string]*list.Element // of *leaf
	recent *list.List
}

type signer struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

type leaf struct {
	name string
	cert *tls.Certificate
}

// Issuer returns an issuer for these names: DNS names, "*." before one for what
// is below it, and IP addresses. It makes the intermediate, so that a
// configuration that cannot be served is refused when it is loaded.
func (c *CA) Issuer(names []string) (*Issuer, error) {
	i := &Issuer{ca: c, names: map[string]bool{}, leaves: map[string]*list.Element{}, recent: list.New()}
	for _, n := range names {
		base, wild := strings.CutPrefix(n, "*.")
		clean, isIP, ok := normal(base)
		if !ok || wild && isIP {
			return nil, fmt.Errorf("%q cannot be in a certificate", n)
		}
		if wild {
			i.wild = append(i.wild, "."+clean)
		} else {
			i.names[clean] = true
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i, i.newSigner(c.now())
}

// normal returns a name in lower case without a final dot, and an address
// without the ways to write it differently.
func normal(name string) (clean string, isIP, ok bool) {
	if a, err := netip.ParseAddr(name); err == nil {
		return a.Unmap().String(), true, a.Zone() == ""
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "" || len(name) > maxName {
		return "", false, false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", false, false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return "", false, false
			}
		}
	}
	return name, false, true
}

func (i *Issuer) allowed(clean string) bool {
	if i.names[clean] {
		return true
	}
	for _, suffix := range i.wild {
		if strings.HasSuffix(clean, suffix) && len(clean) > len(suffix) {
			return true
		}
	}
	return false
}

// newSigner makes an intermediate; i.mu is held.
func (i *Issuer) newSigner(now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make an intermediate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{Organization: []string{"Postern"}, CommonName: "Postern agents' intermediate"},
		NotBefore:    now.Add(-skew), NotAfter: minTime(now.Add(intermediateLife), i.ca.cert.NotAfter),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		PermittedDNSDomainsCritical: true,
	}
	i.constrain(template)
	der, err := x509.CreateCertificate(rand.Reader, template, i.ca.cert, key.Public(), i.ca.key)
	if err != nil {
		return fmt.Errorf("make an intermediate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("make an intermediate: %w", err)
	}
	i.signer = &signer{key, cert}
	return nil
}

// constrain limits an intermediate to the configured names. A kind of name of
// which none is configured is excluded as a whole: a constraint on one kind
// says nothing about the other (RFC 5280, 4.2.1.10).
func (i *Issuer) constrain(c *x509.Certificate) {
	for name := range i.names {
		if a, err := netip.ParseAddr(name); err == nil {
			c.PermittedIPRanges = append(c.PermittedIPRanges, &net.IPNet{
				IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen()),
			})
		} else {
			c.PermittedDNSDomains = append(c.PermittedDNSDomains, name)
		}
	}
	for _, suffix := range i.wild {
		c.PermittedDNSDomains = append(c.PermittedDNSDomains, suffix[1:])
	}
	if len(c.PermittedDNSDomains) == 0 {
		c.PermittedDNSDomains = []string{"invalid"} // reserved by RFC 2606, so nobody's
	}
	if len(c.PermittedIPRanges) == 0 {
		c.ExcludedIPRanges = []*net.IPNet{
			{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		}
	}
}

// Config returns what a server speaks TLS with as name. Handshakes that ask for
// another name fail. There is no session resumption: a ticket would carry a
// handshake over into a configuration that came later.
func (i *Issuer) Config(name string, alpn ...string) (*tls.Config, error) {
	clean, isIP, ok := normal(name)
	if !ok || !i.allowed(clean) {
		return nil, fmt.Errorf("%w: %q", ErrName, name)
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		NextProtos:             alpn,
		SessionTicketsDisabled: true,
		Time:                   i.ca.now,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if asked := hello.ServerName; asked != "" {
				if got, _, ok := normal(asked); !ok || isIP || got != clean {
					return nil, fmt.Errorf("%w: the client asks for %q on a connection to %q", ErrName, asked, clean)
				}
			}
			return i.leaf(clean)
		},
	}, nil
}

// leaf returns a certificate that is good for a while yet.
func (i *Issuer) leaf(name string) (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.ca.now()
	if e := i.leaves[name]; e != nil {
		cert := e.Value.(*leaf).cert
		if now.Add(leafLife/3).Before(cert.Leaf.NotAfter) && now.After(cert.Leaf.NotBefore) {
			i.recent.MoveToFront(e)
			return cert, nil
		}
		i.recent.Remove(e)
		delete(i.leaves, name)
	}
	// Before its time it is when the clock was wrong when it was made.
	if m := i.signer.cert; now.Add(intermediateLife/2).After(m.NotAfter) || now.Before(m.NotBefore) {
		if err := i.newSigner(now); err != nil {
			return nil, err
		}
	}
	cert, err := i.signer.issue(name, now)
	if err != nil {
		return nil, fmt.Errorf("make a certificate for %s: %w", name, err)
	}
	i.leaves[name] = i.recent.PushFront(&leaf{name, cert})
	if i.recent.Len() > maxLeaves {
		oldest := i.recent.Back()
		i.recent.Remove(oldest)
		delete(i.leaves, oldest.Value.(*leaf).name)
	}
	return cert, nil
}

func (s *signer) issue(name string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"Postern"}},
		NotBefore: now.Add(-skew), NotAfter: minTime(now.Add(leafLife), s.cert.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if a, err := netip.ParseAddr(name); err == nil {
		template.IPAddresses = []net.IP{a.AsSlice()}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.cert, key.Public(), s.key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, s.cert.Raw}, PrivateKey: key, Leaf: parsed}, nil
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
