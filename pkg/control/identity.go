package control

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"
)

// Identity is who somebody is, as an issuer says.
type Identity struct {
	Issuer  string    `json:"issuer"` // as the configuration names it
	Subject string    `json:"subject"`
	Name    string    `json:"name,omitempty"`
	Email   string    `json:"email,omitempty"`
	Owner   string    `json:"owner,omitempty"`
	Groups  []string  `json:"groups,omitempty"`
	Roles   []string  `json:"roles,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
}

// Issuer is where identities come from.
type Issuer struct {
	Name  string `json:"name"`
	URL   string `json:"url"`
	Login bool   `json:"login"` // people can log in there
}

// The ways to log in.
const (
	LoginByDevice = "device" // a code that is typed in any browser (RFC 8628)
	LoginByCode   = "code"   // a browser on this host, which comes back to RedirectURI
)

// LoginStart begins a login of the user who asks.
type LoginStart struct {
	Issuer      string `json:"issuer,omitempty"` // empty: the only one
	By          string `json:"by"`
	RedirectURI string `json:"redirect_uri,omitempty"` // on loopback, for LoginByCode
}

// Login is one that has begun.
type Login struct {
	ID      string    `json:"id"`
	Issuer  string    `json:"issuer"`
	URL     string    `json:"url"`               // where the browser goes
	Whole   string    `json:"whole,omitempty"`   // the same with the code in it
	Code    string    `json:"code,omitempty"`    // what is typed there
	Expires time.Time `json:"expires,omitzero"`  // the code
	Every   int       `json:"every_s,omitempty"` // seconds between two looks
}

// LoginAnswer is what the browser came back with.
type LoginAnswer struct {
	State string `json:"state"`
	Code  string `json:"code"`
}

// RunStart announces a run of the user who asks.
type RunStart struct {
	Agent string `json:"agent"`
	// Login: it is for who has logged in, at Issuer. Otherwise Token says for whom,
	// and an empty one that it is for nobody.
	Login    bool     `json:"login,omitempty"`
	Issuer   string   `json:"issuer,omitempty"`
	Token    string   `json:"token,omitempty"`
	Narrowed bool     `json:"narrowed,omitempty"` // to Allow, which may be nothing
	Allow    []string `json:"allow,omitempty"`    // "target" or "target:verb,verb"
}

// RunTicket is by what the guard launches it.
type RunTicket struct {
	Ticket   string    `json:"ticket"`
	Identity *Identity `json:"identity,omitempty"`
}

// RunToken is the next token of a run.
type RunToken struct {
	Token string `json:"token"`
}

// Run is one that goes on.
type Run struct {
	Name     string    `json:"name"`
	Agent    string    `json:"agent"`
	UID      uint32    `json:"uid"`
	Began    time.Time `json:"began"`
	Identity *Identity `json:"identity,omitempty"`
	Narrowed bool      `json:"narrowed,omitempty"`
	Allowed  []string  `json:"allowed,omitempty"`
}

// Issuers lists where identities come from. Every user may ask.
func (c *Client) Issuers(ctx context.Context) ([]Issuer, error) {
	var out []Issuer
	return out, c.call(ctx, http.MethodGet, "/v1/issuers", nil, &out)
}

// StartLogin begins a login of this user.
func (c *Client) StartLogin(ctx context.Context, s LoginStart) (Login, error) {
	var out Login
	return out, c.call(ctx, http.MethodPost, "/v1/logins", s, &out)
}

// WaitLogin returns when the login by device has ended: with who it is, or why
// not.
func (c *Client) WaitLogin(ctx context.Context, id string) (Identity, error) {
	for {
		var out Identity
		err := c.call(ctx, http.MethodGet, "/v1/logins/"+url.PathEscape(id), nil, &out)
		var e *Error
		if !errors.As(err, &e) || e.Status != http.StatusTooEarly || ctx.Err() != nil {
			return out, err
		}
	}
}

// FinishLogin ends a login by code with what the browser came back with.
func (c *Client) FinishLogin(ctx context.Context, id string, a LoginAnswer) (Identity, error) {
	var out Identity
	return out, c.call(ctx, http.MethodPost, "/v1/logins/"+url.PathEscape(id), a, &out)
}

// Logins lists who this user is logged in as.
func (c *Client) Logins(ctx context.Context) ([]Identity, error) {
	var out []Identity
	return out, c.call(ctx, http.MethodGet, "/v1/logins", nil, &out)
}

// Logout forgets a login of this user.
func (c *Client) Logout(ctx context.Context, issuer string) error {
	return c.call(ctx, http.MethodDelete, "/v1/logins?issuer="+url.QueryEscape(issuer), nil, nil)
}

// AnnounceRun says for whom the next run of this user is.
func (c *Client) AnnounceRun(ctx context.Context, r RunStart) (RunTicket, error) {
	var out RunTicket
	return out, c.call(ctx, http.MethodPost, "/v1/runs", r, &out)
}

// RenewRun gives a run of this user its next token.
func (c *Client) RenewRun(ctx context.Context, run string, t RunToken) (Identity, error) {
	var out Identity
	return out, c.call(ctx, http.MethodPost, "/v1/runs/"+url.PathEscape(run)+"/token", t, &out)
}

// Runs lists those that were announced and go on.
func (c *Client) Runs(ctx context.Context) ([]Run, error) {
	var out []Run
	return out, c.call(ctx, http.MethodGet, "/v1/runs", nil, &out)
}
