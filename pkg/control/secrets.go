package control

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Secret is one that the daemon knows, without its value.
type Secret struct {
	Source  string    `json:"source"`
	Path    string    `json:"path"`
	Key     string    `json:"key,omitempty"`
	Targets []string  `json:"targets,omitempty"` // that log in with it
	Fetched time.Time `json:"fetched,omitzero"`  // zero: not yet
	Expires time.Time `json:"expires,omitzero"`
	Version string    `json:"version,omitempty"` // as the source has it
	Used    time.Time `json:"used,omitzero"`     // last
	Stale   bool      `json:"stale,omitempty"`   // its source did not answer when it was last asked
	Error   string    `json:"error,omitempty"`   // what it said
}

// Lease is a credential that was made for a run or a session.
type Lease struct {
	Source  string    `json:"source"`
	Target  string    `json:"target"`
	For     string    `json:"for"` // the run, session or cgroup
	Began   time.Time `json:"began"`
	Expires time.Time `json:"expires,omitzero"`
	Ending  bool      `json:"ending,omitempty"` // it is to be revoked, and was not yet
	Error   string    `json:"error,omitempty"`  // why not
}

// Secrets is what is known of all.
type Secrets struct {
	Secrets []Secret `json:"secrets"`
	Leases  []Lease  `json:"leases"`
}

// Secrets lists secrets and leases, never values.
func (c *Client) Secrets(ctx context.Context) (Secrets, error) {
	var out Secrets
	return out, c.call(ctx, http.MethodGet, "/v1/secrets", nil, &out)
}

// RefreshSecrets makes the daemon ask the sources anew: of a target, or every one
// when target is empty.
func (c *Client) RefreshSecrets(ctx context.Context, target string) error {
	path := "/v1/secrets/refresh"
	if target != "" {
		path += "?target=" + url.QueryEscape(target)
	}
	return c.call(ctx, http.MethodPost, path, nil, nil)
}
