package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/postern/postern/internal/ca"
	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/dns"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/gateway"
	"github.com/postern/postern/internal/mask"
	"github.com/postern/postern/internal/policy"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/lease"
	"github.com/postern/postern/internal/secret/source"
)

// statementsPerSession bounds the prepared statements, and the portals, that a
// session may hold; drivers' caches stop at a few hundred.
const statementsPerSession = 4096

// builder makes setups of configurations.
type builder struct {
	protocols []engine.Protocol
	ca        *ca.CA
	ssh       *ca.SSH
	secrets   *source.Set
	leases    *lease.Leases
	mount     string // of cgroup v2
	maskKey   []byte
}

// problems is everything that is wrong with a configuration, as printed.
type problems []string

func (p problems) Error() string { return strings.Join(p, "\n") }

// compile reads and checks a configuration as far as that can be done without
// the daemon's state. It returns an error of type problems when it cannot be
// used; warnings do not keep it from being used.
func (b *builder) compile(path string) (*config.Config, *policy.Set, []string, error) {
	cfg, found := config.Load(path)
	if cfg == nil {
		cfg = config.Legible(path) // so that what is wrong elsewhere is told at once
	}
	var errs, warnings problems
	told := map[string]bool{} // places: what follows from a mistake is not told again
	for _, p := range found {
		if p.Severity == config.Error {
			errs = append(errs, p.String())
			told[p.Pos.String()] = true
		} else {
			warnings = append(warnings, p.String())
		}
	}
	set, unfit := policy.Compile(b.policies(cfg), b.byTarget(cfg))
	for _, p := range unfit {
		switch {
		case p.Warning:
			warnings = append(warnings, p.String())
		case !told[p.Where]:
			errs = append(errs, p.String())
		}
	}
	errs = append(errs, b.unknownWords(cfg)...)
	for _, t := range cfg.Targets {
		if _, err := clientConfigs(&t); err != nil {
			errs = append(errs, fmt.Sprintf("%s: target %s: %v", t.Pos, t.Name, err))
		}
		if _, err := knownHosts(&t); err != nil {
			errs = append(errs, fmt.Sprintf("%s: target %s: %v", t.Pos, t.Name, err))
		}
	}
	errs = append(errs, virtualHosts(cfg)...)
	if len(errs) > 0 {
		return nil, nil, warnings, errs
	}
	return cfg, set, warnings, nil
}

// load makes a setup of a configuration. Names keep the addresses they had.
func (b *builder) load(path string, before *dns.Table) (*config.Config, *gateway.Setup, []string, error) {
	cfg, set, warnings, err := b.compile(path)
	if err != nil {
		return nil, nil, warnings, err
	}
	setup, err := b.setup(cfg, set, before)
	if err != nil {
		return nil, nil, warnings, problems{err.Error()}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, warnings, err
	}
	setup.Hash = sha256.Sum256(text)
	return cfg, setup, warnings, nil
}

func (b *builder) protocol(name string) (engine.Protocol, bool) {
	i := slices.IndexFunc(b.protocols, func(p engine.Protocol) bool { return p.Name == name })
	if i < 0 {
		return engine.Protocol{}, false
	}
	return b.protocols[i], true
}

func (b *builder) byTarget(cfg *config.Config) map[string]engine.Protocol {
	out := map[string]engine.Protocol{}
	for _, t := range cfg.Targets {
		if p, ok := b.protocol(t.Protocol); ok {
			out[t.Name] = p
		}
	}
	return out
}

// unknownWords are names of protocols and detectors that config
// cannot know.
func (b *builder) unknownWords(cfg *config.Config) []string {
	var out []string
	for _, t := range cfg.Targets {
		if _, ok := b.protocol(t.Protocol); !ok {
			out = append(out, fmt.Sprintf("%s: protocol %q is not known; known are: %s", t.Pos, t.Protocol, b.protocolNames()))
		}
	}
	own := detectors(cfg)
	for _, p := range cfg.Policies {
		for _, m := range p.Masks {
			if _, unknown := groups(m.Detect, own); unknown != "" {
				out = append(out, fmt.Sprintf("%s: detector %q is not known; known are: %s", m.Pos, unknown,
					strings.Join(append([]string{"secrets", "pii"}, slices.Sorted(maps.Keys(own))...), ", ")))
			}
		}
	}
	return out
}

func (b *builder) protocolNames() string {
	var names []string
	for _, p := range b.protocols {
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}

// groups are those of detectors that are built in; own ones are known too.
func groups(words []string, own map[string]mask.Custom) (g mask.Group, unknown string) {
	for _, w := range words {
		switch w {
		case "secrets":
			g |= mask.Secrets
		case "pii":
			g |= mask.PII
		default:
			if _, ok := own[w]; !ok {
				return 0, w
			}
		}
	}
	return g, ""
}

// unknownProtocol says whether a target is there whose protocol is not.
func (b *builder) unknownProtocol(cfg *config.Config, target string) bool {
	for _, t := range cfg.Targets {
		if _, ok := b.protocol(t.Protocol); t.Name == target && !ok {
			return true
		}
	}
	return false
}

func (b *builder) policies(cfg *config.Config) policy.Config {
	var out policy.Config
	for _, p := range cfg.Policies {
		src := policy.Source{Where: p.Pos.String(), Name: p.Name}
		for _, r := range p.Rules {
			if b.unknownProtocol(cfg, r.Target) {
				continue // the protocol is what is wrong
			}
			rule := policy.Rule{
				Where: r.Pos.String(), WhenWhere: r.WhenPos.String(), Name: r.Name, Target: r.Target, Roles: r.Roles, Verbs: r.Verbs,
				Tables: r.Tables, Objects: r.Objects, Columns: r.Columns, When: r.When, Allow: r.Allow, Deny: r.Deny, Help: r.Help,
			}
			if r.Ask != nil {
				rule.Ask = &policy.Ask{
					Approvers: r.Ask.Approvers, Within: r.Ask.Within,
					ReasonRequired: r.Ask.ReasonRequired, SelfAllowed: r.Ask.SelfAllowed, Preview: r.Ask.Preview == "rows",
				}
			}
			src.Rules = append(src.Rules, rule)
		}
		for _, m := range p.Masks {
			src.Masks = append(src.Masks, policy.Mask{Target: m.Target, Columns: m.Columns, Detect: m.Detect, With: m.With, Domain: m.Domain, Detects: m.Computed == "detect"})
		}
		out.Policies = append(out.Policies, src)
	}
	return out
}

// setup builds what the gateway decides by.
func (b *builder) setup(cfg *config.Config, set *policy.Set, before *dns.Table) (*gateway.Setup, error) {
	s := &gateway.Setup{
		Agents: map[string]*gateway.Agent{},
		Limits: gateway.Limits{
			Limits: engine.Limits{
				MessageBytes: int(cfg.Limits.MessageBytes), HeldBytes: int(cfg.Limits.HeldBytes),
				Handshake: cfg.Limits.Handshake, Statements: statementsPerSession,
			},
			Sessions: cfg.Limits.Sessions, SessionsPerAgent: cfg.Limits.SessionsPerAgent, Idle: cfg.Limits.Idle,
		},
		Results:    cfg.Record.Results != "none",
		Input:      cfg.Record.Input != "none",
		Typed:      cfg.Record.Input == "full",
		MaxSession: int64(cfg.Record.MaxSessionBytes),
		Host:       cfg.Record.Durability == "host",
	}
	fixed, hosts := hostNames(cfg)
	var err error
	if s.Names, err = dns.NewTable(fixed, before); err != nil {
		return nil, err
	}
	issuer, err := b.ca.Issuer(hosts)
	if err != nil {
		return nil, err
	}
	for i := range cfg.Targets {
		t, err := b.target(&cfg.Targets[i], issuer)
		if err != nil {
			return nil, fmt.Errorf("%s: target %s: %w", cfg.Targets[i].Pos, cfg.Targets[i].Name, err)
		}
		s.Targets = append(s.Targets, t)
	}
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.File, err)
	}
	for i := range cfg.Agents {
		a := &cfg.Agents[i]
		agent := b.agent(cfg, set, s, a, a.Policy)
		for _, r := range a.Policies {
			agent.Roles = append(agent.Roles, gateway.RolePolicy{Role: r.Role, Agent: b.agent(cfg, set, s, a, r.Policy)})
		}
		s.Agents[a.Name] = agent
	}
	return s, nil
}

// agent builds an agent as it is under one of its policies.
func (b *builder) agent(cfg *config.Config, set *policy.Set, s *gateway.Setup, a *config.Agent, name string) *gateway.Agent {
	p, _ := set.Policy(name)
	key := derived(b.maskKey, "agent "+a.Name)
	out := &gateway.Agent{
		Name: a.Name, Policy: p, PolicyName: name, Observe: a.Mode == "observe", Until: a.Until,
		MaskKey: key, Masks: masks(p, s.Targets, detectors(cfg), key), Budgets: budgets(cfg, name),
		Identity: gateway.IdentityRule{
			Required: a.Identity.Required, Issuers: a.Identity.Issuers,
			OnExpiry: map[string]gateway.Expiry{"end": gateway.ExpiryEnds, "ask": gateway.ExpiryAsks, "keep": gateway.ExpiryKeeps}[a.Identity.OnExpiry],
		},
	}
	if ask := a.Identity.Ask; ask != nil {
		out.Identity.Ask = &policy.Ask{
			Rule: "identity", Approvers: ask.Approvers, Within: ask.Within, ReasonRequired: ask.ReasonRequired, SelfAllowed: ask.SelfAllowed,
		}
	}
	return out
}

func derived(key []byte, purpose string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(purpose))
	return m.Sum(nil)
}

// masks sorts a policy's masks by target.
func masks(p *policy.Policy, targets []*gateway.Target, own map[string]mask.Custom, key []byte) map[string]*gateway.Masks {
	out := map[string]*gateway.Masks{}
	for _, t := range targets {
		var m gateway.Masks
		var detect mask.Group
		var custom []mask.Custom
		for _, pm := range p.Masks(t.Name) {
			kind, _ := mask.ParseKind(pm.With)
			for _, c := range pm.Columns {
				m.Columns = append(m.Columns, gateway.ColumnMask{Pattern: c, Kind: kind, Domain: pm.Domain, Detects: pm.Detects})
			}
			g, _ := groups(pm.Detect, own)
			detect |= g
			for _, word := range pm.Detect {
				if d, ok := own[word]; ok && !slices.ContainsFunc(custom, func(c mask.Custom) bool { return c.Name == word }) {
					custom = append(custom, d)
					m.Words = append(m.Words, words(d))
				}
			}
			m.Words = append(m.Words, fmt.Sprint(pm))
		}
		if detect != 0 || len(custom) > 0 {
			m.Scanner = mask.NewScanner(detect).With(key, custom...)
		}
		if len(m.Words) > 0 {
			out[t.Name] = &m
		}
	}
	return out
}

func (b *builder) target(t *config.Target, issuer *ca.Issuer) (*gateway.Target, error) {
	protocol, _ := b.protocol(t.Protocol)
	g := &gateway.Target{
		Name: t.Name, Protocol: protocol, AgentAuth: t.AgentAuth,
		Placeholder: secret.Placeholder{
			User: t.Placeholder.User, Database: t.Placeholder.Database, Password: secret.New([]byte(t.Placeholder.Password)),
		},
		Verified: t.TLS.Verify == "full",
		Real:     t.RealAddresses,
		Identity: *t,
	}
	for _, h := range t.Hosts {
		g.Hosts = append(g.Hosts, gateway.HostPort{Host: h.Host, Port: uint16(h.Port)})
	}
	if !t.Dial.IsZero() {
		g.Dial = &gateway.HostPort{Host: t.Dial.Host, Port: uint16(t.Dial.Port)}
	}
	var err error
	if g.ServerTLS, err = serverConfigs(t, issuer); err != nil {
		return nil, err
	}
	if g.ClientTLS, err = clientConfigs(t); err != nil {
		return nil, err
	}
	if t.Protocol == config.ProtocolSSH {
		if g.KnownHosts, err = knownHosts(t); err != nil {
			return nil, err
		}
		g.HostKeys, g.Verified = b.hostKeys, true
	}
	g.Credential, g.Refetch = b.credential(t), b.refetch(t)
	return g, nil
}

// clientConfigs returns what the upstream is asked for. Verify "ca" checks the
// chain and not the name, "none" checks nothing.
func clientConfigs(t *config.Target) (func(host string) *tls.Config, error) {
	if t.TLS.Verify == "off" {
		return nil, nil
	}
	roots, err := pool(t.TLS.CA)
	if err != nil {
		return nil, err
	}
	verify := t.TLS.Verify
	return func(host string) *tls.Config {
		c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: host}
		if t.TLS.ServerName != "" {
			c.ServerName = t.TLS.ServerName
		}
		if verify != "full" {
			c.InsecureSkipVerify = true // replaced by the check below, or by nothing for "none"
		}
		if verify == "ca" {
			c.VerifyConnection = func(s tls.ConnectionState) error { return verifyChain(s, roots) }
		}
		return c
	}, nil
}

func verifyChain(s tls.ConnectionState, roots *x509.CertPool) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the upstream showed no certificate")
	}
	o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range s.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := s.PeerCertificates[0].Verify(o)
	return err
}

// pool reads a file of authorities; empty means the host's own.
func pool(path string) (*x509.CertPool, error) {
	if path == "" {
		return x509.SystemCertPool()
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("tls.ca: %w", err)
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("tls.ca: %s holds no certificate in PEM form", path)
	}
	return p, nil
}

// credential fetches the newest secret each time; the set decides how fresh.
func (b *builder) credential(t *config.Target) func(context.Context, *engine.Flow) (secret.Credential, error) {
	return func(ctx context.Context, f *engine.Flow) (secret.Credential, error) {
		var c secret.Credential
		if t.Credential == nil {
			return c, nil
		}
		c.User, c.Database = t.Credential.User, t.Credential.Database
		if c.Database == "" {
			c.Database = c.User
		}
		if t.Credential.Issue != nil {
			if err := b.issued(ctx, t, f, &c); err != nil {
				return c, err
			}
		}
		if r := t.Credential.Password; r != nil {
			s, err := b.secrets.Fetch(ctx, r.Source, source.Ref{Path: r.Path, Key: r.Key})
			if err != nil {
				return c, err
			}
			c.Password = s
		}
		if err := b.sshCredential(ctx, t.Credential, &c.SSH); err != nil {
			return c, err
		}
		if t.TLS.ClientCert == "" {
			return c, nil
		}
		cert, err := b.clientCertificate(ctx, t)
		c.Certificate = cert
		return c, err
	}
}

func (b *builder) clientCertificate(ctx context.Context, t *config.Target) (*tls.Certificate, error) {
	certPEM, err := os.ReadFile(t.TLS.ClientCert)
	if err != nil {
		return nil, fmt.Errorf("tls.client_cert: %w", err)
	}
	if t.TLS.ClientKey == nil {
		return nil, errors.New("tls.client_cert has no client_key")
	}
	key, err := b.secrets.Fetch(ctx, t.TLS.ClientKey.Source, source.Ref{Path: t.TLS.ClientKey.Path, Key: t.TLS.ClientKey.Key})
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	if block, _ := pem.Decode(key.Reveal()); block == nil {
		return nil, errors.New("tls.client_key is not in PEM form")
	}
	cert, err := tls.X509KeyPair(certPEM, key.Reveal())
	if err != nil {
		return nil, errors.New("tls.client_cert and client_key do not belong together")
	}
	return &cert, nil
}
