package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern/postern/internal/ca"
	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/dial"
	"github.com/postern/postern/internal/dns"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/gateway"
	"github.com/postern/postern/internal/metrics"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "postern.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// An address that the resolver may give to a name cannot be a target's own.
func TestHostsOfVirtualAddresses(t *testing.T) {
	path := write(t, `targets:
  - {name: a, protocol: postgres, hosts: ["198.18.0.7:5432", "[fd50:6f73:7465::c613:1]:5432", "192.0.2.7:5432"], anonymous: allow}
`)
	_, _, _, err := (&builder{protocols: protocols(nil, nil, nil)}).compile(path)
	var found problems
	if !errors.As(err, &found) || len(found) != 2 || !strings.Contains(found[0], "198.18.0.7 is of the addresses that the resolver gives to names") {
		t.Error(err)
	}
}

// handshake is what a client sees that asks for asked on a connection to name.
func handshake(t *testing.T, server *tls.Config, roots *x509.CertPool, asked string) error {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer far.Close()
		tls.Server(far, server).Handshake() //nolint:errcheck // the client's side is what counts
	}()
	err := tls.Client(near, &tls.Config{ServerName: asked, RootCAs: roots}).HandshakeContext(t.Context())
	near.Close()
	<-done
	return err
}

// Below a wildcard an agent is shown a leaf for the exact name that it dialled.
func TestLeavesBelowWildcards(t *testing.T) {
	authority, err := ca.Open(filepath.Join(t.TempDir(), "ca"), ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	target := &config.Target{Hosts: []config.HostPort{{Host: "*.corp.example", Port: 5432}, {Host: "one.example", Port: 5432}, {Host: "192.0.2.7", Port: 5432}}}
	fixed, hosts := hostNames(&config.Config{Targets: []config.Target{*target, *target}})
	if strings.Join(fixed, " ") != "one.example" || strings.Join(hosts, " ") != "*.corp.example 192.0.2.7 one.example" {
		t.Errorf("fixed %v, all %v", fixed, hosts)
	}
	issuer, err := authority.Issuer(hosts)
	if err != nil {
		t.Fatal(err)
	}
	configs, err := serverConfigs(target, issuer)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.RootPEM())
	for _, c := range []struct {
		dialled, asked string
		ok             bool
	}{
		{"one.example", "one.example", true},
		{"shard7.corp.example", "shard7.corp.example", true},
		{"a.b.corp.example", "a.b.corp.example", true},
		{"under_score.corp.example", "under_score.corp.example", true},
		{"xn--bcher-kva.corp.example", "xn--bcher-kva.corp.example", true},
		{"", "192.0.2.7", true},
		{"shard7.corp.example", "shard8.corp.example", false},
		{"shard7.corp.example", "corp.example", false},
		{"corp.example", "corp.example", false},
		{"elsewhere.example", "elsewhere.example", false},
	} {
		server := configs(engine.Flow{Name: c.dialled, Original: netip.MustParseAddrPort("192.0.2.7:5432")})
		if server == nil {
			t.Fatalf("%s: no TLS at all", c.dialled)
		}
		if err := handshake(t, server, roots, c.asked); (err == nil) != c.ok {
			t.Errorf("dialled %s, asked for %s: %v", c.dialled, c.asked, err)
		}
	}
}

// One server answers an agent wherever it asks, so that its limits hold; what it
// was told is what its connections are known by, and a name's real addresses are
// such as may be dialled.
func TestNamesOfAnAgent(t *testing.T) {
	table, err := dns.NewTable([]string{"orders-db"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	setup := &gateway.Setup{Names: table, Targets: []*gateway.Target{{Name: "a", Real: true, Hosts: []gateway.HostPort{{Host: "a.internal", Port: 5432}}}}}
	d := &daemon{log: log, metrics: metrics.New(prometheus.NewRegistry(), metrics.Sources{})}
	d.gateway = gateway.New(gateway.Options{Metrics: gateway.NewMetrics(prometheus.NewRegistry()), Dialer: dial.Dialer{
		Lookup: func(_ context.Context, network, name string) ([]netip.Addr, error) {
			if name == "inside.internal." {
				return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("169.254.169.254")}, nil
			}
			return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.7")}, nil
		},
	}}, setup)
	if err := d.openNames(&config.Config{StateDir: t.TempDir()}, log); err != nil {
		t.Fatal(err)
	}
	n := d.names
	first := n.resolver("planner")
	if n.resolver("planner") != first || n.resolver("coder") == first {
		t.Error("agents and servers are not one to one")
	}
	found, err := n.lookup(t.Context(), "a.internal", false)
	if err != nil || len(found) != 1 || found[0].String() != "192.0.2.7" {
		t.Error(found, err)
	}
	if found, err := n.lookup(t.Context(), "inside.internal", false); err != nil || len(found) != 0 {
		t.Error(found, err)
	}
	first.Told.Tell("a.internal", found, time.Now())
	at := netip.MustParseAddrPort("192.0.2.7:5432")
	if name, unclear := n.meant("planner", at); name != "a.internal" || unclear != "" {
		t.Error(name, unclear)
	}
	if name, _ := n.meant("coder", at); name != "" {
		t.Error("an agent is known by what another one was told:", name)
	}
	n.follow(&config.Config{Agents: []config.Agent{{Name: "coder"}}})
	if name, _ := n.meant("planner", at); name != "" || n.resolver("planner") == first {
		t.Error("a former agent is remembered:", name)
	}
}
