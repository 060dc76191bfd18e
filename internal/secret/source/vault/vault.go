// Package vault is the source of secrets in HashiCorp Vault and OpenBao, which
// speak the same protocol: what lies in their KV engines, what their engines
// database, ssh and pki make to order, and files that their engine transit
// sealed.
//
// A Ref's Path is a mount and a path, "kv/orders", with "?version=3" at its end
// for a version of KV 2; Key is the field, which may be left out where there is
// one only. "transit:KEY:FILE" is a file that holds what transit/encrypt/KEY
// answered. How long values are remembered is left to source.Set.
//
// The package logs in by itself, when it is first asked and whenever its token
// has ended, and runs nothing in the background. Start with Source.Fetch, then
// Source.do, through which every request with a token goes.
package vault

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/openbao/openbao/api/v2"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

// defaultTimeout is how long one request may take: a server that makes an
// account in a database of its own takes seconds, not more.
const defaultTimeout = 10 * time.Second

// Options of a Source.
type Options struct {
	Address    string // http:// or https:// URL of the server, or unix:///path of an agent
	Namespace  string // of Vault Enterprise or OpenBao; empty: the root
	CA         string // PEM file of who signed the server's certificate; empty: the system's
	ServerName string // in the server's certificate; empty: the host of Address
	Auth       Auth   // how to log in
	// Mount is where paths of a Fetch begin; empty: they begin with their mount.
	Mount string
	// KV is the version of the engine, 1 or 2; zero: the server is asked.
	KV int
	// Dir is where relative names of transit's files begin.
	Dir     string
	Timeout time.Duration    // of one request; zero: ten seconds
	Log     *slog.Logger     // nil: nothing is logged
	Now     func() time.Time // nil: time.Now
}

// Source fetches secrets, and makes them to order.
type Source struct {
	opts   Options
	client *api.Client
	tagKey []byte // of the tags that stand in for versions
	login  session

	mu     sync.Mutex
	mounts map[string]mount // what the server said about the mounts of paths
}

var (
	_ source.Source = (*Source)(nil)
	_ source.Issuer = (*Source)(nil)
)

// New returns a Source. It asks nobody and reads no file: the server may start
// after the daemon.
func New(o Options) (*Source, error) {
	if o.Auth == nil {
		return nil, fmt.Errorf("vault: no auth: how is it to log in?")
	}
	if o.KV < 0 || o.KV > 2 {
		return nil, fmt.Errorf("vault: KV version %d, there are 1 and 2", o.KV)
	}
	if o.Mount != "" {
		if err := checkPath(o.Mount); err != nil {
			return nil, fmt.Errorf("vault: mount %q: %w", o.Mount, err)
		}
	}
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	client, err := newClient(o)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	s := &Source{opts: o, client: client, tagKey: make([]byte, 32), mounts: map[string]mount{}}
	s.login.turn = make(chan struct{}, 1)
	rand.Read(s.tagKey) //nolint:errcheck // it never fails
	return s, nil
}

// Fetch returns the secret as it is on the server now.
func (s *Source) Fetch(ctx context.Context, ref source.Ref) (secret.Secret, source.Lease, error) {
	value, lease, err := s.fetch(ctx, ref)
	if err != nil {
		value.Wipe()
		return secret.Secret{}, source.Lease{}, fmt.Errorf("vault %s: %w", ref.Path, err)
	}
	return value, lease, nil
}

func (s *Source) fetch(ctx context.Context, ref source.Ref) (secret.Secret, source.Lease, error) {
	if ctx.Err() != nil {
		return secret.Secret{}, source.Lease{}, context.Cause(ctx)
	}
	if f, is, err := parseSealed(ref.Path); is || err != nil {
		if err != nil {
			return secret.Secret{}, source.Lease{}, err
		}
		if !filepath.IsAbs(f.file) {
			f.file = filepath.Join(s.opts.Dir, f.file)
		}
		return s.open(ctx, f, ref.Key)
	}
	p, err := parsePath(ref.Path)
	if err != nil {
		return secret.Secret{}, source.Lease{}, err
	}
	if s.opts.Mount != "" {
		p.path = s.opts.Mount + "/" + p.path
	}
	return s.read(ctx, p, ref.Key)
}
