package source

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/secret"
)

// script is a source that says what it is told to.
type script struct {
	mu    sync.Mutex
	value string
	err   error
	lease Lease
	slow  time.Duration
	calls int
	given [][]byte // what it handed out
}

func (s *script) Fetch(ctx context.Context, _ Ref) (secret.Secret, Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	select {
	case <-time.After(s.slow):
	case <-ctx.Done():
		return secret.Secret{}, Lease{}, context.Cause(ctx)
	}
	if s.err != nil {
		return secret.Secret{}, Lease{}, s.err
	}
	b := []byte(s.value)
	s.given = append(s.given, b)
	return secret.New(b), s.lease, nil
}

func (s *script) says(value string, err error) { s.value, s.err = value, err }

var (
	ref     = Ref{Path: "kv/orders", Key: "password"}
	errDown = errors.New("connection refused")
)

type failures struct{ list []error }

func newSet(src Source) (*Set, *failures) {
	f := &failures{}
	s := NewSet(SetOptions{Observer: Observer{StaleUsed: func(_ string, _ Ref, err error) { f.list = append(f.list, err) }}})
	s.Add("vault", src, Options{Fresh: time.Minute, Stale: time.Hour})
	return s, f
}

func gives(t *testing.T, s *Set, want string) {
	t.Helper()
	got, err := s.Fetch(t.Context(), "vault", ref)
	if err != nil || string(got.Reveal()) != want {
		t.Fatalf("it gives %q, %v, want %q", got.Reveal(), err, want)
	}
}

func fails(t *testing.T, s *Set, want ...error) {
	t.Helper()
	got, err := s.Fetch(t.Context(), "vault", ref)
	for _, w := range want {
		if !errors.Is(err, w) {
			t.Errorf("the error is %v, want %v", err, w)
		}
	}
	if !got.Empty() || err == nil {
		t.Error("a secret came with the error", err)
	}
}

func TestFreshValueIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{value: "one"}
		s, _ := newSet(src)
		gives(t, s, "one")
		src.says("two", nil)
		time.Sleep(time.Minute - 1)
		gives(t, s, "one")
		if src.calls != 1 {
			t.Error("the source was asked", src.calls, "times")
		}
		time.Sleep(time.Nanosecond)
		gives(t, s, "two")
	})
}

// While the source does not answer the last value is used, said to who wants to
// know, until it is stale; then the error says both, and it heals by itself.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{value: "one"}
		s, failed := newSet(src)
		gives(t, s, "one")
		src.says("", errDown)
		time.Sleep(time.Hour - 1)
		gives(t, s, "one")
		if len(failed.list) != 1 || !errors.Is(failed.list[0], errDown) {
			t.Error("told:", failed.list)
		}
		time.Sleep(time.Nanosecond)
		fails(t, s, ErrStale, errDown)
		src.says("two", nil)
		gives(t, s, "two")
	})
}

func TestNeverFetched(t *testing.T) {
	src := &script{err: errDown}
	s, failed := newSet(src)
	fails(t, s, errDown)
	if _, err := s.Fetch(t.Context(), "typo", ref); !errors.Is(err, ErrNoSource) {
		t.Error(err)
	}
	if len(failed.list) > 0 {
		t.Error("told of a value that there never was:", failed.list)
	}
}

// A lease ends a value before its time, fresh or not.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{value: "one", lease: Lease{Expires: time.Now().Add(10 * time.Second)}}
		s, _ := newSet(src)
		gives(t, s, "one")
		src.says("", errDown)
		time.Sleep(10*time.Second - 1)
		gives(t, s, "one")
		time.Sleep(time.Nanosecond)
		fails(t, s, ErrStale, errDown)
	})
}

// An empty value is a failure of the source, not a secret.
func TestEmptyValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{value: ""}
		s, failed := newSet(src)
		fails(t, s, ErrEmpty)
		src.says("one", nil)
		gives(t, s, "one")
		src.says("", nil)
		time.Sleep(2 * time.Minute)
		gives(t, s, "one")
		if len(failed.list) != 1 || !errors.Is(failed.list[0], ErrEmpty) {
			t.Error("told:", failed.list)
		}
	})
}

// A refresh reaches the next session at once; what cannot be refreshed stays.
func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, other := &script{value: "one"}, &script{value: "other"}
		s, _ := newSet(src)
		s.Add("file", other, Options{})
		gives(t, s, "one")
		if _, err := s.Fetch(t.Context(), "file", ref); err != nil {
			t.Fatal(err)
		}
		src.says("two", nil)
		other.says("", errDown)
		if err := s.Refresh(t.Context()); !errors.Is(err, errDown) {
			t.Error("the refresh:", err)
		}
		gives(t, s, "two")
		if got, err := s.Fetch(t.Context(), "file", ref); err != nil || string(got.Reveal()) != "other" {
			t.Error("the other:", err)
		}
		if src.calls != 2 || other.calls != 2 {
			t.Error("asked", src.calls, other.calls)
		}
	})
}

// What is given away is a copy; what was replaced is wiped.
func TestCopiesAndWipes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{value: "one"}
		s, _ := newSet(src)
		got, err := s.Fetch(t.Context(), "vault", ref)
		if err != nil {
			t.Fatal(err)
		}
		got.Wipe()
		gives(t, s, "one")
		kept, err := s.Fetch(t.Context(), "vault", ref)
		if err != nil {
			t.Fatal(err)
		}
		src.says("two", nil)
		time.Sleep(time.Minute)
		gives(t, s, "two")
		if !bytes.Equal(src.given[0], make([]byte, 3)) {
			t.Errorf("the old value is still there: %q", src.given[0])
		}
		if string(kept.Reveal()) != "one" {
			t.Error("a copy that a session holds was wiped")
		}
	})
}

// Many sessions that begin at once ask the source once; one that gives up does
// so at once, with its own reason, and the others get the value.
func TestSlowSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{value: "one", slow: 10 * time.Second}
		s, _ := newSet(src)
		var all sync.WaitGroup
		var got atomic.Int32
		for range 10 {
			all.Go(func() {
				if v, err := s.Fetch(t.Context(), "vault", ref); err == nil && string(v.Reveal()) == "one" {
					got.Add(1)
				}
			})
		}
		synctest.Wait()
		gone := errors.New("the client is gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		began := time.Now()
		time.AfterFunc(time.Second, func() { cancel(gone) })
		if _, err := s.Fetch(ctx, "vault", ref); !errors.Is(err, gone) || time.Since(began) != time.Second {
			t.Error("who gives up:", err, time.Since(began))
		}
		all.Wait()
		if got.Load() != 10 || src.calls != 1 {
			t.Errorf("%d have the value, the source was asked %d times", got.Load(), src.calls)
		}
	})
}

// One client that leaves while it asks the source leaves nothing broken behind.
func TestAskerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{value: "one", slow: 10 * time.Second}
		s, _ := newSet(src)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Fetch(ctx, "vault", ref); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		gives(t, s, "one")
	})
}

// TestRetain: what a configuration does not name any more is forgotten and wiped,
// and asked for by nobody.
func TestRetain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, other := &script{value: "one"}, &script{value: "other"}
		s, _ := newSet(src)
		s.Add("file", other, Options{})
		gives(t, s, "one")
		if _, err := s.Fetch(t.Context(), "file", ref); err != nil {
			t.Fatal(err)
		}
		s.Retain(func(name string) bool { return name == "file" }, func(name string, _ Ref) bool { return name == "file" })
		other.says("", errDown)
		src.says("", errDown)
		if err := s.Refresh(t.Context()); !errors.Is(err, errDown) || other.calls != 2 || src.calls != 1 {
			t.Errorf("%v, asked %d and %d times", err, src.calls, other.calls)
		}
		if !bytes.Equal(src.given[0], make([]byte, 3)) {
			t.Errorf("the value is still there: %q", src.given[0])
		}
		if known := s.Known(); len(known) != 1 || known[0].Source != "file" {
			t.Errorf("%+v", known)
		}
		fails(t, s, ErrNoSource)
		s.Retain(func(string) bool { return true }, func(string, Ref) bool { return true })
		if len(s.Known()) != 1 {
			t.Error("what is wanted was forgotten")
		}
	})
}
