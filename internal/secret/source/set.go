package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/arena"
)

const (
	// DefaultFresh is how long a value is used without asking its source again.
	DefaultFresh = 30 * time.Second
	// DefaultStale is how long the last known value is used while its source
	// does not answer.
	DefaultStale = 15 * time.Minute
	// RefetchEvery is how often a source is asked again for one secret because an
	// upstream refused it: a client that tries wrong logins in a loop must not
	// become a loop of requests to the source.
	RefetchEvery = 5 * time.Second
)

// SetOptions say where a Set keeps its values and whom it tells. All may be
// left out.
type SetOptions struct {
	Now      func() time.Time
	Arena    *arena.Arena // where the values are kept; nil: on the heap
	Observer Observer
}

// Options say how a Set treats one source. Zero fields take the defaults.
type Options struct {
	Fresh time.Duration
	Stale time.Duration
}

// Set holds the sources of a configuration and the last known values.
type Set struct {
	now     func() time.Time
	arena   *arena.Arena
	observe Observer

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
	// When the source was last asked by Refetch, and what came of it.
	refetched time.Time
	changed   bool

	status Value // what Known shows, guarded by Set.mu
}

// NewSet returns an empty set.
func NewSet(o SetOptions) *Set {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Set{now: o.Now, arena: o.Arena, observe: o.Observer, sources: map[string]entry{}, values: map[valueKey]*value{}}
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

// Retain forgets the sources and the secrets that are not wanted any more, and
// wipes these. One that is being fetched right now is left for the next time.
func (s *Set) Retain(sources func(name string) bool, wanted func(name string, ref Ref) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.sources {
		if !sources(name) {
			delete(s.sources, name)
		}
	}
	for k, v := range s.values {
		if wanted(k.name, k.ref) {
			continue
		}
		select {
		case v.busy <- struct{}{}:
			v.secret.Wipe()
			v.known = false
			delete(s.values, k)
			v.release()
		default:
		}
	}
}

// Source returns the source that was added under a name.
func (s *Set) Source(name string) (Source, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.sources[name]
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrNoSource, name)
	}
	return e.source, nil
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
		return s.use(v, now), nil
	}
	_, err = s.renew(ctx, src, v, valueKey{name, ref})
	switch {
	case err == nil:
		return s.use(v, now), nil
	case !v.known:
		return secret.Secret{}, fmt.Errorf("secret source %s: %w", name, err)
	case !v.usable(now, src.opts.Stale):
		return secret.Secret{}, fmt.Errorf("secret source %s: %w (%s): %w", name, ErrStale, now.Sub(v.fetched), err)
	}
	s.observe.staleUsed(name, ref, err)
	return s.use(v, now), nil
}

// Refetch asks the source again at once, whatever the age of the value: an
// upstream refused it, so it may have been rotated. It says whether there is
// another value now, with which a second attempt makes sense. A source is asked
// so at most every RefetchEvery for one secret; who comes sooner waits for a
// request that is under way and shares its answer, or gets false.
func (s *Set) Refetch(ctx context.Context, name string, ref Ref) (changed bool, err error) {
	came := s.now()
	src, v, err := s.find(name, ref)
	if err != nil {
		return false, err
	}
	if err := v.take(ctx); err != nil {
		return false, err
	}
	defer v.release()
	if !v.refetched.IsZero() && s.now().Sub(v.refetched) < RefetchEvery {
		return v.changed && came.Before(v.refetched), nil
	}
	changed, err = s.renew(ctx, src, v, valueKey{name, ref})
	if err != nil && ctx.Err() != nil {
		return false, err // who gives up takes nobody else's turn
	}
	v.refetched, v.changed = s.now(), changed
	if err != nil {
		return false, fmt.Errorf("secret source %s: %w", name, err)
	}
	return changed, nil
}

// Refresh fetches everything anew that was ever fetched, so that what changed
// reaches the next session. A secret whose source fails keeps its last value;
// the errors are returned together.
func (s *Set) Refresh(ctx context.Context) error {
	return s.RefreshOnly(ctx, func(string, Ref) bool { return true })
}

// RefreshOnly is Refresh for the secrets that wanted returns true for.
func (s *Set) RefreshOnly(ctx context.Context, wanted func(name string, ref Ref) bool) error {
	s.mu.Lock()
	keys := slices.Collect(maps.Keys(s.values))
	s.mu.Unlock()
	var errs []error
	for _, k := range keys {
		if !wanted(k.name, k.ref) {
			continue
		}
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
	_, err = s.renew(ctx, src, v, k)
	return err
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
		v = &value{busy: make(chan struct{}, 1), status: Value{Source: name, Ref: ref}}
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

// use gives a copy away. The caller owns v.
func (s *Set) use(v *value, now time.Time) secret.Secret {
	s.mu.Lock()
	v.status.LastUsed = now
	s.mu.Unlock()
	return secret.New(bytes.Clone(v.secret.Reveal()))
}

// renew asks the source and remembers what it says; changed is by the value,
// for a version may be another one of the same. The caller owns v.
func (s *Set) renew(ctx context.Context, src entry, v *value, k valueKey) (changed bool, err error) {
	began := s.now()
	got, lease, err := src.source.Fetch(ctx, k.ref)
	if err == nil && got.Empty() {
		err = ErrEmpty
	}
	now := s.now()
	s.observe.fetched(k.name, now.Sub(began), err)
	if err != nil {
		s.mu.Lock()
		v.status.LastError = err
		s.mu.Unlock()
		return false, err
	}
	before := v.known
	changed = !v.secret.Equal(got.Reveal())
	v.secret.Wipe() // nobody else has it: Fetch gives copies away
	v.secret, v.known, v.fetched, v.expires = s.keep(got, k), true, now, lease.Expires
	s.mu.Lock()
	v.status.Fetched, v.status.Expires, v.status.Version, v.status.LastError = now, lease.Expires, lease.Version, nil
	s.mu.Unlock()
	if changed && before {
		s.observe.rotated(k.name, k.ref)
	}
	return changed, nil
}

// keep moves a value into the arena. One that finds no room there stays where it
// is: it is as exposed as all were without an arena, and that is told, while a
// login that fails would be an outage.
func (s *Set) keep(got secret.Secret, k valueKey) secret.Secret {
	if s.arena == nil {
		return got
	}
	kept, err := s.arena.Put(got.Reveal())
	if err != nil {
		s.observe.exposed(k.name, k.ref, err)
		return got
	}
	got.Wipe()
	return kept
}
