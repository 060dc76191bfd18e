package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/secret/arena"
)

// told is what an Observer heard, a line each.
type told struct {
	mu    sync.Mutex
	lines []string
}

func (o *told) say(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines = append(o.lines, fmt.Sprintf(format, args...))
}

func (o *told) heard(t *testing.T, want ...string) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if !slices.Equal(o.lines, want) {
		t.Errorf("told:\n%s\nwant:\n%s", strings.Join(o.lines, "\n"), strings.Join(want, "\n"))
	}
	o.lines = nil
}

func observed(src Source, a *arena.Arena) (*Set, *told) {
	o := &told{}
	s := NewSet(SetOptions{Arena: a, Observer: Observer{
		Fetched:   func(name string, took time.Duration, err error) { o.say("fetched %s %s %v", name, took, err) },
		Rotated:   func(name string, ref Ref) { o.say("rotated %s %v", name, ref) },
		StaleUsed: func(name string, ref Ref, err error) { o.say("stale %s %v %v", name, ref, err) },
		Exposed:   func(name string, ref Ref, err error) { o.say("exposed %s %v %v", name, ref, err) },
	}})
	s.Add("vault", src, Options{Fresh: time.Minute, Stale: time.Hour})
	return s, o
}

func TestObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{value: "canary-1", slow: time.Second}
		s, o := observed(src, nil)
		gives(t, s, "canary-1")
		o.heard(t, "fetched vault 1s <nil>")
		gives(t, s, "canary-1")
		o.heard(t)
		time.Sleep(time.Minute)
		src.lease.Version = "another of the same"
		gives(t, s, "canary-1")
		o.heard(t, "fetched vault 1s <nil>")
		time.Sleep(time.Minute)
		src.says("canary-2", nil)
		gives(t, s, "canary-2")
		o.heard(t, "fetched vault 1s <nil>", "rotated vault {kv/orders password}")
		time.Sleep(time.Minute)
		src.says("", errDown)
		gives(t, s, "canary-2")
		o.heard(t, "fetched vault 1s connection refused", "stale vault {kv/orders password} connection refused")
	})
}

// What the set knows is shown sorted, without a value, also while a source is
// being asked.
func TestKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, other := &script{value: "canary", lease: Lease{Version: "7"}}, &script{err: errDown}
		s, _ := observed(src, nil)
		s.Add("file", other, Options{})
		if all := s.Known(); len(all) != 0 {
			t.Errorf("before anything was asked for: %v", all)
		}
		began := time.Now()
		for _, r := range []Ref{{"b", ""}, {"a", "y"}, {"a", "x"}} {
			if _, err := s.Fetch(t.Context(), "vault", r); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Fetch(t.Context(), "file", ref); !errors.Is(err, errDown) {
			t.Fatal(err)
		}
		good := func(r Ref) Value {
			return Value{Source: "vault", Ref: r, Fetched: began, Version: "7", LastUsed: began}
		}
		want := []Value{{Source: "file", Ref: ref, LastError: errDown}, good(Ref{"a", "x"}), good(Ref{"a", "y"}), good(Ref{"b", ""})}
		if all := s.Known(); !slices.Equal(all, want) {
			t.Errorf("%+v", all)
		}
		time.Sleep(time.Hour - 1)
		src.says("", errDown)
		if _, err := s.Fetch(t.Context(), "vault", Ref{"b", ""}); err != nil {
			t.Fatal(err)
		}
		if v := s.Known()[3]; v.Stale || !v.LastUsed.Equal(time.Now()) || !v.Fetched.Equal(began) || !errors.Is(v.LastError, errDown) {
			t.Errorf("in an outage: %+v", v)
		}
		time.Sleep(time.Nanosecond)
		if v := s.Known()[3]; !v.Stale {
			t.Errorf("after it: %+v", v)
		}
		src.says("new", nil)
		src.slow = time.Second
		var done sync.WaitGroup
		done.Go(func() { s.Fetch(t.Context(), "vault", Ref{"b", ""}) })
		synctest.Wait()
		if v := s.Known()[3]; !v.Stale {
			t.Errorf("while it is asked: %+v", v)
		}
		done.Wait()
		if v := s.Known()[3]; v.Stale || v.LastError != nil {
			t.Errorf("healed: %+v", v)
		}
	})
}

// A login that was refused asks the source again, at most once in a while.
func TestRefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{value: "one"}
		s, o := observed(src, nil)
		refetch := func(want bool, wantErr error, calls int) {
			t.Helper()
			changed, err := s.Refetch(t.Context(), "vault", ref)
			if changed != want || !errors.Is(err, wantErr) || src.calls != calls {
				t.Errorf("changed %v, %v, asked %d times; want %v, %v, %d", changed, err, src.calls, want, wantErr, calls)
			}
		}
		gives(t, s, "one")
		refetch(false, nil, 2)
		src.says("two", nil)
		time.Sleep(RefetchEvery - 1)
		refetch(false, nil, 2)
		gives(t, s, "one")
		time.Sleep(time.Nanosecond)
		refetch(true, nil, 3)
		gives(t, s, "two")
		refetch(false, nil, 3)
		o.heard(t, "fetched vault 0s <nil>", "fetched vault 0s <nil>", "fetched vault 0s <nil>", "rotated vault {kv/orders password}")
		time.Sleep(RefetchEvery)
		src.says("", errDown)
		refetch(false, errDown, 4)
		refetch(false, nil, 4)
		gives(t, s, "two")
		if _, err := s.Refetch(t.Context(), "typo", ref); !errors.Is(err, ErrNoSource) {
			t.Error(err)
		}
	})
}

// Many sessions that are refused at once make one request and share its answer;
// one that gives up while it asks leaves the turn to the next.
func TestRefetchAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{value: "one"}
		s, _ := observed(src, nil)
		gives(t, s, "one")
		src.says("two", nil)
		src.slow = 2 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Refetch(ctx, "vault", ref); !errors.Is(err, context.DeadlineExceeded) {
			t.Error("who gives up:", err)
		}
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if changed, err := s.Refetch(t.Context(), "vault", ref); !changed || err != nil {
					t.Error(changed, err)
				}
			})
		}
		all.Wait()
		if src.calls != 3 {
			t.Error("asked", src.calls, "times")
		}
	})
}

func TestRefreshOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, other := &script{value: "one"}, &script{value: "other"}
		s, _ := observed(src, nil)
		s.Add("file", other, Options{})
		gives(t, s, "one")
		if _, err := s.Fetch(t.Context(), "file", ref); err != nil {
			t.Fatal(err)
		}
		if err := s.RefreshOnly(t.Context(), func(name string, r Ref) bool { return name == "file" && r == ref }); err != nil {
			t.Error(err)
		}
		if src.calls != 1 || other.calls != 2 {
			t.Error("asked", src.calls, other.calls)
		}
	})
}

// With an arena the values are in it and nowhere else, one slot for each secret;
// what has no room is kept all the same, and told.
func TestArena(t *testing.T) {
	a, err := arena.New(1)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	whole := a.Free()
	synctest.Test(t, func(t *testing.T) {
		src := &script{value: "one"}
		s, o := observed(src, a)
		for _, v := range []string{"one", "two", "three"} {
			src.says(v, nil)
			gives(t, s, v)
			if a.Free() != whole-16 {
				t.Errorf("%d bytes of %d are free", a.Free(), whole)
			}
			time.Sleep(time.Minute)
		}
		for i, given := range src.given {
			if strings.Trim(string(given), "\x00") != "" {
				t.Errorf("value %d is still where the source made it: %q", i, given)
			}
		}
		o.heard(t, "fetched vault 0s <nil>", "fetched vault 0s <nil>", "rotated vault {kv/orders password}",
			"fetched vault 0s <nil>", "rotated vault {kv/orders password}")
		long := strings.Repeat("x", whole+1)
		src.says(long, nil)
		gives(t, s, long)
		if a.Free() != whole {
			t.Errorf("%d bytes of %d are free", a.Free(), whole)
		}
		o.heard(t, "fetched vault 0s <nil>", "exposed vault {kv/orders password} "+arena.ErrFull.Error(), "rotated vault {kv/orders password}")
	})
}
