// Package source is where secrets come from. A Source fetches one value from
// one kind of place, each in a folder of its own below this one; a Set knows
// the sources of a configuration by name and remembers what they said.
//
// What a secret is used for is left to the gateway; keeping it out of logs to
// package secret. An error of a source never contains a value, nor text of a
// library that may quote one. Every source passes the suite in sourcetest.
// Start with Source, then Set.Fetch.
package source

import (
	"context"
	"errors"
	"time"

	"github.com/postern/postern/internal/secret"
)

// Ref says which secret of a source is meant. What Path means is the source's
// affair; Key, when not empty, names a field of what lies there.
type Ref struct {
	Path string
	Key  string
}

// Lease says how long a value is good for.
type Lease struct {
	Expires time.Time // zero: until it changes
	Version string    // changes when the value does; empty when the source cannot tell
	// ID is by what an Issuer renews and revokes it; empty: it ends by itself only.
	ID        string
	Renewable bool
}

// Source fetches secrets. Fetch is called from any goroutine, whenever a new
// session needs the secret and the Set's copy is not fresh; it returns the
// value as it is now. The Secret belongs to the caller, who may wipe it. Its
// errors wrap one of the Err values where one fits, name the Ref, and never
// quote content.
type Source interface {
	Fetch(ctx context.Context, ref Ref) (secret.Secret, Lease, error)
}

// What errors of a Fetch wrap, matched with errors.Is.
var (
	ErrNotFound    = errors.New("there is no such secret")
	ErrEmpty       = errors.New("the secret is empty")
	ErrPermission  = errors.New("permission")
	ErrMalformed   = errors.New("the content is not what the source expects")
	ErrUnavailable = errors.New("the source does not answer")
	ErrStale       = errors.New("the last known value is too old")
	ErrNoSource    = errors.New("there is no such source")
)
