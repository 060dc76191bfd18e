// Package sourcetest is the suite that every source of secrets passes. A source
// describes the place that it reads as a Place and calls Run in its test; what
// is particular to it, it tests itself.
package sourcetest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

// Canary is in every value and every piece of spoiled content, and so must be
// in no error.
const Canary = "canary-4hT9-xQ2"

// Place is what a source reads, made for one test.
type Place struct {
	Source source.Source
	// Put makes the value of a path, or replaces it.
	Put func(t *testing.T, path, value string)
	// PutFields does so with a map of fields; nil when there are no fields.
	PutFields func(t *testing.T, path string, fields map[string]string)
	// Remove takes a path away.
	Remove func(t *testing.T, path string)
	// Spoiled are the ways in which a path can be there and not be good, each
	// with the error that a Fetch of it wraps. The content holds Canary.
	Spoiled []Spoiled
	// Versions says that leases have one.
	Versions bool
	// TextOnly says that a value is UTF-8.
	TextOnly bool
	// Stall keeps the place from answering until release is called; nil when it
	// cannot.
	Stall func(t *testing.T) (release func())
	// Outages are the ways in which the place can fail, until over is called.
	Outages map[string]func(t *testing.T) (over func())
}

// Spoiled is one way.
type Spoiled struct {
	Name string
	Make func(t *testing.T, path string)
	Key  string // asked for
	Want error
}

// Run runs the suite; open makes a Place of its own for each test.
func Run(t *testing.T, open func(t *testing.T) Place) {
	for name, test := range map[string]func(*testing.T, Place){
		"Fetch": fetch, "Rotate": rotate, "Copies": copies, "Missing": missing, "Spoiled": spoiled, "Fields": fields,
		"Cancelled": cancelled, "AtOnce": atOnce, "Slow": slow, "Outage": outage,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// value is what a path holds; the suite's values all have the canary in them.
func value(s string) string { return Canary + "-" + s }

func (p Place) holds(t *testing.T, ref source.Ref, want string) source.Lease {
	t.Helper()
	s, lease, err := p.Source.Fetch(t.Context(), ref)
	if err != nil {
		t.Fatalf("%v: %v", ref, err)
	}
	if string(s.Reveal()) != want {
		t.Fatalf("%v holds %q, want %q", ref, s.Reveal(), want)
	}
	if (lease.Version != "") != p.Versions || strings.Contains(lease.Version, Canary) {
		t.Errorf("%v: the lease is %+v", ref, lease)
	}
	return lease
}

// fails is Fails for a reference, which the error names.
func (p Place) fails(t *testing.T, ref source.Ref, want error) {
	t.Helper()
	s, _, err := p.Source.Fetch(t.Context(), ref)
	Fails(t, s, err, want)
	if err != nil && !strings.Contains(err.Error(), ref.Path) {
		t.Errorf("%v: the error does not name it: %v", ref, err)
	}
}

func fetch(t *testing.T, p Place) {
	for path, v := range map[string]string{
		"plain": value("one"), "spaces": " " + value("two") + "\t ", "odd": value("\xff\xfe"), "long": value(strings.Repeat("x", 10_000)),
		"quotes": value(`"'\$`), "lines": "first " + value("\nsecond"),
	} {
		if p.TextOnly && !utf8.ValidString(v) {
			continue
		}
		p.Put(t, path, v)
		p.holds(t, source.Ref{Path: path}, v)
	}
}

// rotate replaces a value, at once and by one of equal length.
func rotate(t *testing.T, p Place) {
	last := source.Lease{}
	for _, v := range []string{"a", "b", "c", "much longer", "d"} {
		p.Put(t, "rotated", value(v))
		lease := p.holds(t, source.Ref{Path: "rotated"}, value(v))
		if p.Versions && lease.Version == last.Version {
			t.Errorf("value %s has the version of the one before", v)
		}
		if again := p.holds(t, source.Ref{Path: "rotated"}, value(v)); again.Version != lease.Version {
			t.Error("the version changed and the value did not")
		}
		last = lease
	}
	p.Remove(t, "rotated")
	p.fails(t, source.Ref{Path: "rotated"}, source.ErrNotFound)
}

// copies: what was given away belongs to the caller, who may wipe it.
func copies(t *testing.T, p Place) {
	p.Put(t, "wiped", value("x"))
	s, _, err := p.Source.Fetch(t.Context(), source.Ref{Path: "wiped"})
	if err != nil {
		t.Fatal(err)
	}
	s.Wipe()
	p.holds(t, source.Ref{Path: "wiped"}, value("x"))
}

func missing(t *testing.T, p Place) {
	p.fails(t, source.Ref{Path: "missing"}, source.ErrNotFound)
	p.Put(t, "empty", "")
	p.fails(t, source.Ref{Path: "empty"}, source.ErrEmpty)
	p.Put(t, "empty", value("filled"))
	p.holds(t, source.Ref{Path: "empty"}, value("filled"))
}

func spoiled(t *testing.T, p Place) {
	for _, s := range p.Spoiled {
		t.Run(s.Name, func(t *testing.T) {
			path := strings.ReplaceAll(s.Name, " ", "_")
			s.Make(t, path)
			p.fails(t, source.Ref{Path: path, Key: s.Key}, s.Want)
			// Nothing good is remembered of what was bad.
			p.fails(t, source.Ref{Path: path, Key: s.Key}, s.Want)
		})
	}
}

func fields(t *testing.T, p Place) {
	if p.PutFields == nil {
		p.Put(t, "whole", value("x"))
		p.fails(t, source.Ref{Path: "whole", Key: "password"}, source.ErrMalformed)
		return
	}
	p.PutFields(t, "map", map[string]string{"user": value("u"), "password": value("p"), "empty": ""})
	p.holds(t, source.Ref{Path: "map", Key: "user"}, value("u"))
	p.holds(t, source.Ref{Path: "map", Key: "password"}, value("p"))
	p.fails(t, source.Ref{Path: "map", Key: "missing"}, source.ErrNotFound)
	p.fails(t, source.Ref{Path: "map", Key: "empty"}, source.ErrEmpty)
}

// cancelled: a caller that is gone gets its own reason, and promptly.
func cancelled(t *testing.T, p Place) {
	p.Put(t, "there", value("x"))
	gone := errors.New("the client is gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	s, _, err := p.Source.Fetch(ctx, source.Ref{Path: "there"})
	if !errors.Is(err, gone) || !s.Empty() {
		t.Errorf("%v", err)
	}
	p.holds(t, source.Ref{Path: "there"}, value("x"))
}

// atOnce: any number of goroutines, while the value changes.
func atOnce(t *testing.T, p Place) {
	p.Put(t, "shared", value("0"))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				s, _, err := p.Source.Fetch(t.Context(), source.Ref{Path: "shared"})
				if err != nil || len(s.Reveal()) != len(value("0")) {
					t.Errorf("%q, %v", s.Reveal(), err)
					return
				}
				s.Wipe()
			}
		})
	}
	for _, v := range []string{"1", "2", "3"} {
		p.Put(t, "shared", value(v))
	}
	all.Wait()
	p.holds(t, source.Ref{Path: "shared"}, value("3"))
}

// prompt is how soon a caller that gives up has its answer, on a busy machine.
const prompt = 5 * time.Second

// slow: who gives up while the place is silent is let go, with its own reason,
// and the place serves again when it has recovered.
func slow(t *testing.T, p Place) {
	if p.Stall == nil {
		return
	}
	p.Put(t, "slow", value("x"))
	release := p.Stall(t)
	gone := errors.New("the client is gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	timer := time.AfterFunc(100*time.Millisecond, func() { cancel(gone) })
	defer timer.Stop()
	began := time.Now()
	s, _, err := p.Source.Fetch(ctx, source.Ref{Path: "slow"})
	if took := time.Since(began); !errors.Is(err, gone) || !s.Empty() || took > prompt {
		t.Errorf("after %s: %v", took, err)
	}
	release()
	p.holds(t, source.Ref{Path: "slow"}, value("x"))
}

// outage: what fails is said to be unavailable, not missing, and heals by
// itself.
func outage(t *testing.T, p Place) {
	p.Put(t, "out", value("x"))
	for name, begin := range p.Outages {
		p.holds(t, source.Ref{Path: "out"}, value("x"))
		over := begin(t)
		s, _, err := p.Source.Fetch(t.Context(), source.Ref{Path: "out"})
		if err == nil {
			t.Errorf("%s: no error", name)
		} else {
			Fails(t, s, err, source.ErrUnavailable)
		}
		over()
	}
	p.holds(t, source.Ref{Path: "out"}, value("x"))
}

// Fails checks what a Fetch returned that had to fail: an error of the kind that
// quotes no content, and no secret.
func Fails(t *testing.T, got secret.Secret, err, want error) {
	t.Helper()
	switch {
	case !errors.Is(err, want):
		t.Errorf("the error is %v, want %v", err, want)
	case strings.Contains(err.Error(), Canary):
		t.Errorf("the error quotes the content: %v", err)
	}
	if !got.Empty() {
		t.Error("a secret came with the error")
	}
}
