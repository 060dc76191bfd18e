package source

import (
	"cmp"
	"slices"
	"time"
)

// Observer is told what a Set does; each func may be nil. They are called from
// any goroutine, while others wait for the same secret, and so return soon.
type Observer struct {
	// Fetched: a source was asked, which took that long.
	Fetched func(name string, took time.Duration, err error)
	// Rotated: a source has another value than before.
	Rotated func(name string, ref Ref)
	// StaleUsed: a source failed, and the last known value is used instead.
	StaleUsed func(name string, ref Ref, err error)
	// Exposed: the arena has no room for a value, which is on the heap therefore.
	Exposed func(name string, ref Ref, err error)
}

func (o Observer) fetched(name string, took time.Duration, err error) {
	if o.Fetched != nil {
		o.Fetched(name, took, err)
	}
}

func (o Observer) rotated(name string, ref Ref) {
	if o.Rotated != nil {
		o.Rotated(name, ref)
	}
}

func (o Observer) staleUsed(name string, ref Ref, err error) {
	if o.StaleUsed != nil {
		o.StaleUsed(name, ref, err)
	}
}

func (o Observer) exposed(name string, ref Ref, err error) {
	if o.Exposed != nil {
		o.Exposed(name, ref, err)
	}
}

// Value is what a Set knows of one secret, but for the secret.
type Value struct {
	Source    string
	Ref       Ref
	Fetched   time.Time // zero: never
	Expires   time.Time // zero: when it changes
	Version   string
	LastUsed  time.Time // zero: never
	LastError error     // of the source; nil when its last answer was good
	// Stale: a session is refused unless the source answers; the value is too old
	// or its lease has ended, or its source is no longer configured.
	Stale bool
}

// Known returns what was ever asked for, by source, path and key. It does not
// wait for a source.
func (s *Set) Known() []Value {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Value, 0, len(s.values))
	for k, v := range s.values {
		shown := v.status
		src, configured := s.sources[k.name]
		live := value{known: !shown.Fetched.IsZero(), fetched: shown.Fetched, expires: shown.Expires}
		shown.Stale = live.known && (!configured || !live.usable(now, src.opts.Stale))
		all = append(all, shown)
	}
	slices.SortFunc(all, func(a, b Value) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Ref.Path, b.Ref.Path), cmp.Compare(a.Ref.Key, b.Ref.Key))
	})
	return all
}
