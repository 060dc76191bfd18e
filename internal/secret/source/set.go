package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postern/postern/internal/secret"
)

const (
	// DefaultFresh is how long a value is used without asking its source again.
	DefaultFresh = 30 * time.Second
	// DefaultStale is how long the last known value is used while its source
	// does not answer.
	DefaultStale = 15 * time.Minute
)

// Options say how a Set treats one source. Zero fields take the defaults.
type Options struct {
	Fresh time.Duration
	Stale time.Duration
}

// Set holds the sources of a configuration and the last known values.
type Set struct {
	now func() time.Time
	// failed is told when a source failed and the last known value is used
	// instead; nil when nobody wants to know.
	failed func(name string, ref Ref, err error)

	mu      sync.Mutex
	sources map[string]entry
	values  map[valueKey]*value
}

type entry struct {
	source Source
	opts   Options
}

type valueKey struct {
	name string
	ref  Ref
}

// value is the last known value of one secret. Whoever has the token in busy
// owns the fields; a channel and not a mutex because the owner does I/O, and
// those who wait may give up.
type value struct {
	busy    chan struct{}
	secret  secret.Secret
	known   bool
	fetched time.Time
	expires time.Time
}

// NewSet returns an empty set.
func NewSet(now func() time.Time, failed func(name string, ref Ref, err error)) *Set {
	if now == nil {
		now = time.Now
	}
	return &Set{now: now, failed: failed, sources: map[string]entry{}, values: map[valueKey]*value{}}
}

// Add adds a source under the name that configurations use.
func (s *Set) Add(name string, src Source, o Options) {
	if o.Fresh == 0 {
		o.Fresh = DefaultFresh
	}
	if o.Stale == 0 {
		o.Stale = DefaultStale
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sources[name] = entry{src, o}
}

// Fetch returns a copy of the secret, which the caller may wipe after use. When
// the source fails, the last known value is returned until it is stale; then
// the error wraps ErrStale and the source's own.
func (s *Set) Fetch(ctx context.Context, name string, ref Ref) (secret.Secret, error) {
	src, v, err := s.find(name, ref)
	if err != nil {
		return secret.Secret{}, err
	}
	if err := v.take(ctx); err != nil {
		return secret.Secret{}, err
	}
	defer v.release()
	now := s.now()
	if v.usable(now, src.opts.Fresh) {
		return v.copy(), nil
	}
	err = v.renew(ctx, src, ref, s.now)
	switch {
	case err == nil:
		return v.copy(), nil
	case !v.known:
		return secret.Secret{}, fmt.Errorf("secret source %s: %w", name, err)
	case !v.usable(now, src.opts.Stale):
		return secret.Secret{}, fmt.Errorf("secret source %s: %w (%s): %w", name, ErrStale, now.Sub(v.fetched), err)
	}
	if s.failed != nil {
		s.failed(name, ref, err)
	}
	return v.copy(), nil
}

// Refresh fetches everything anew that was ever fetched, so that what changed
// reaches the next session. A secret whose source fails keeps its last value;
// the errors are returned together.
func (s *Set) Refresh(ctx context.Context) error {
	s.mu.Lock()
	keys := make([]valueKey, 0, len(s.values))
	for k := range s.values {
		keys = append(keys, k)
	}
	s.mu.Unlock()
	var errs []error
	for _, k := range keys {
		if err := s.refresh(ctx, k); err != nil {
			errs = append(errs, fmt.Errorf("secret source %s: %w", k.name, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Set) refresh(ctx context.Context, k valueKey) error {
	src, v, err := s.find(k.name, k.ref)
	if err != nil {
		return err
	}
	if err := v.take(ctx); err != nil {
		return err
	}
	defer v.release()
	return v.renew(ctx, src, k.ref, s.now)
}

func (s *Set) find(name string, ref Ref) (entry, *value, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	src, ok := s.sources[name]
	if !ok {
		return src, nil, fmt.Errorf("%w: %q", ErrNoSource, name)
	}
	k := valueKey{name, ref}
	v := s.values[k]
	if v == nil {
		v = &value{busy: make(chan struct{}, 1)}
		s.values[k] = v
	}
	return src, v, nil
}

func (v *value) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	select {
	case v.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (v *value) release() { <-v.busy }

func (v *value) usable(now time.Time, age time.Duration) bool {
	return v.known && now.Sub(v.fetched) < age && (v.expires.IsZero() || now.Before(v.expires))
}

func (v *value) copy() secret.Secret { return secret.New(bytes.Clone(v.secret.Reveal())) }

func (v *value) renew(ctx context.Context, src entry, ref Ref, now func() time.Time) error {
	got, lease, err := src.source.Fetch(ctx, ref)
	if err != nil {
		return err
	}
	if got.Empty() {
		return ErrEmpty
	}
	v.secret.Wipe() // nobody else has it: Fetch gives copies away
	v.secret, v.known, v.fetched, v.expires = got, true, now(), lease.Expires
	return nil
}
