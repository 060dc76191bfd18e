package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/approval"
	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/control"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/identity/oidc"
	registry "github.com/postern/postern/internal/run"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
	pkgcontrol "github.com/postern/postern/pkg/control"
)

// verifyTime bounds how long an issuer may take to say whose a token is.
const verifyTime = 15 * time.Second

// people is who the issuers of the configuration in force say somebody is.
type people struct {
	daemon   *daemon
	provider atomic.Pointer[oidc.Provider]
}

// providerOf makes a provider of a configuration. It asks nobody.
func providerOf(cfg *config.Config, d *daemon) (*oidc.Provider, error) {
	return oidc.New(oidc.Options{
		Issuers: issuersOf(cfg, d.secrets), StateDir: filepath.Join(cfg.StateDir, "identity"), Key: derived(d.builder.maskKey, "logins"), Log: d.log,
	})
}

func issuersOf(cfg *config.Config, secrets *source.Set) (issuers []oidc.Issuer) {
	for _, i := range cfg.Identity.Issuers {
		out := oidc.Issuer{
			Name: i.Name, URL: i.URL, ClientID: i.ClientID, Audiences: i.Audiences, Scopes: i.Scopes, Algorithms: i.Algorithms,
			Leeway: i.Leeway, KeysMaxAge: i.KeysMaxAge, CA: i.CA, Claims: map[string]string{},
		}
		for field, expression := range map[string]string{
			"subject": i.Claims.Subject, "name": i.Claims.Name, "email": i.Claims.Email, "owner": i.Claims.Owner, "groups": i.Claims.Groups,
		} {
			if expression != "" {
				out.Claims[field] = expression
			}
		}
		for _, x := range i.Claims.Extra {
			out.Claims["extra."+x.Name] = x.From
		}
		if r := i.ClientSecret; r != nil {
			out.ClientSecret = func(ctx context.Context) (secret.Secret, error) {
				return secrets.Fetch(ctx, r.Source, source.Ref{Path: r.Path, Key: r.Key})
			}
		}
		issuers = append(issuers, out)
	}
	return issuers
}

func (p *people) use(provider *oidc.Provider) { p.provider.Store(provider) }

// identityOf is the form in which the gateway knows somebody.
func identityOf(i oidc.Identity) *engine.Identity {
	return &engine.Identity{
		Issuer: i.Issuer, Subject: i.Subject, Name: i.Name, Email: i.Email, Owner: i.Owner, Groups: i.Groups, Claims: i.Extra, Expires: i.Expires,
	}
}

// shownIdentity is the form in which people are told.
func (p *people) shown(i *engine.Identity) *pkgcontrol.Identity {
	if i == nil {
		return nil
	}
	return &pkgcontrol.Identity{
		Issuer: i.Issuer, Subject: i.Subject, Name: i.Name, Email: i.Email, Owner: i.Owner, Groups: i.Groups,
		Roles: rolesOf(p.daemon.config(), i), Expires: i.Expires,
	}
}

func (p *people) verify(ctx context.Context, token secret.Secret) (*engine.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	i, err := p.provider.Load().Verify(ctx, token)
	p.daemon.metrics.Token(err == nil)
	if err != nil {
		return nil, err
	}
	return identityOf(i), nil
}

func (p *people) login(ctx context.Context, uid uint32, issuer string) (*engine.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	i, err := p.provider.Load().Login(ctx, uid, issuer)
	if err != nil {
		return nil, err
	}
	return identityOf(i), nil
}

// issuer finds the issuer that people log in at: the one that is named, or the
// only one.
func (p *people) issuer(name string) (string, error) {
	var at []string
	for _, i := range p.daemon.config().Identity.Issuers {
		if i.ClientID != "" {
			at = append(at, i.Name)
		}
	}
	switch {
	case name != "" && slices.Contains(at, name), name == "" && len(at) == 1:
		return cmp.Or(name, at[0]), nil
	case len(at) == 0:
		return "", errors.New("there is no issuer to log in at: add one with client_id to identity.issuers")
	case name == "":
		return "", errors.New("say at which issuer: " + strings.Join(at, ", "))
	}
	return "", fmt.Errorf("there is no issuer %q to log in at; there are: %s", name, strings.Join(at, ", "))
}

// controls is what the control socket can be asked of them.
func (p *people) controls() control.People {
	return control.People{
		Issuers: func() []pkgcontrol.Issuer {
			out := []pkgcontrol.Issuer{}
			for _, i := range p.daemon.config().Identity.Issuers {
				out = append(out, pkgcontrol.Issuer{Name: i.Name, URL: i.URL, Login: i.ClientID != ""})
			}
			return out
		},
		StartLogin: p.startLogin,
		WaitLogin: func(ctx context.Context, by control.Peer, id string) (pkgcontrol.Identity, error) {
			i, err := p.provider.Load().WaitDevice(ctx, id)
			return p.loggedIn(by, i, err)
		},
		FinishLogin: func(ctx context.Context, by control.Peer, id string, a pkgcontrol.LoginAnswer) (pkgcontrol.Identity, error) {
			i, err := p.provider.Load().FinishCode(ctx, id, a.State, a.Code)
			return p.loggedIn(by, i, err)
		},
		Logins: func(_ context.Context, by control.Peer) ([]pkgcontrol.Identity, error) {
			list, err := p.provider.Load().Logins(by.UID)
			out := []pkgcontrol.Identity{}
			for _, i := range list {
				out = append(out, *p.shown(identityOf(i)))
			}
			return out, err
		},
		Logout: func(by control.Peer, issuer string) error {
			name, err := p.issuer(issuer)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(context.Background(), verifyTime)
			defer cancel()
			return p.provider.Load().Logout(ctx, by.UID, name)
		},
		AnnounceRun: p.announce,
		RenewRun:    p.renewRun,
		Runs:        p.runs,
	}
}

func (p *people) startLogin(ctx context.Context, by control.Peer, s pkgcontrol.LoginStart) (pkgcontrol.Login, error) {
	issuer, err := p.issuer(s.Issuer)
	if err != nil {
		return pkgcontrol.Login{}, err
	}
	switch s.By {
	case pkgcontrol.LoginByDevice:
		l, err := p.provider.Load().StartDevice(ctx, issuer, by.UID)
		return pkgcontrol.Login{
			ID: l.ID, Issuer: issuer, URL: l.VerificationURI, Whole: l.VerificationURIComplete, Code: l.UserCode, Expires: l.Expires,
			Every: int(l.Interval / time.Second),
		}, err
	case pkgcontrol.LoginByCode:
		l, err := p.provider.Load().StartCode(ctx, issuer, s.RedirectURI, by.UID)
		return pkgcontrol.Login{ID: l.ID, Issuer: issuer, URL: l.AuthURL, Expires: l.Expires}, err
	}
	return pkgcontrol.Login{}, fmt.Errorf("%q is no way to log in: device or code", s.By)
}

func (p *people) loggedIn(by control.Peer, i oidc.Identity, err error) (pkgcontrol.Identity, error) {
	if err != nil {
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			p.daemon.log.Warn("a login failed", "uid", by.UID, "error", err)
		}
		return pkgcontrol.Identity{}, err
	}
	who := identityOf(i)
	p.daemon.log.Info("somebody logged in", "uid", by.UID, "as", who.String(), "subject", who.Subject)
	return *p.shown(who), nil
}

// announce verifies for whom a run is to be.
func (p *people) announce(ctx context.Context, by control.Peer, r pkgcontrol.RunStart) (pkgcontrol.RunTicket, error) {
	cfg := p.daemon.config()
	at := slices.IndexFunc(cfg.Agents, func(a config.Agent) bool { return a.Name == r.Agent })
	if at < 0 {
		return pkgcontrol.RunTicket{}, fmt.Errorf("there is no agent %q", r.Agent)
	}
	a := registry.Announced{Agent: r.Agent, UID: by.UID, Login: r.Login}
	if r.Narrowed {
		a.Only = []engine.Narrowing{}
		for _, text := range r.Allow {
			n, err := engine.ParseNarrowing(text)
			if err != nil {
				return pkgcontrol.RunTicket{}, fmt.Errorf("--allow: %w", err)
			}
			if !slices.ContainsFunc(cfg.Targets, func(t config.Target) bool { return t.Name == n.Target }) {
				return pkgcontrol.RunTicket{}, fmt.Errorf("--allow: there is no target %q", n.Target)
			}
			a.Only = append(a.Only, n)
		}
	}
	var err error
	switch {
	case r.Login:
		var issuer string
		if issuer, err = p.issuer(r.Issuer); err == nil {
			a.Identity, err = p.login(ctx, by.UID, issuer)
		}
	case r.Token != "":
		token := secret.New([]byte(r.Token))
		a.Identity, err = p.verify(ctx, token)
		token.Wipe()
	}
	if err != nil {
		p.daemon.log.Warn("a run is not for whom it says", "agent", r.Agent, "uid", by.UID, "error", err)
		return pkgcontrol.RunTicket{}, err
	}
	if only := cfg.Agents[at].Identity.Issuers; a.Identity != nil && len(only) > 0 && !slices.Contains(only, a.Identity.Issuer) {
		return pkgcontrol.RunTicket{}, fmt.Errorf("agent %s does not act for identities of %s; it does for those of %s", r.Agent, a.Identity.Issuer, strings.Join(only, ", "))
	}
	ticket, err := p.daemon.runs.Announce(a)
	return pkgcontrol.RunTicket{Ticket: ticket, Identity: p.shown(a.Identity)}, err
}

func (p *people) renewRun(ctx context.Context, by control.Peer, name string, t pkgcontrol.RunToken) (pkgcontrol.Identity, error) {
	g, ok := p.daemon.runs.Of(name)
	if !ok || g.UID != by.UID {
		return pkgcontrol.Identity{}, registry.ErrNoRun // whose it is, is nobody else's business
	}
	token := secret.New([]byte(t.Token))
	who, err := p.verify(ctx, token)
	token.Wipe()
	if err == nil {
		err = p.daemon.runs.Renew(name, who)
	}
	if err != nil {
		p.daemon.log.Warn("the next token of a run does not count", "run", name, "uid", by.UID, "error", err)
		return pkgcontrol.Identity{}, err
	}
	return *p.shown(who), nil
}

// runs are one's own, and for root all.
func (p *people) runs(by control.Peer) []pkgcontrol.Run {
	out := []pkgcontrol.Run{}
	for _, g := range p.daemon.runs.All() {
		if by.UID != 0 && g.UID != by.UID {
			continue
		}
		shown := pkgcontrol.Run{Name: g.Name, Agent: g.Agent, UID: g.UID, Began: g.Began, Identity: p.shown(g.Identity), Narrowed: g.Narrowed}
		for _, n := range g.Only {
			shown.Allowed = append(shown.Allowed, n.String())
		}
		out = append(out, shown)
	}
	return out
}

// errNoApprover is for who is neither root nor has logged in.
var errNoApprover = errors.New("this takes root, or an approver who has logged in: postern login")

// approver is who a peer decides as: nil, as root. Who has several logins counts
// for all of them.
func (p *people) approver(by control.Peer) ([]*engine.Identity, error) {
	if by.UID == 0 {
		return nil, nil
	}
	list, err := p.provider.Load().Logins(by.UID)
	if err != nil {
		return nil, err
	}
	var out []*engine.Identity
	for _, i := range list {
		if who := identityOf(i); !who.Expired(time.Now()) {
			who.Roles = rolesOf(p.daemon.config(), who)
			out = append(out, who)
		}
	}
	if len(out) == 0 {
		return nil, errNoApprover
	}
	return out, nil
}

// counts says whether an identity is meant by the name of an approver: a role,
// or, where no role is called so, a group, an address or a subject.
func (p *people) counts(i *engine.Identity, name string) bool {
	if slices.ContainsFunc(p.daemon.config().Identity.Roles, func(r config.Role) bool { return r.Name == name }) {
		return slices.Contains(i.Roles, name)
	}
	return slices.Contains(i.Groups, name) || i.Email != "" && strings.EqualFold(i.Email, name) || i.Subject == name
}

// mayDecide are the names among an approval's approvers that a peer counts for,
// by who it is.
func (p *people) mayDecide(a *approval.Approval, who []*engine.Identity) (as *engine.Identity, names []string) {
	for _, i := range who {
		var mine []string
		for _, name := range a.Missing() {
			if p.counts(i, name) {
				mine = append(mine, name)
			}
		}
		if len(mine) > len(names) {
			as, names = i, mine
		}
	}
	return as, names
}

// readToken reads a file with a token and nothing else.
func readToken(path string) (secret.Secret, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not hang the daemon
	if err != nil {
		return secret.Secret{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return secret.Secret{}, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxTokenFile {
		return secret.Secret{}, errTokenFile
	}
	b, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return secret.Secret{}, err
	}
	if b = bytes.TrimSpace(b); len(b) == 0 || len(b) > maxTokenFile {
		return secret.Secret{}, errTokenFile
	}
	return secret.New(b), nil
}
