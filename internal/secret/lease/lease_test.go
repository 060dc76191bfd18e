package lease

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

const canary = "canary-7Gq"

// vault makes credentials, counts, and fails when it is told to.
type vault struct {
	mu       sync.Mutex
	made     int
	live     map[string]time.Time
	revoked  []string
	renewed  int
	ttl, max time.Duration // zero: for ever
	fails    error
	slow     time.Duration
	began    map[string]time.Time
}

func (v *vault) Issue(ctx context.Context, o source.Order) (source.Issued, error) {
	if err := v.wait(ctx); err != nil {
		return source.Issued{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.fails != nil {
		return source.Issued{}, v.fails
	}
	v.made++
	id := fmt.Sprintf("%s/%d", o.Role, v.made)
	l := source.Lease{ID: id, Renewable: v.max > v.ttl}
	if v.ttl > 0 {
		l.Expires = time.Now().Add(v.ttl)
	}
	v.live[id], v.began[id] = l.Expires, time.Now()
	return source.Issued{Fields: map[string]secret.Secret{
		"username": secret.New([]byte(o.Name + "-" + id)), "password": secret.New([]byte(canary + id)),
	}, Lease: l}, nil
}

func (v *vault) wait(ctx context.Context) error {
	v.mu.Lock()
	slow := v.slow
	v.mu.Unlock()
	select {
	case <-time.After(slow):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (v *vault) Renew(_ context.Context, id string, extend time.Duration) (source.Lease, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.fails != nil {
		return source.Lease{}, v.fails
	}
	if _, ok := v.live[id]; !ok {
		return source.Lease{}, source.ErrNotFound
	}
	v.renewed++
	end := time.Now().Add(extend)
	if last := v.began[id].Add(v.max); end.After(last) {
		end = last
	}
	v.live[id] = end
	return source.Lease{ID: id, Expires: end, Renewable: true}, nil
}

func (v *vault) Revoke(_ context.Context, id string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.fails != nil {
		return v.fails
	}
	delete(v.live, id)
	v.revoked = append(v.revoked, id)
	return nil
}

func (v *vault) say(f func(*vault)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(v)
}

func (v *vault) lives() (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.live)
}

type world struct {
	t     *testing.T
	path  string
	vault *vault
	log   bytes.Buffer
	told  map[string]int
	*Leases
}

// newWorld is a daemon's leases at work, until the test, or its stop, ends them.
func newWorld(t *testing.T, path string, v *vault) (w *world, stop func()) {
	t.Helper()
	w = &world{t: t, path: path, vault: v, told: map[string]int{}}
	if v.live == nil {
		v.live, v.began = map[string]time.Time{}, map[string]time.Time{}
	}
	var mu sync.Mutex
	l, err := Open(Options{
		Path: path, Now: time.Now, Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		Issuer: func(name string) (source.Issuer, error) {
			if name != "bao" {
				return nil, source.ErrNoSource
			}
			return v, nil
		},
		Changed: func(_, what string) { mu.Lock(); w.told[what]++; mu.Unlock() },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Leases = l
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	once := sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(once)
	return w, once
}

func want(scope string) Want {
	return Want{Source: "bao", Target: "orders", Scope: Scope{ID: scope}, Order: source.Order{Engine: "database", Role: "rw", Name: scope}}
}

func (w *world) gets(scope string) string {
	w.t.Helper()
	f, err := w.Credential(w.t.Context(), want(scope))
	if err != nil {
		w.t.Fatal(err)
	}
	if !strings.HasPrefix(string(f["password"].Reveal()), canary) {
		w.t.Errorf("the password is %q", f["password"].Reveal())
	}
	return string(f["username"].Reveal())
}

func inBubble(t *testing.T, f func(t *testing.T)) { t.Helper(); synctest.Test(t, f) }

// TestScope: all of a scope share a credential, another has its own, and its end
// is theirs.
func TestScope(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := &vault{ttl: time.Hour, max: 24 * time.Hour}
		w, _ := newWorld(t, filepath.Join(t.TempDir(), "leases"), v)
		if a, b, c := w.gets("run-1"), w.gets("run-1"), w.gets("run-2"); a != b || a == c || a != "run-1-rw/1" {
			t.Error(a, b, c)
		}
		w.End("run-1")
		w.End("run-3")
		synctest.Wait()
		if v.lives() != 1 || !slices.Equal(v.revoked, []string{"rw/1"}) {
			t.Error(v.live, v.revoked)
		}
		if left := w.List(); len(left) != 1 || left[0].Scope.ID != "run-2" || left[0].Target != "orders" {
			t.Errorf("%+v", left)
		}
		if w.told["issued"] != 2 || w.told["revoked"] != 1 {
			t.Error(w.told)
		}
	})
}

// TestAtOnce: many who ask at once have one made.
func TestAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := &vault{ttl: time.Hour, slow: time.Second}
		w, _ := newWorld(t, filepath.Join(t.TempDir(), "leases"), v)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { w.gets("run-1") })
		}
		all.Wait()
		if v.made != 1 {
			t.Error("made", v.made)
		}
	})
}

// TestGivesUp: who stops waiting hears their own reason; what is made
// nevertheless for a scope that has ended is revoked.
func TestGivesUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := &vault{ttl: time.Hour, slow: time.Minute}
		w, _ := newWorld(t, filepath.Join(t.TempDir(), "leases"), v)
		gone := errors.New("the client is gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(gone) })
		if _, err := w.Credential(ctx, want("s1")); !errors.Is(err, gone) {
			t.Error(err)
		}
		done := make(chan error)
		go func() { _, err := w.Credential(t.Context(), want("s2")); done <- err }()
		time.Sleep(time.Second)
		w.End("s2")
		if err := <-done; !errors.Is(err, ErrEnded) {
			t.Error(err)
		}
		synctest.Wait()
		if v.lives() != 0 || len(w.List()) != 0 {
			t.Error(v.live, w.List())
		}
	})
}

// TestTheNextDaemon: whatever ended the daemon, the next one revokes what is
// out; nothing secret is on disk.
func TestTheNextDaemon(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := &vault{ttl: time.Hour, max: 2 * time.Hour}
		path := filepath.Join(t.TempDir(), "state", "leases")
		w, stop := newWorld(t, path, v)
		w.gets("run-1")
		w.gets("run-2")
		stop()
		text, err := os.ReadFile(path)
		if err != nil || bytes.Contains(text, []byte(canary)) || !bytes.Contains(text, []byte("rw/1")) {
			t.Errorf("%s %v", text, err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Error(st.Mode(), err)
		}
		v.say(func(v *vault) { v.fails = source.ErrUnavailable })
		next, stop := newWorld(t, path, v)
		synctest.Wait()
		if v.lives() != 2 || len(next.List()) != 2 || !next.List()[0].Ending {
			t.Error(v.live, next.List())
		}
		stop()
		v.say(func(v *vault) { v.fails = nil })
		third, _ := newWorld(t, path, v)
		if name := third.gets("run-1"); name != "run-1-rw/3" {
			t.Error("a run that goes on has", name)
		}
		synctest.Wait()
		if v.lives() != 1 || len(third.List()) != 1 {
			t.Error(v.live, third.List())
		}
		if err := os.WriteFile(path, []byte("["), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Path: path}); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Error(err)
		}
	})
}

// TestRenewal: a lease is renewed while it is needed and can be; who asks near
// its end has another made, and the old one is left to those that use it.
func TestRenewal(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := &vault{ttl: time.Hour, max: 3 * time.Hour}
		w, _ := newWorld(t, filepath.Join(t.TempDir(), "leases"), v)
		first := w.gets("run-1")
		time.Sleep(2*time.Hour + 50*time.Minute)
		synctest.Wait()
		v.say(func(v *vault) {
			if v.renewed < 3 || v.made != 1 {
				t.Errorf("renewed %d, made %d", v.renewed, v.made)
			}
		})
		if w.gets("run-1") != first {
			t.Error("another was made")
		}
		time.Sleep(10*time.Minute - soon/2)
		if second := w.gets("run-1"); second == first {
			t.Error("it is given away at its end")
		}
		time.Sleep(time.Minute)
		if left := w.List(); len(left) != 1 || left[0].ID != "rw/2" {
			t.Errorf("%+v", left)
		}
		if slices.Contains(v.revoked, "rw/1") {
			t.Error("the old one was revoked under those who use it")
		}
	})
}

// TestFailures: what the source refuses is tried again, with patience, and told.
func TestFailures(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := &vault{ttl: time.Hour, max: 100 * time.Hour}
		w, _ := newWorld(t, filepath.Join(t.TempDir(), "leases"), v)
		v.say(func(v *vault) { v.fails = fmt.Errorf("%w: sealed", source.ErrUnavailable) })
		if _, err := w.Credential(t.Context(), want("s1")); !errors.Is(err, source.ErrUnavailable) || !strings.Contains(err.Error(), "bao") {
			t.Error(err)
		}
		other := want("s1")
		other.Source = "typo"
		if _, err := w.Credential(t.Context(), other); !errors.Is(err, source.ErrNoSource) {
			t.Error(err)
		}
		v.say(func(v *vault) { v.fails = nil })
		w.gets("s1")
		v.say(func(v *vault) { v.fails = source.ErrUnavailable })
		time.Sleep(41 * time.Minute)
		if left := w.List(); len(left) != 1 || left[0].Error == "" || w.told["failed"] < 2 || w.told["failed"] > 20 {
			t.Errorf("%+v %v", left, w.told)
		}
		v.say(func(v *vault) { v.fails = nil })
		time.Sleep(lastRetry)
		if left := w.List(); left[0].Error != "" || v.renewed == 0 {
			t.Errorf("%+v", left)
		}
		v.say(func(v *vault) { v.fails = source.ErrUnavailable })
		w.End("s1")
		time.Sleep(time.Hour)
		if left := w.List(); len(left) != 1 || !left[0].Ending || left[0].Error == "" {
			t.Errorf("%+v", left)
		}
		v.say(func(v *vault) { v.fails = nil })
		time.Sleep(lastRetry)
		if len(w.List()) != 0 || v.lives() != 0 {
			t.Error(w.List(), v.live)
		}
		if strings.Contains(w.log.String(), canary) {
			t.Error("the log has the secret")
		}
	})
}

// TestRevokedElsewhere: one that an operator took away is not given to anybody
// once that is known.
func TestRevokedElsewhere(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := &vault{ttl: time.Hour, max: 100 * time.Hour}
		w, _ := newWorld(t, filepath.Join(t.TempDir(), "leases"), v)
		first := w.gets("s1")
		v.say(func(v *vault) { clear(v.live) })
		time.Sleep(41 * time.Minute)
		if w.gets("s1") == first {
			t.Error("it is still given away")
		}
	})
}

// TestNoDisk: a credential whose lease is not on disk is not used, and revoked.
func TestNoDisk(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		v := &vault{ttl: time.Hour}
		w, _ := newWorld(t, filepath.Join(dir, "leases"), v)
		w.Path = filepath.Join(dir, "file", "leases")
		if _, err := w.Credential(t.Context(), want("s1")); err == nil || !strings.Contains(err.Error(), "on disk") {
			t.Error(err)
		}
		if v.made != 1 || v.lives() != 0 || len(w.List()) != 0 {
			t.Error(v.made, v.live, w.List())
		}
	})
}

// TestSweep: a run's credentials end with its cgroup.
func TestSweep(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := &vault{ttl: time.Hour}
		w, _ := newWorld(t, filepath.Join(t.TempDir(), "leases"), v)
		for i, id := range []string{"run-1", "run-2"} {
			one := want(id)
			one.Scope.Cgroup, one.Scope.CgroupID = "agents/"+id, uint64(i)
			if _, err := w.Credential(t.Context(), one); err != nil {
				t.Fatal(err)
			}
		}
		w.gets("session")
		w.Sweep(func(cgroup string, id uint64) bool { return cgroup == "agents/run-2" && id == 1 })
		synctest.Wait()
		if v.lives() != 2 || !slices.Equal(v.revoked, []string{"rw/1"}) {
			t.Error(v.live, v.revoked)
		}
	})
}

// TestWiped: what ended is not in memory any more; copies are their holders'.
func TestWiped(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := &vault{ttl: time.Hour}
		w, _ := newWorld(t, filepath.Join(t.TempDir(), "leases"), v)
		f, err := w.Credential(t.Context(), want("s1"))
		if err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		var inside secret.Secret
		for h := range w.out {
			inside = h.fields["password"]
		}
		w.mu.Unlock()
		w.End("s1")
		synctest.Wait()
		if strings.Contains(string(inside.Reveal()), canary) || !strings.Contains(string(f["password"].Reveal()), canary) {
			t.Errorf("%q %q", inside.Reveal(), f["password"].Reveal())
		}
	})
}
