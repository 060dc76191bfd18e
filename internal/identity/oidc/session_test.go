package oidc

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

func who(p *Provider) (Identity, error) { return p.Login(context.Background(), alice, "corp") }

// A login is refreshed shortly before its end, once for all who ask, and each
// time with the refresh token that came last.
func TestRefresh(t *testing.T) {
	p, i, c := world(t)
	logIn(t, p, i, "first")
	c.advance(57 * time.Minute)
	seen := i.grant(func(r request) map[string]any {
		next := map[string]string{"first": "second", "second": "third"}[r.form.Get("refresh_token")]
		return tokens(good(in(c.now().Sub(start), map[string]any{"groups": []string{next}})), next)
	})
	if got, err := who(p); err != nil || got.Groups[0] != "dba" || len(*seen) != 0 {
		t.Errorf("three minutes before its end: %s, %v, asked %d times", text(got), err, len(*seen))
	}
	c.advance(time.Minute)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := who(p); err != nil || got.Groups[0] != "second" {
				t.Errorf("refreshed: %s, %v", text(got), err)
			}
		})
	}
	wg.Wait()
	if len(*seen) != 1 || (*seen)[0].form.Get("grant_type") != "refresh_token" {
		t.Errorf("the provider was asked %v", *seen)
	}
	c.advance(3 * time.Hour) // long after its end
	if got, err := who(p); err != nil || got.Groups[0] != "third" {
		t.Errorf("refreshed again: %s, %v", text(got), err)
	}
	if len(*seen) != 2 || len(p.logins.held) != 0 {
		t.Errorf("asked %d times, %d held", len(*seen), len(p.logins.held))
	}
}

// A provider that keeps the refresh token sends none.
func TestRefreshTokenStays(t *testing.T) {
	p, i, c := world(t)
	logIn(t, p, i, "only")
	seen := i.grant(func(r request) map[string]any {
		out := tokens(good(in(c.now().Sub(start), nil)), "")
		delete(out, "refresh_token")
		return out
	})
	for range 2 {
		c.advance(time.Hour)
		if _, err := who(p); err != nil {
			t.Error(err)
		}
	}
	if len(*seen) != 2 || (*seen)[1].form.Get("refresh_token") != "only" {
		t.Errorf("asked %v", *seen)
	}
}

// A rotated refresh token is on disk though what came with it is worth nothing.
func TestRotatedTokenIsKeptFirst(t *testing.T) {
	for name, bad := range map[string]func(*clock) string{
		"forged":      func(*clock) string { return sign(header(nil), claims(nil), otherRSA()) },
		"no ID token": func(*clock) string { return "" },
	} {
		p, i, c := world(t)
		logIn(t, p, i, "first")
		c.advance(59 * time.Minute)
		seen := i.grant(func(request) map[string]any { return tokens(bad(c), "second") })
		if got, err := who(p); err != nil || !got.Expires.Equal(start.Add(time.Hour)) {
			t.Errorf("%s: while the old identity lasts: %v", name, err)
		}
		c.advance(time.Hour)
		if _, err := who(p); err == nil {
			t.Errorf("%s: accepted", name)
		}
		i.grant(func(r request) map[string]any {
			*seen = append(*seen, r)
			return tokens(good(in(c.now().Sub(start), nil)), "third")
		})
		if _, err := who(p); err != nil {
			t.Errorf("%s: once it is good again: %v", name, err)
		}
		if len(*seen) != 3 || (*seen)[1].form.Get("refresh_token") != "second" || (*seen)[2].form.Get("refresh_token") != "second" {
			t.Errorf("%s: asked %v", name, *seen)
		}
		silent(t, i, good(nil), nil)
	}
}

// A refused refresh ends the login, even before the identity's own end.
func TestRefreshRefused(t *testing.T) {
	for _, before := range []time.Duration{59 * time.Minute, 2 * time.Hour} {
		p, i, c := world(t)
		logIn(t, p, i, "first")
		c.advance(before)
		seen := i.grant(func(request) map[string]any {
			return map[string]any{"error": "invalid_grant", "error_description": canary}
		})
		for range 3 {
			_, err := who(p)
			if !errors.Is(err, ErrNotLoggedIn) {
				t.Errorf("got %v", err)
			}
			silent(t, i, good(nil), err)
		}
		if len(*seen) != 1 {
			t.Errorf("asked %d times", len(*seen))
		}
	}
}

// While the provider is down the last identity counts until its own end, the
// provider is not asked each time, and the login is not lost.
func TestRefreshWhileDown(t *testing.T) {
	p, i, c := world(t)
	logIn(t, p, i, "first-"+canary)
	c.advance(59 * time.Minute)
	i.setDown(true)
	before := i.count("/token")
	for range 10 {
		if got, err := who(p); err != nil || got.Subject != "u-1" {
			t.Errorf("while it lasts: %v", err)
		}
	}
	if n := i.count("/token") - before; n != 1 {
		t.Errorf("asked %d times", n)
	}
	c.advance(time.Minute)
	_, err := who(p)
	if !errors.Is(err, ErrProviderDown) {
		t.Errorf("after its end: %v", err)
	}
	silent(t, i, good(nil), err)
	i.setDown(false)
	i.grant(func(request) map[string]any { return tokens(good(in(time.Hour, nil)), "second") })
	if _, err := who(p); err != nil {
		t.Errorf("once it is up again: %v", err)
	}
}

// Whoever the provider refreshes it for, it is not another person's login.
func TestRefreshForSomebodyElse(t *testing.T) {
	p, i, c := world(t)
	logIn(t, p, i, "first")
	c.advance(59 * time.Minute)
	i.grant(func(request) map[string]any {
		return tokens(good(in(59*time.Minute, map[string]any{"sub": "u-2"})), "second")
	})
	for range 2 {
		if got, err := who(p); !errors.Is(err, ErrNotLoggedIn) {
			t.Errorf("%s, %v", text(got), err)
		}
	}
}

// Without a refresh token a login ends with its identity.
func TestNoRefreshToken(t *testing.T) {
	p, i, c := world(t)
	logIn(t, p, i, "")
	seen := i.grant(func(request) map[string]any { return nil })
	c.advance(59*time.Minute + 59*time.Second)
	if _, err := who(p); err != nil {
		t.Errorf("until its end: %v", err)
	}
	c.advance(time.Second)
	if _, err := who(p); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("after it: %v", err)
	}
	if len(*seen) != 0 {
		t.Error("the provider was asked")
	}
}
