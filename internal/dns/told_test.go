package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The same name has the same address in every table, and neighbours that
// collide get different ones.
func TestTableIsStable(t *testing.T) {
	names := make([]string, 5000)
	for i := range names {
		names[i] = fmt.Sprintf("host%d.internal", i)
	}
	all, err := NewTable(names, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(all.byAddr) != len(names) {
		t.Fatalf("%d addresses for %d names", len(all.byAddr), len(names))
	}
	fewer, err := NewTable(names[:100], all)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names[:100] {
		a, a6, _ := all.Addresses(n)
		b, b6, _ := fewer.Addresses(n)
		if a != b || a6 != b6 || !Virtual(a) || !Virtual(a6) || wild4.Contains(a) {
			t.Fatalf("%s: %s %s, then %s %s", n, a, a6, b, b6)
		}
		for _, ip := range []netip.Addr{a, a6, netip.AddrFrom16(a.As16())} {
			if back, ok := all.Name(ip); !ok || back != n {
				t.Fatalf("%s leads back to %q", ip, back)
			}
		}
	}
	if _, err := NewTable(make([]string, maxNames+1), nil); err == nil {
		t.Error("a table takes any number of names")
	}
}

// A name below a wildcard has the address that its hash says, in whatever order
// names are asked for, and the way back leads to it.
func TestWildAddressesAreStable(t *testing.T) {
	names := make([]string, maxTold)
	for i := range names {
		names[i] = fmt.Sprintf("n%d.corp.example", i)
	}
	first, second := newTold(maxTold, nil), newTold(maxTold, nil)
	for _, n := range names {
		first.Virtual(n)
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	seen, moved := map[netip.Addr]bool{}, 0
	for _, n := range names {
		a := first.Virtual(n)
		if second.Virtual(n) != a {
			moved++ // it collides with another of the agent's
		}
		if seen[a] || !wild4.Contains(a) {
			t.Fatalf("%s has %s, and it is not the only one", n, a)
		}
		seen[a] = true
		for _, ip := range []netip.Addr{a, within6(a), netip.AddrFrom16(a.As16())} {
			if back, ok := first.Name(ip); !ok || back != n {
				t.Fatalf("%s leads back to %q", ip, back)
			}
		}
	}
	if moved > 40 {
		t.Errorf("%d of %d addresses depend on the order", moved, len(names))
	}
	for _, ip := range []string{"198.18.0.1", "192.0.2.1", "fd50:6f73:7465:1::c613:1"} {
		if n, ok := first.Name(netip.MustParseAddr(ip)); ok {
			t.Errorf("%s leads to %s", ip, n)
		}
	}
}

// The names that an agent is told are bounded; the one that was used least
// recently goes, and is counted. What another agent asks for changes nothing.
func TestToldIsBounded(t *testing.T) {
	evicted := 0
	told, other := newTold(3, func() { evicted++ }), newTold(3, nil)
	kept := other.Virtual("kept.corp.example")
	a, b := told.Virtual("a.corp.example"), told.Virtual("b.corp.example")
	told.Tell("real.internal", addrs("192.0.2.7"), time.Now())
	if n, _ := told.Name(a); n != "a.corp.example" { // it is dialled
		t.Error(n)
	}
	told.Virtual("c.corp.example")
	if n, ok := told.Name(b); ok {
		t.Errorf("%s is %s, which was used least recently", b, n)
	}
	for i := range 1000 {
		told.Virtual(fmt.Sprintf("data%d.corp.example", i))
	}
	if told.Len() != 3 || evicted != 1001 || len(told.virtual) != 3 || len(told.real) != 0 {
		t.Errorf("%d names, %d evicted, %d virtual and %d real addresses", told.Len(), evicted, len(told.virtual), len(told.real))
	}
	if n, ok := other.Name(kept); !ok || n != "kept.corp.example" {
		t.Error("another agent's name is gone")
	}
	if told.Virtual("a.corp.example") != a {
		t.Error("a name that comes back has another address")
	}
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// A real address stands for the names that the agent was told it for: those
// whose answers hold, newest first, and older ones when there are no others.
func TestRealAddressesAreRemembered(t *testing.T) {
	memory, now := newTold(maxTold, nil), time.Now()
	is := func(address string, want ...string) {
		t.Helper()
		if got := memory.Names(netip.MustParseAddr(address), now); !slices.Equal(got, want) {
			t.Errorf("%s is %v, want %v", address, got, want)
		}
	}
	memory.Tell("a.internal", addrs("192.0.2.1", "192.0.2.2"), now)
	now = now.Add(10 * time.Second)
	memory.Tell("b.internal", addrs("192.0.2.2", "2001:db8::2"), now)
	is("192.0.2.1", "a.internal")
	is("192.0.2.2", "b.internal", "a.internal")
	is("::ffff:192.0.2.2", "b.internal", "a.internal")
	is("2001:db8::2", "b.internal")
	is("192.0.2.3")
	now = now.Add(freshFor - 5*time.Second)
	is("192.0.2.2", "b.internal") // the other one's answer has expired
	is("192.0.2.1", "a.internal") // and so here, but there is no other
	memory.Tell("a.internal", addrs("192.0.2.2"), now)
	is("192.0.2.2", "a.internal", "b.internal")
	now = now.Add(remember - time.Second)
	is("192.0.2.1")
	is("192.0.2.2", "a.internal")
	now = now.Add(2 * time.Second)
	is("192.0.2.2")
	if len(memory.real) != 1 { // nobody asked for 2001:db8::2
		t.Errorf("%v are remembered", memory.real)
	}
	for i := range 3 * maxReal {
		memory.Tell("a.internal", []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}, now.Add(time.Duration(i)*time.Second))
	}
	if n := len(memory.names["a.internal"].Value.(*told).real); n != maxReal {
		t.Errorf("a name has %d addresses", n)
	}
}

func memory(t *testing.T, dir string, evicted func()) *Memory {
	t.Helper()
	m, err := OpenMemory(dir, slog.New(slog.DiscardHandler), evicted)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What agents were told is known after a restart: addresses and the way back.
func TestMemoryOutlivesTheDaemon(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "names"), time.Now()
	first := memory(t, dir, nil)
	told := first.Of("planner")
	a := told.Virtual("a.corp.example")
	told.Virtual("b.corp.example")
	// Two that collide: the address of the second depends on the first.
	taken := told.virtual[a]
	told.virtual[home("late.corp.example", wild4)] = taken
	late := told.Virtual("late.corp.example")
	delete(told.virtual, home("late.corp.example", wild4))
	told.Tell("real.internal", addrs("192.0.2.7", "2001:db8::7"), now)
	first.Of("coder").Virtual("a.corp.example")
	if first.Of("planner") != told {
		t.Fatal("an agent has two")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	first.Run(ctx) // the daemon stops
	st, err := os.Stat(filepath.Join(dir, "planner.json"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st, err)
	}

	second := memory(t, dir, nil)
	if err := second.Follow([]string{"planner"}); err != nil {
		t.Fatal(err)
	}
	told = second.Of("planner")
	for ip, want := range map[netip.Addr]string{a: "a.corp.example", within6(a): "a.corp.example", late: "late.corp.example"} {
		if n, ok := told.Name(ip); !ok || n != want {
			t.Errorf("%s is %q, want %q", ip, n, want)
		}
	}
	if told.Virtual("late.corp.example") != late || late == home("late.corp.example", wild4) {
		t.Error("a name that collided has moved")
	}
	if got := told.Names(netip.MustParseAddr("2001:db8::7"), now); !slices.Equal(got, []string{"real.internal"}) {
		t.Error(got)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 1 || second.Of("coder").Len() != 0 {
		t.Error("what an agent was told that is gone is kept:", entries)
	}
}

func TestMemoryIsSavedWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		m := memory(t, dir, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { m.Run(ctx) })
		m.Of("planner").Virtual("a.corp.example")
		time.Sleep(saveEvery + time.Millisecond)
		if memory(t, dir, nil).Of("planner").Len() != 1 {
			t.Error("not saved after", saveEvery)
		}
		cancel()
		running.Wait()
	})
}

// A damaged file is nothing that was told, and no error: clients ask again.
func TestDamagedMemory(t *testing.T) {
	good := `{"name":"a.corp.example","virtual":"198.19.0.7"}` + "\n"
	for name, text := range map[string]string{
		"noise": "noise", "cut": good + good[:20], "twice": good + good, "one address": good + strings.Replace(good, "a.corp", "b.corp", 1),
		"an address of ours":  strings.Replace(good, "198.19.0.7", "198.18.0.7", 1),
		"an address":          strings.Replace(good, "198.19.0.7", "192.0.2.7", 1),
		"no name":             strings.Replace(good, "a.corp", "a..corp", 1),
		"upper case":          strings.Replace(good, "a.corp", "A.corp", 1),
		"another key":         strings.Replace(good, "name", "nome", 1),
		"too many addresses":  `{"name":"a","real":{` + strings.TrimSuffix(strings.Join(many(maxReal+1), ","), ",") + `}}`,
		"not an address":      `{"name":"a","real":{"x":1}}`,
		"a number for a name": `{"name":1}`,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "planner.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if n := memory(t, dir, nil).Of("planner").Len(); n != 0 {
			t.Errorf("%s: %d names", name, n)
		}
	}
	// Times that cannot be, and addresses that were none when they were told.
	dir, soon := t.TempDir(), time.Now().Add(time.Hour).Unix()
	text := fmt.Sprintf(`{"name":"a","real":{"192.0.2.1":%d,"192.0.2.2":1,"198.18.0.1":%d}}`, soon, time.Now().Unix())
	if err := os.WriteFile(filepath.Join(dir, "planner.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if told := memory(t, dir, nil).Of("planner"); told.Len() != 1 || len(told.real) != 0 {
		t.Errorf("%v", told.real)
	}
}

func many(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf(`"192.0.2.%d":%d`, i, time.Now().Unix()))
	}
	return out
}

// Each agent has its share of all names, whatever the others take.
func TestShares(t *testing.T) {
	m := memory(t, t.TempDir(), nil)
	agents := make([]string, 4096)
	for i := range agents {
		agents[i] = fmt.Sprintf("agent%d", i)
	}
	if err := m.Follow(agents); err != nil {
		t.Fatal(err)
	}
	told := m.Of("agent7")
	for i := range 100 {
		told.Virtual(fmt.Sprintf("n%d.corp.example", i))
	}
	if want := maxToldInAll / len(agents); told.Len() != want {
		t.Errorf("%d names, want %d", told.Len(), want)
	}
	if err := m.Follow(agents[:10]); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxTold {
		told.Virtual(fmt.Sprintf("n%d.corp.example", i))
	}
	if told.Len() != maxTold {
		t.Errorf("%d names, want %d", told.Len(), maxTold)
	}
	for _, odd := range []string{"..", "a/../b", "x.json.new", "."} {
		if at := m.file(odd); filepath.Dir(at) != m.dir {
			t.Errorf("%q is kept at %s", odd, at)
		}
	}
}

// A lookup outside is made once for all that wait for it, its result holds for
// as long as was said, and there are so many per second.
func TestLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLookups()
		var made atomic.Int32
		fail := errors.New("no answer")
		ask := func(_ context.Context, name string, _ bool) ([]netip.Addr, error) {
			made.Add(1)
			time.Sleep(time.Second)
			if strings.HasPrefix(name, "bad") {
				return nil, fail
			}
			return addrs("192.0.2.1"), nil
		}
		look := func(name string) error { _, err := l.of(t.Context(), lookupKey{name, false}, ask); return err }
		var waiting sync.WaitGroup
		for range 50 {
			waiting.Go(func() {
				if err := look("a"); err != nil {
					t.Error(err)
				}
			})
		}
		waiting.Wait()
		if err := look("a"); err != nil || made.Load() != 1 {
			t.Errorf("%d lookups, %v", made.Load(), err)
		}
		time.Sleep(ttl*time.Second + time.Second)
		look("a")
		look("bad")
		look("bad")
		if made.Load() != 3 {
			t.Errorf("%d lookups", made.Load())
		}
		time.Sleep((negativeTTL + 1) * time.Second)
		if err := look("bad"); !errors.Is(err, fail) || made.Load() != 4 {
			t.Errorf("%d lookups, %v", made.Load(), err)
		}
		// Who does not want to wait any more does not.
		hang := make(chan struct{})
		waiting.Go(func() {
			l.of(t.Context(), lookupKey{"slow", true}, func(context.Context, string, bool) ([]netip.Addr, error) { <-hang; return nil, io.EOF })
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.of(ctx, lookupKey{"slow", true}, ask); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		close(hang)
		waiting.Wait()
	})
}

// A tunnel asks for another name each time: so many lookups leave the host, and
// no more results are kept.
func TestLookupsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLookups()
		made, refused := 0, 0
		none := func(context.Context, string, bool) ([]netip.Addr, error) { made++; return nil, io.EOF }
		for i := range 10 * lookupBurst {
			if _, err := l.of(t.Context(), lookupKey{fmt.Sprint(i), false}, none); errors.Is(err, errRate) {
				refused++
			}
		}
		if made != lookupBurst || refused != 9*lookupBurst || len(l.byKey) > maxCached {
			t.Errorf("%d lookups, %d refused, %d kept", made, refused, len(l.byKey))
		}
		for i := range 3 * maxCached {
			time.Sleep(time.Second / lookupsPerSecond)
			l.of(t.Context(), lookupKey{fmt.Sprint("n", i), false}, none)
		}
		if len(l.byKey) > maxCached {
			t.Errorf("%d results are kept", len(l.byKey))
		}
	})
}
