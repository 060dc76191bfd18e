package ca

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func issuer(t testing.TB, c *CA, names ...string) *Issuer {
	t.Helper()
	i, err := c.Issuer(names)
	must(t, err)
	return i
}

// shown is the chain that a client sees that dials name and asks for sni.
func shown(i *Issuer, name, sni string) (*tls.Certificate, error) {
	config, err := i.Config(name)
	if err != nil {
		return nil, err
	}
	return config.GetCertificate(&tls.ClientHelloInfo{ServerName: sni})
}

// verify is what a client does with a chain.
func (c *CA) verify(chain *tls.Certificate, name string, at time.Time) error {
	roots, middle := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(c.cert)
	for _, der := range chain.Certificate[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		middle.AddCert(cert)
	}
	_, err := chain.Leaf.Verify(x509.VerifyOptions{
		DNSName: name, Roots: roots, Intermediates: middle, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}

var targets = []string{"orders-db", "Orders.Example.COM.", "*.wild.example", "10.0.0.7", "2001:db8::7", "with_underscore"}

// Every configured name has a chain that verifies, for that name alone.
func TestChains(t *testing.T) {
	now := newClock()
	c := open(t, t.TempDir(), now)
	i := issuer(t, c, targets...)
	names := []string{"orders-db", "orders.example.com", "a.wild.example", "a.b.wild.example", "10.0.0.7", "2001:db8::7", "with_underscore"}
	for _, name := range names {
		chain, err := shown(i, name, "")
		must(t, err)
		if err := c.verify(chain, name, now.Now()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, other := range names {
			if other != name && c.verify(chain, other, now.Now()) == nil {
				t.Errorf("the chain of %s is good for %s", name, other)
			}
		}
		if chain.Leaf.IsCA || chain.Leaf.NotAfter.Sub(now.Now()) > leafLife {
			t.Errorf("%s: %+v", name, chain.Leaf)
		}
	}
}

// OpenSSL, which is what most agents verify with, agrees.
func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	now := &clock{now: time.Now()}
	c := open(t, t.TempDir(), now)
	i := issuer(t, c, targets...)
	dir := t.TempDir()
	write := func(name string, ders ...[]byte) string {
		var b []byte
		for _, der := range ders {
			b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, b, 0o600))
		return path
	}
	root := write("root", c.cert.Raw)
	check := func(chain *tls.Certificate, name string) (string, error) {
		flag := "-verify_hostname"
		if net.ParseIP(name) != nil {
			flag = "-verify_ip"
		}
		out, err := exec.Command(openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", root,
			"-untrusted", write("middle", chain.Certificate[1]), flag, name, write("leaf", chain.Certificate[0])).CombinedOutput()
		return string(out), err
	}
	for _, name := range []string{"orders-db", "orders.example.com", "a.wild.example", "10.0.0.7", "2001:db8::7"} {
		chain, err := shown(i, name, name)
		if net.ParseIP(name) != nil {
			chain, err = shown(i, name, "")
		}
		must(t, err)
		if out, err := check(chain, name); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if out, err := check(chain, "elsewhere.example"); err == nil {
			t.Errorf("the chain of %s is good for another name\n%s", name, out)
		}
	}
	forged, err := i.signer.issue("elsewhere.example", now.Now())
	must(t, err)
	if out, err := check(forged, "elsewhere.example"); err == nil || !strings.Contains(out, "permitted subtree violation") {
		t.Errorf("a leaf beyond the constraints: %v\n%s", err, out)
	}
}

// A leaf for a name that is no target's is refused, and one that a stolen
// intermediate signs does not verify.
func TestUnconfiguredNames(t *testing.T) {
	now := newClock()
	c := open(t, t.TempDir(), now)
	all := map[string]*Issuer{
		"names and addresses": issuer(t, c, targets...), "names": issuer(t, c, "orders-db"),
		"addresses": issuer(t, c, "10.0.0.7"), "nothing": issuer(t, c),
	}
	for what, i := range all {
		for _, name := range []string{
			"elsewhere.example", "wild.example", "xwild.example", "example.com", "com", "db", "10.0.0.8", "2001:db8::8", "::ffff:10.0.0.8", "0.0.0.0", "orders-db.evil.example",
		} {
			if _, err := i.Config(name); !errors.Is(err, ErrName) {
				t.Errorf("%s: a config for %s: %v", what, name, err)
			}
			forged, err := i.signer.issue(name, now.Now())
			must(t, err)
			if name == "wild.example" && what == "names and addresses" {
				continue // RFC 5280 lets a constraint on names below permit the name itself
			}
			if err := c.verify(forged, name, now.Now()); err == nil {
				t.Errorf("%s: a forged leaf for %s verifies", what, name)
			}
		}
	}
}

// A signed leaf is no authority, and an intermediate signs no further one.
func TestNoAuthorityBelow(t *testing.T) {
	now := newClock()
	c := open(t, t.TempDir(), now)
	i := issuer(t, c, "orders-db")
	if m := i.signer.cert; !m.IsCA || m.MaxPathLen != 0 || !m.MaxPathLenZero || m.NotAfter.Sub(now.Now()) > intermediateLife {
		t.Errorf("%+v", m)
	}
	if !i.signer.cert.PermittedDNSDomainsCritical {
		t.Error("the constraints are not critical")
	}
}

func TestNames(t *testing.T) {
	c := open(t, t.TempDir(), newClock())
	for _, bad := range []string{
		"", ".", "*", "*.", "a..b", "-a", "a-", "a b", "a\x00b", "a/b", "a,DNS:evil", "ä.example", "*.10.0.0.7", "*.*.example", "fe80::1%eth0",
		strings.Repeat("a", 64), strings.Repeat("a.", 127) + "aa",
	} {
		if _, err := c.Issuer([]string{bad}); err == nil {
			t.Errorf("%q was taken for a name", bad)
		}
	}
	i := issuer(t, c, "Orders-DB.", "::ffff:10.0.0.7")
	for _, good := range []string{"orders-db", "ORDERS-DB", "orders-db.", "10.0.0.7", "::ffff:10.0.0.7"} {
		if _, err := i.Config(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

// The name in a ClientHello is the name that was dialled, or none.
func TestServerName(t *testing.T) {
	i := issuer(t, open(t, t.TempDir(), newClock()), targets...)
	for _, c := range []struct {
		dialled, asked string
		ok             bool
	}{
		{"orders-db", "", true},
		{"orders-db", "orders-db", true},
		{"orders-db", "ORDERS-DB.", true},
		{"orders-db", "orders.example.com", false},
		{"orders-db", "elsewhere", false},
		{"orders-db", "orders-db\x00", false},
		{"orders-db", "10.0.0.7", false},
		{"10.0.0.7", "", true},
		{"10.0.0.7", "orders-db", false},
		{"10.0.0.7", "10.0.0.7", false},
	} {
		if _, err := shown(i, c.dialled, c.asked); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrName) {
			t.Errorf("dialled %s, asked for %q: %v", c.dialled, c.asked, err)
		}
	}
}

// Leaves are renewed before they end, the intermediate with them, and what is
// shown is good at any time.
func TestRenewal(t *testing.T) {
	now := newClock()
	c := open(t, t.TempDir(), now)
	i := issuer(t, c, "orders-db")
	leaves, signers := map[string]bool{}, map[string]bool{}
	const days = 30
	for range days * 24 {
		chain, err := shown(i, "orders-db", "")
		must(t, err)
		if err := c.verify(chain, "orders-db", now.Now()); err != nil {
			t.Fatalf("at %s: %v", now.Now(), err)
		}
		if left := chain.Leaf.NotAfter.Sub(now.Now()); left < leafLife/3 {
			t.Fatalf("at %s it has %s left", now.Now(), left)
		}
		leaves[string(chain.Certificate[0])], signers[string(chain.Certificate[1])] = true, true
		now.add(time.Hour)
	}
	if n := len(leaves); n < days || n > 2*days {
		t.Errorf("%d leaves in %d days", n, days)
	}
	if n := len(signers); n < 4 || n > 10 {
		t.Errorf("%d intermediates in %d days", n, days)
	}
	// A clock that was set back far is served too.
	now.add(-days * 24 * time.Hour)
	chain, err := shown(i, "orders-db", "")
	must(t, err)
	if err := c.verify(chain, "orders-db", now.Now()); err != nil {
		t.Error("after the clock was set back:", err)
	}
}

// Near the root's end everything below it ends with it.
func TestRootNearItsEnd(t *testing.T) {
	now := newClock()
	c := open(t, t.TempDir(), now)
	now.add(rootLife - time.Hour)
	i := issuer(t, c, "orders-db")
	chain, err := shown(i, "orders-db", "")
	must(t, err)
	if err := c.verify(chain, "orders-db", now.Now()); err != nil || chain.Leaf.NotAfter.After(c.cert.NotAfter) {
		t.Error(err, chain.Leaf.NotAfter)
	}
}

// The cache is bounded, whatever names below a wildcard are asked for.
func TestCacheIsBounded(t *testing.T) {
	i := issuer(t, open(t, t.TempDir(), newClock()), "*.wild.example")
	var first *tls.Certificate
	for n := range maxLeaves + 10 {
		chain, err := shown(i, fmt.Sprintf("n%d.wild.example", n), "")
		must(t, err)
		if n == 0 {
			first = chain
		}
	}
	if len(i.leaves) != maxLeaves || i.recent.Len() != maxLeaves {
		t.Errorf("%d leaves are kept", len(i.leaves))
	}
	if again, err := shown(i, "n0.wild.example", ""); err != nil || again == first {
		t.Error("the least recently used is still there", err)
	}
}

// Handshakes at the same time, of which one has to make the leaf.
func TestHandshakes(t *testing.T) {
	now := &clock{now: time.Now()}
	c := open(t, t.TempDir(), now)
	i := issuer(t, c, "orders-db")
	config, err := i.Config("orders-db", "postgresql")
	must(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(c.cert)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			near, far := net.Pipe()
			defer near.Close()
			defer far.Close()
			var serving sync.WaitGroup
			defer serving.Wait()
			server, client := tls.Server(far, config), tls.Client(near, &tls.Config{RootCAs: roots, ServerName: "orders-db", NextProtos: []string{"postgresql"}})
			serving.Go(func() {
				if err := server.Handshake(); err != nil {
					t.Error("server:", err)
				}
			})
			if err := client.Handshake(); err != nil {
				t.Error("client:", err)
			}
			if s := client.ConnectionState(); s.NegotiatedProtocol != "postgresql" || s.DidResume || s.Version < tls.VersionTLS12 {
				t.Errorf("%+v", s)
			}
		})
	}
	all.Wait()
	if !config.SessionTicketsDisabled || len(i.leaves) != 1 || slices.Contains(config.NextProtos, "") {
		t.Errorf("%d leaves", len(i.leaves))
	}
}
