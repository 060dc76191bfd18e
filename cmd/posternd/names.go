package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"

	"github.com/postern/postern/internal/ca"
	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/dial"
	"github.com/postern/postern/internal/dns"
	"github.com/postern/postern/internal/engine"
)

// names answers agents' lookups, and knows by an address which name was meant.
type names struct {
	daemon *daemon
	memory *dns.Memory

	mu      sync.Mutex
	servers map[string]*dns.Server // by agent: its limits hold wherever it asks
}

func (d *daemon) openNames(cfg *config.Config, log *slog.Logger) error {
	memory, err := dns.OpenMemory(filepath.Join(cfg.StateDir, "names"), log, func() { d.metrics.NamesEvicted.Inc() })
	if err != nil {
		return err
	}
	d.names = &names{daemon: d, memory: memory, servers: map[string]*dns.Server{}}
	d.names.follow(cfg)
	return nil
}

// follow takes the agents of a configuration. What is remembered of others goes.
func (n *names) follow(cfg *config.Config) {
	var agents []string
	for _, a := range cfg.Agents {
		agents = append(agents, a.Name)
	}
	n.mu.Lock()
	for agent := range n.servers {
		if !slices.Contains(agents, agent) {
			delete(n.servers, agent)
		}
	}
	n.mu.Unlock()
	if err := n.memory.Follow(agents); err != nil {
		n.daemon.log.Warn("what former agents were told of names is not removed", "error", err)
	}
}

// resolver is the one of an agent.
func (n *names) resolver(agent string) *dns.Server {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.servers[agent]; s != nil {
		return s
	}
	d := n.daemon
	s := dns.New(dns.Options{
		Agent:  agent,
		Grant:  func(name string) dns.Grant { return d.gateway.Setup().Sees(agent, name) },
		Table:  func() *dns.Table { return d.gateway.Setup().Names },
		Told:   n.memory.Of(agent),
		Lookup: n.lookup,
		Refused: func(why dns.Refusal) {
			d.metrics.DNSRefused.WithLabelValues(string(why)).Inc()
		},
		Log: d.log,
	})
	n.servers[agent] = s
	return s
}

// lookup asks the host's resolver for what an agent is told as it is. An address
// that nobody may dial is not told, even where a target lists it or is dialled
// elsewhere: agents would find their own loopback there.
func (n *names) lookup(ctx context.Context, name string, ipv6 bool) ([]netip.Addr, error) {
	found, err := n.daemon.gateway.Dialer.Resolve(ctx, name, ipv6, dial.Forbidden)
	if errors.Is(err, dial.ErrForbidden) {
		n.daemon.log.Warn("a name with real_addresses has none that may be dialled", "name", name, "error", err)
		return nil, nil
	}
	return found, err
}

// meant is the name behind an address that an agent dials.
func (n *names) meant(agent string, at netip.AddrPort) (name, unclear string) {
	return n.daemon.gateway.Setup().Meant(n.memory.Of(agent), at)
}

// hostNames are the names that are configured one by one, and all hosts, names
// below wildcards and addresses among them.
func hostNames(cfg *config.Config) (fixed, hosts []string) {
	for _, t := range cfg.Targets {
		for _, h := range t.Hosts {
			hosts = append(hosts, h.Host)
			if _, err := netip.ParseAddr(h.Host); err != nil && !h.Wildcard() {
				fixed = append(fixed, h.Host)
			}
		}
	}
	slices.Sort(fixed)
	slices.Sort(hosts)
	return slices.Compact(fixed), slices.Compact(hosts)
}

// virtualHosts are hosts that cannot be told from those that have such an
// address from the resolver.
func virtualHosts(cfg *config.Config) (errs []string) {
	for _, t := range cfg.Targets {
		for _, h := range t.Hosts {
			if a, err := netip.ParseAddr(h.Host); err == nil && dns.Virtual(a) {
				errs = append(errs, fmt.Sprintf("%s: target %s: %s is of the addresses that the resolver gives to names; write its name", t.Pos, t.Name, h.Host))
			}
		}
	}
	return errs
}

// serverConfigs are what an agent is shown, by the host that it dialled: those
// that are configured are made ahead, a name below a wildcard when it comes.
func serverConfigs(t *config.Target, issuer *ca.Issuer) (func(engine.Flow) *tls.Config, error) {
	made := map[string]*tls.Config{}
	for _, h := range t.Hosts {
		if h.Wildcard() {
			continue
		}
		c, err := issuer.Config(h.Host)
		if err != nil {
			return nil, err
		}
		made[h.Host] = c
	}
	return func(f engine.Flow) *tls.Config {
		host := f.Name
		if host == "" {
			host = f.Original.Addr().Unmap().String()
		}
		if c := made[host]; c != nil {
			return c
		}
		c, err := issuer.Config(host)
		if err != nil {
			return &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, err }}
		}
		return c
	}, nil
}
