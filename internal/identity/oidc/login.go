package oidc

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/postern/postern/internal/secret"
)

const (
	// maxPending bounds logins that nobody has finished, of all users.
	maxPending = 16
	// maxPendingPerUID keeps one user from having all of them.
	maxPendingPerUID = 4
	// codeTime is how long a person has at the provider, by code flow.
	codeTime = 10 * time.Minute
	// maxDeviceTime bounds what a provider gives for the device flow.
	maxDeviceTime = 30 * time.Minute
	// defaultInterval is that of RFC 8628, 3.2.
	defaultInterval = 5 * time.Second
	// maxInterval: nobody waits longer for what was already granted.
	maxInterval = time.Minute
	// maxCode bounds the code of a redirect; Entra's are 1.5 KiB.
	maxCode = 8 << 10
	// maxUserCode bounds what a person has to type.
	maxUserCode = 64
	// randomLength makes identifiers, states and nonces that nobody guesses.
	randomLength = 24
)

// defaultScopes are asked for if the provider has them: some refuse a login for
// a scope that they do not know.
var defaultScopes = []string{"profile", "email", "groups", gooidc.ScopeOfflineAccess}

// DeviceLogin is a login by device flow that has begun: a person opens the
// address and enters the code there, or opens the complete address.
type DeviceLogin struct {
	ID                      string // for WaitDevice
	VerificationURI         string
	VerificationURIComplete string // with the code in it; empty if the provider has none
	UserCode                string
	Expires                 time.Time
	Interval                time.Duration
}

// CodeLogin is a login by code flow that has begun: a person opens AuthURL, and
// what comes to the redirect URI goes into FinishCode.
type CodeLogin struct {
	ID      string
	AuthURL string
	Expires time.Time
}

// pending are the logins that have begun.
type pending struct {
	mu     sync.Mutex
	logins map[string]*attempt
}

type attempt struct {
	issuer   *issuer
	uid      uint32
	expires  time.Time
	redirect string // code flow
	state    string
	nonce    string
	verifier secret.Secret
	device   *oauth2.DeviceAuthResponse // device flow
	taken    bool                       // somebody waits for it, or it is being finished
}

// begin keeps a place for an attempt, which is forgotten when it expires.
func (p *Provider) begin(a *attempt) (string, error) {
	now := p.now()
	p.pending.mu.Lock()
	defer p.pending.mu.Unlock()
	if p.pending.logins == nil {
		p.pending.logins = map[string]*attempt{}
	}
	own := 0
	for id, other := range p.pending.logins {
		if !other.taken && !now.Before(other.expires) {
			delete(p.pending.logins, id)
		} else if other.uid == a.uid {
			own++
		}
	}
	if own >= maxPendingPerUID || len(p.pending.logins) >= maxPending {
		return "", &refusal{kind: ErrTooMany, issuer: a.issuer.Name, help: "finish one, or wait until they have expired"}
	}
	id := random()
	p.pending.logins[id] = a
	return id, nil
}

func (p *Provider) forget(id string) {
	p.pending.mu.Lock()
	defer p.pending.mu.Unlock()
	delete(p.pending.logins, id)
}

var againHelp = "begin the login again"

// take returns an attempt to its only user, who gives it back or forgets it.
func (p *Provider) take(id string, device bool) (*attempt, error) {
	p.pending.mu.Lock()
	defer p.pending.mu.Unlock()
	a := p.pending.logins[id]
	switch {
	case a == nil || (a.device != nil) != device:
		return nil, &refusal{kind: ErrLoginExpired, detail: "there is none with this id", help: againHelp}
	case a.taken:
		return nil, &refusal{kind: ErrLoginPending, issuer: a.issuer.Name, help: "another call waits for it"}
	case !p.now().Before(a.expires):
		delete(p.pending.logins, id)
		return nil, &refusal{kind: ErrLoginExpired, issuer: a.issuer.Name, help: againHelp}
	}
	a.taken = true
	return a, nil
}

func (p *Provider) giveBack(a *attempt) {
	p.pending.mu.Lock()
	defer p.pending.mu.Unlock()
	a.taken = false
}

func random() string {
	b := make([]byte, randomLength)
	rand.Read(b) //nolint:errcheck // it never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// StartCode begins a login by code flow with PKCE (RFC 7636, RFC 8252). The
// redirect URI is http on loopback, with the port that somebody listens at.
func (p *Provider) StartCode(ctx context.Context, issuer, redirectURI string, uid uint32) (CodeLogin, error) {
	i, err := p.loginIssuer(issuer)
	if err != nil {
		return CodeLogin{}, err
	}
	if err := checkRedirect(redirectURI); err != nil {
		return CodeLogin{}, err
	}
	d, err := i.keys.endpoints(ctx)
	if err != nil {
		return CodeLogin{}, err
	}
	if d.Authorization == "" || d.Token == "" || len(d.Challenges) > 0 && !slices.Contains(d.Challenges, "S256") {
		return CodeLogin{}, &refusal{kind: ErrProviderDown, issuer: i.Name, detail: "it has no code flow with PKCE", help: "log in by device flow"}
	}
	verifier := oauth2.GenerateVerifier()
	a := &attempt{
		issuer: i, uid: uid, expires: p.now().Add(codeTime), redirect: redirectURI,
		state: random(), nonce: random(), verifier: secret.New([]byte(verifier)),
	}
	id, err := p.begin(a)
	if err != nil {
		return CodeLogin{}, err
	}
	c := i.config(d, "")
	c.RedirectURL = redirectURI
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier), gooidc.Nonce(a.nonce)}
	if slices.Contains(c.Scopes, gooidc.ScopeOfflineAccess) {
		// OpenID Connect Core, 11: without it the scope is ignored.
		options = append(options, oauth2.SetAuthURLParam("prompt", "consent"))
	}
	return CodeLogin{ID: id, AuthURL: c.AuthCodeURL(a.state, options...), Expires: a.expires}, nil
}

// FinishCode ends a login by what came to the redirect URI. A wrong state leaves
// the login as it is, for anybody may call that URI; a code is tried once.
func (p *Provider) FinishCode(ctx context.Context, id, state, code string) (Identity, error) {
	a, err := p.take(id, false)
	if err != nil {
		return Identity{}, err
	}
	if subtle.ConstantTimeCompare([]byte(state), []byte(a.state)) != 1 {
		p.giveBack(a)
		return Identity{}, &refusal{kind: ErrLoginDenied, issuer: a.issuer.Name, detail: "the state is not that of this login", help: "was the right page open?"}
	}
	defer p.forget(id)
	defer a.verifier.Wipe()
	if code == "" || len(code) > maxCode {
		return Identity{}, &refusal{kind: ErrLoginDenied, issuer: a.issuer.Name, detail: "the provider sent no code", help: againHelp}
	}
	got, err := a.issuer.ask(ctx, func(ctx context.Context, c *oauth2.Config) (*oauth2.Token, error) {
		c.RedirectURL = a.redirect
		return c.Exchange(ctx, code, oauth2.VerifierOption(string(a.verifier.Reveal())))
	})
	if err != nil {
		return Identity{}, err
	}
	return p.loggedIn(ctx, a, got)
}

// loggedIn verifies what a login has brought, and keeps it.
func (p *Provider) loggedIn(ctx context.Context, a *attempt, got *oauth2.Token) (Identity, error) {
	raw, _ := got.Extra("id_token").(string)
	if raw == "" {
		return Identity{}, &refusal{kind: ErrProviderDown, issuer: a.issuer.Name, detail: "it sent no ID token", help: "is openid among the scopes that the client may ask for?"}
	}
	identity, err := p.verify(ctx, raw, a.issuer.Name, purpose{login: true, nonce: a.nonce})
	if err != nil {
		return Identity{}, err
	}
	w := whose{a.uid, a.issuer.Name}
	release, err := p.hold(ctx, w)
	if err != nil {
		return Identity{}, err
	}
	defer release()
	if err := p.logins.put(w, a.issuer.URL, login{identity, refreshToken(got)}); err != nil {
		return Identity{}, err
	}
	return identity, nil
}

func refreshToken(t *oauth2.Token) secret.Secret {
	if len(t.RefreshToken) > maxRefresh {
		return secret.Secret{}
	}
	return secret.New([]byte(t.RefreshToken))
}

func (p *Provider) loginIssuer(name string) (*issuer, error) {
	i, err := p.named(name)
	if err != nil {
		return nil, err
	}
	if i.ClientID == "" {
		return nil, &refusal{kind: ErrUnknownIssuer, issuer: i.Name, detail: "nobody can log in at it", help: "set its client_id"}
	}
	return i, nil
}

// config is what oauth2 needs to know.
func (i *issuer) config(d *document, clientSecret string) *oauth2.Config {
	c := &oauth2.Config{
		ClientID: i.ClientID, ClientSecret: clientSecret, Scopes: i.scopes(d),
		Endpoint: oauth2.Endpoint{AuthURL: d.Authorization, TokenURL: d.Token, DeviceAuthURL: d.Device, AuthStyle: oauth2.AuthStyleInParams},
	}
	if clientSecret != "" && d.basic() {
		c.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	}
	return c
}

func (i *issuer) scopes(d *document) []string {
	wanted := i.Scopes
	if len(wanted) == 0 {
		for _, s := range defaultScopes {
			if slices.Contains(d.Scopes, s) {
				wanted = append(wanted, s)
			}
		}
	}
	if slices.Contains(wanted, gooidc.ScopeOpenID) {
		return wanted
	}
	return append([]string{gooidc.ScopeOpenID}, wanted...)
}

// ask makes one request to the token endpoint and names what went wrong with it.
func (i *issuer) ask(ctx context.Context, f func(context.Context, *oauth2.Config) (*oauth2.Token, error)) (*oauth2.Token, error) {
	d, err := i.keys.endpoints(ctx)
	if err != nil {
		return nil, err
	}
	if d.Token == "" {
		return nil, &refusal{kind: ErrProviderDown, issuer: i.Name, detail: "it has no token endpoint", help: "is its url right?"}
	}
	own, err := i.secret(ctx)
	if err != nil {
		return nil, err
	}
	got, err := f(gooidc.ClientContext(ctx, i.remote.client), i.config(d, own))
	if err != nil {
		return nil, i.named(ctx, err)
	}
	return got, nil
}

// secret is that of the client, as the string that oauth2 takes.
func (i *issuer) secret(ctx context.Context) (string, error) {
	if i.ClientSecret == nil {
		return "", nil
	}
	s, err := i.ClientSecret(ctx)
	if err != nil {
		return "", &refusal{kind: ErrProviderDown, issuer: i.Name, detail: "the client's secret cannot be fetched", cause: err, help: "see client_secret of the issuer"}
	}
	return string(s.Reveal()), nil
}

// refused are the errors of RFC 6749, 5.2, and RFC 8628, 3.5. Only these words of
// a provider are repeated.
var refused = map[string]struct {
	kind error
	help string
}{
	"access_denied":          {ErrLoginDenied, "it was refused at the provider"},
	"expired_token":          {ErrLoginExpired, againHelp},
	"authorization_pending":  {ErrLoginPending, "finish it at the provider"},
	"slow_down":              {ErrLoginPending, "finish it at the provider"},
	"invalid_grant":          {ErrNotLoggedIn, "log in again"},
	"invalid_client":         {ErrProviderDown, "are client_id and client_secret right?"},
	"unauthorized_client":    {ErrProviderDown, "allow this grant to the client at the provider"},
	"unsupported_grant_type": {ErrProviderDown, "allow this grant at the provider"},
	"invalid_scope":          {ErrProviderDown, "set scopes to what the provider knows"},
	"invalid_request":        {ErrProviderDown, "are client_id and client_secret right?"},
}

// named makes an error of ours of one of oauth2, which quotes what it has seen.
func (i *issuer) named(ctx context.Context, err error) error {
	var answer *oauth2.RetrieveError
	if !errors.As(err, &answer) {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return &refusal{kind: ErrProviderDown, issuer: i.Name, detail: networkReason(err), help: "does this host reach it?", transient: true}
	}
	if r, known := refused[answer.ErrorCode]; known {
		return &refusal{kind: r.kind, issuer: i.Name, detail: answer.ErrorCode, help: r.help}
	}
	status := answer.Response.StatusCode
	return &refusal{
		kind: ErrProviderDown, issuer: i.Name, detail: fmt.Sprintf("it answers with status %d", status), help: "see its log",
		transient: status >= http.StatusInternalServerError || status == http.StatusTooManyRequests,
	}
}

func checkRedirect(s string) error {
	u, err := url.Parse(s)
	if err == nil {
		_, err = netip.ParseAddrPort(u.Host)
	}
	if err != nil || len(s) > maxURL || u.Scheme != "http" || u.Hostname() != "127.0.0.1" && u.Hostname() != "::1" ||
		u.Port() == "0" || u.User != nil || strings.ContainsAny(s, "?#") {
		return &refusal{kind: ErrLoginDenied, detail: "the redirect URI is not http://127.0.0.1:PORT/… or http://[::1]:PORT/…"}
	}
	return nil
}
