package oidc

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

const (
	// refreshAhead is how long before its end an identity is refreshed, so that
	// it does not end while somebody works; of short tokens a fifth of their life.
	refreshAhead = 2 * time.Minute
	// refreshAgain is how long a provider that did not answer is left alone while
	// the identity lasts.
	refreshAgain = 30 * time.Second
)

// Login returns who a user of the host is logged in as. An identity that nears
// its end is refreshed at the provider; while the provider is down the last one
// counts until its own end. Without one the error is ErrNotLoggedIn.
func (p *Provider) Login(ctx context.Context, uid uint32, issuer string) (Identity, error) {
	i, err := p.loginIssuer(issuer)
	if err != nil {
		return Identity{}, err
	}
	w := whose{uid, issuer}
	l, err := p.kept(i, w)
	if err != nil || !p.nearsEnd(l.identity) {
		return l.identity, err
	}
	release, err := p.hold(ctx, w)
	if err != nil {
		return Identity{}, err
	}
	defer release()
	// Another call may have refreshed or ended it meanwhile.
	if l, err = p.kept(i, w); err != nil || !p.nearsEnd(l.identity) {
		return l.identity, err
	}
	lasts := p.now().Before(l.identity.Expires)
	if lasts && p.triedLately(w) {
		return l.identity, nil
	}
	fresh, err := p.refresh(ctx, i, w, l)
	if err == nil {
		p.logins.tried.Delete(w)
		return fresh, nil
	}
	if !lasts || errors.Is(err, ErrNotLoggedIn) {
		return Identity{}, err
	}
	p.logins.tried.Store(w, p.now())
	p.log.Warn("a login could not be refreshed and lasts until its end", "issuer", i.Name, "uid", uid, "expires", l.identity.Expires, "error", err)
	return l.identity, nil
}

func (p *Provider) triedLately(w whose) bool {
	at, ok := p.logins.tried.Load(w)
	if !ok {
		return false
	}
	since := p.now().Sub(at.(time.Time))
	return since >= 0 && since < refreshAgain
}

func (p *Provider) nearsEnd(i Identity) bool {
	ahead := refreshAhead
	if !i.IssuedAt.IsZero() {
		ahead = min(ahead, i.Expires.Sub(i.IssuedAt)/5)
	}
	return !p.now().Before(i.Expires.Add(-ahead))
}

// kept returns what is kept of a login.
func (p *Provider) kept(i *issuer, w whose) (login, error) {
	l, err := p.logins.get(w, i.URL)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return login{}, &refusal{kind: ErrNotLoggedIn, issuer: i.Name, help: "log in first"}
	case err != nil:
		return login{}, &refusal{kind: ErrNotLoggedIn, issuer: i.Name, cause: err}
	}
	return l, nil
}

// refresh gets a new identity by the refresh token. A provider may give a new
// refresh token and take the old one for stolen from then on, so the new one is
// on disk before anything else is done with the answer.
func (p *Provider) refresh(ctx context.Context, i *issuer, w whose, l login) (Identity, error) {
	ended := func(detail string) error {
		if err := p.logins.remove(w); err != nil {
			return err
		}
		return &refusal{kind: ErrNotLoggedIn, issuer: i.Name, detail: detail, help: "log in again"}
	}
	over := !p.now().Before(l.identity.Expires)
	if l.refresh.Empty() {
		if over {
			return Identity{}, ended("the login has ended, and the provider gave no refresh token")
		}
		return l.identity, nil
	}
	// The answer is worth having even if nobody waits for it any more.
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTime)
	defer cancel()
	got, err := i.ask(asking, func(ctx context.Context, c *oauth2.Config) (*oauth2.Token, error) {
		return c.TokenSource(ctx, &oauth2.Token{RefreshToken: string(l.refresh.Reveal())}).Token()
	})
	if errors.Is(err, ErrNotLoggedIn) {
		return Identity{}, ended("the provider has ended the login")
	}
	if err != nil {
		return Identity{}, err
	}
	l.refresh = refreshToken(got)
	if err := p.logins.put(w, i.URL, l); err != nil {
		return Identity{}, err
	}
	raw, _ := got.Extra("id_token").(string)
	if raw == "" { // OpenID Connect Core, 12.2, allows it
		return Identity{}, &refusal{kind: ErrProviderDown, issuer: i.Name, detail: "it sent no ID token with the refreshed login", help: "log in again when this one ends"}
	}
	fresh, err := p.verify(asking, raw, i.Name, purpose{login: true})
	if err != nil {
		return Identity{}, err
	}
	if fresh.Subject != l.identity.Subject {
		return Identity{}, ended("the provider refreshed it for somebody else")
	}
	l.identity = fresh
	if err := p.logins.put(w, i.URL, l); err != nil {
		return Identity{}, err
	}
	return fresh, nil
}

// Logout forgets a login. What the provider thinks of it is left to the person.
func (p *Provider) Logout(ctx context.Context, uid uint32, issuer string) error {
	if _, err := p.named(issuer); err != nil {
		return err
	}
	w := whose{uid, issuer}
	release, err := p.hold(ctx, w)
	if err != nil {
		return err
	}
	defer release()
	p.logins.tried.Delete(w)
	return p.logins.remove(w)
}

// Logins returns who a user is logged in as, at each issuer, as it was last
// known: ended ones are among them until somebody asks for them by Login.
func (p *Provider) Logins(uid uint32) ([]Identity, error) {
	entries, err := os.ReadDir(p.logins.folder)
	if err != nil {
		return nil, err
	}
	var out []Identity
	for _, e := range entries {
		issuer, own := strings.CutPrefix(e.Name(), strconv.FormatUint(uint64(uid), 10)+"-")
		issuer, whole := strings.CutSuffix(issuer, loginEnd)
		if !own || !whole || p.byName[issuer] == nil {
			continue
		}
		if l, err := p.logins.get(whose{uid, issuer}, p.byName[issuer].URL); err == nil {
			out = append(out, l.identity)
		}
	}
	slices.SortFunc(out, func(a, b Identity) int { return strings.Compare(a.Issuer, b.Issuer) })
	return out, nil
}

// hold keeps one login to its caller until released.
func (p *Provider) hold(ctx context.Context, w whose) (release func(), err error) {
	p.logins.mu.Lock()
	h := p.logins.held[w]
	if h == nil {
		h = &holding{turn: make(chan struct{}, 1)}
		p.logins.held[w] = h
	}
	h.users++
	p.logins.mu.Unlock()
	done := func() {
		p.logins.mu.Lock()
		defer p.logins.mu.Unlock()
		if h.users--; h.users == 0 {
			delete(p.logins.held, w)
		}
	}
	select {
	case h.turn <- struct{}{}:
		return func() { <-h.turn; done() }, nil
	case <-ctx.Done():
		done()
		return nil, context.Cause(ctx)
	}
}

type holding struct {
	turn  chan struct{}
	users int
}
