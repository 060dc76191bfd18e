package oidc

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// StartDevice begins a login by device flow (RFC 8628).
func (p *Provider) StartDevice(ctx context.Context, issuer string, uid uint32) (DeviceLogin, error) {
	i, err := p.loginIssuer(issuer)
	if err != nil {
		return DeviceLogin{}, err
	}
	// The place is taken first, so that nobody keeps the provider busy without one.
	a := &attempt{issuer: i, uid: uid, expires: p.now().Add(maxDeviceTime), taken: true}
	id, err := p.begin(a)
	if err != nil {
		return DeviceLogin{}, err
	}
	device, err := i.startDevice(ctx)
	if err != nil {
		p.forget(id)
		return DeviceLogin{}, err
	}
	interval := pollInterval(device.Interval)
	device.Interval = int64(interval / time.Second)
	p.pending.mu.Lock()
	defer p.pending.mu.Unlock()
	a.device, a.taken = device, false
	if left := time.Until(device.Expiry); left < maxDeviceTime { // oauth2 reckons by the host's clock
		a.expires = p.now().Add(left)
	}
	return DeviceLogin{
		ID: id, VerificationURI: device.VerificationURI, VerificationURIComplete: device.VerificationURIComplete,
		UserCode: device.UserCode, Expires: a.expires, Interval: interval,
	}, nil
}

func pollInterval(seconds int64) time.Duration {
	switch {
	case seconds <= 0:
		return defaultInterval
	case seconds > int64(maxInterval/time.Second):
		return maxInterval
	}
	return time.Duration(seconds) * time.Second
}

// startDevice asks for codes. oauth2 sends no secret of the client here, though
// RFC 8628, 3.1, has clients that have one say it.
func (i *issuer) startDevice(ctx context.Context) (*oauth2.DeviceAuthResponse, error) {
	d, err := i.keys.endpoints(ctx)
	if err != nil {
		return nil, err
	}
	if d.Device == "" || d.Token == "" {
		return nil, &refusal{kind: ErrProviderDown, issuer: i.Name, detail: "it has no device flow", help: "log in with a browser"}
	}
	own, err := i.secret(ctx)
	if err != nil {
		return nil, err
	}
	c := i.config(d, own)
	client := *i.remote.client
	var options []oauth2.AuthCodeOption
	switch {
	case own != "" && d.basic():
		client.Transport = authenticated{client.Transport, i.ClientID, own}
	case own != "":
		options = append(options, oauth2.SetAuthURLParam("client_secret", own))
	}
	// DeviceAuth does not pass the context on to its request, nor close the body,
	// which a client's own timeout would wait for.
	client.Transport, client.Timeout = within{client.Transport, ctx}, 0
	device, err := c.DeviceAuth(gooidc.ClientContext(ctx, &client), options...)
	if err != nil {
		return nil, i.named(ctx, err)
	}
	complete := device.VerificationURIComplete
	if device.DeviceCode == "" || device.UserCode == "" || len(device.UserCode) > maxUserCode || !clean(device.UserCode) ||
		!shown(device.VerificationURI) || complete != "" && !shown(complete) || device.Expiry.IsZero() {
		return nil, &refusal{kind: ErrProviderDown, issuer: i.Name, detail: "its device flow gives no code, or no https address to enter it at"}
	}
	return device, nil
}

// shown reports whether an address may be shown to a person, and opened.
func shown(s string) bool {
	_, err := parseURL(s)
	return err == nil && clean(s)
}

type authenticated struct {
	next   http.RoundTripper
	id     string
	secret string
}

func (a authenticated) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.SetBasicAuth(url.QueryEscape(a.id), url.QueryEscape(a.secret)) // RFC 6749, 2.3.1
	return a.next.RoundTrip(r)
}

// within ends requests with another context than their own, or after fetchTime.
type within struct {
	next http.RoundTripper
	ctx  context.Context
}

func (w within) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(w.ctx, fetchTime)
	resp, err := w.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &cancelling{resp.Body.(*boundedBody), cancel}
	return resp, nil
}

type cancelling struct {
	*boundedBody
	cancel context.CancelFunc
}

// Read ends the context with the body: oauth2 does not close it.
func (c *cancelling) Read(p []byte) (int, error) {
	n, err := c.boundedBody.Read(p)
	if err != nil {
		c.cancel()
	}
	return n, err
}

func (c *cancelling) Close() error {
	defer c.cancel()
	return c.boundedBody.Close()
}

// WaitDevice waits until the person has finished a login, by asking the provider
// at the interval that it wants. When ctx ends the login goes on, and can be
// waited for again.
func (p *Provider) WaitDevice(ctx context.Context, id string) (Identity, error) {
	a, err := p.take(id, true)
	if err != nil {
		return Identity{}, err
	}
	got, err := p.poll(ctx, a)
	if err != nil {
		if ctx.Err() != nil {
			p.giveBack(a)
			return Identity{}, context.Cause(ctx)
		}
		p.forget(id)
		return Identity{}, err
	}
	defer p.forget(id)
	return p.loggedIn(ctx, a, got)
}

// poll asks for the token until it is there, denied, or too late. oauth2 does
// the asking and obeys slow_down, but gives up when the network fails for a
// moment; then it is asked again, half as often (RFC 8628, 3.5).
func (p *Provider) poll(ctx context.Context, a *attempt) (*oauth2.Token, error) {
	within, cancel := context.WithTimeout(ctx, a.expires.Sub(p.now()))
	defer cancel()
	expired := &refusal{kind: ErrLoginExpired, issuer: a.issuer.Name, help: againHelp}
	device := *a.device
	for {
		got, err := a.issuer.ask(within, func(ctx context.Context, c *oauth2.Config) (*oauth2.Token, error) {
			c.Scopes = nil // RFC 8628, 3.4: they were said in the beginning
			return c.DeviceAccessToken(ctx, &device)
		})
		switch {
		case err == nil:
			return got, nil
		case ctx.Err() != nil:
			return nil, err
		case within.Err() != nil:
			return nil, expired
		case errors.Is(err, ErrNotLoggedIn): // invalid_grant: the code is not known any more
			return nil, expired
		case !transient(err):
			return nil, err
		}
		device.Interval = min(2*device.Interval, int64(maxInterval/time.Second))
	}
}

// transient reports whether a provider may answer better the next time.
func transient(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.kind == ErrProviderDown && r.transient
}
