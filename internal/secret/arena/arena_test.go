package arena

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/secret"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newArena(t testing.TB, size int) *Arena {
	t.Helper()
	a, err := New(size)
	must(t, err)
	t.Cleanup(func() { must(t, a.Close()) })
	return a
}

func put(t testing.TB, a *Arena, value string) secret.Secret {
	t.Helper()
	s, err := a.Put([]byte(value))
	must(t, err)
	return s
}

// A value moves in, and out when it is wiped; wiped once or twice, in the hands
// of whoever has a copy of the Secret, it is empty and its neighbour is not.
func TestPutAndWipe(t *testing.T) {
	a := newArena(t, 1)
	b := []byte("canary")
	s, err := a.Put(b)
	must(t, err)
	if !bytes.Equal(b, make([]byte, 6)) {
		t.Errorf("the caller's copy is %q", b)
	}
	twin, neighbour := s, put(t, a, "neighbour")
	if !s.Equal([]byte("canary")) || cap(s.Reveal()) != 6 {
		t.Errorf("it is %q, with room for %d", s.Reveal(), cap(s.Reveal()))
	}
	if text := fmt.Sprintf("%v %+v %#v %d", s, s, s, s); strings.Contains(text, "canary") || strings.Contains(text, "99 97") {
		t.Error("it prints as", text)
	}
	seen := s.Reveal()
	s.Wipe()
	if !s.Empty() || !twin.Empty() || !bytes.Equal(seen, make([]byte, 6)) {
		t.Errorf("wiped, it is %q, %q, and %q in memory", s.Reveal(), twin.Reveal(), seen)
	}
	again := put(t, a, "again")
	s.Wipe()
	twin.Wipe()
	if !again.Equal([]byte("again")) || !neighbour.Equal([]byte("neighbour")) {
		t.Errorf("a second wipe hit others: %q, %q", again.Reveal(), neighbour.Reveal())
	}
	if &again.Reveal()[0] != &seen[0] {
		t.Error("the gap was not used again")
	}
}

func TestEmptyValue(t *testing.T) {
	a := newArena(t, 1)
	free := a.Free()
	s := put(t, a, "")
	s.Wipe()
	if !s.Empty() || a.Free() != free {
		t.Errorf("%q, %d bytes of %d are left", s.Reveal(), a.Free(), free)
	}
}

// What does not fit stays with the caller; what is wiped makes room.
func TestFull(t *testing.T) {
	a := newArena(t, 1)
	page := a.Free()
	big := []byte(strings.Repeat("x", page+1))
	if s, err := a.Put(big); !errors.Is(err, ErrFull) || !s.Empty() || big[0] != 'x' {
		t.Errorf("%v, %q", err, big[:1])
	}
	var held []secret.Secret
	for range page / grain {
		held = append(held, put(t, a, "x"))
	}
	if _, err := a.Put([]byte("y")); !errors.Is(err, ErrFull) || a.Free() != 0 {
		t.Errorf("%v, %d bytes are free", err, a.Free())
	}
	held[7].Wipe()
	held[9].Wipe()
	if _, err := a.Put(make([]byte, grain+1)); !errors.Is(err, ErrFull) {
		t.Error("two gaps that do not touch held a value longer than each:", err)
	}
	held[8].Wipe()
	put(t, a, strings.Repeat("z", 3*grain))
	if a.Free() != 0 {
		t.Error(a.Free(), "bytes are free")
	}
}

func TestSizes(t *testing.T) {
	for _, size := range []int{-1, 0, MaxSize + 1} {
		if _, err := New(size); !errors.Is(err, ErrSize) {
			t.Errorf("%d: %v", size, err)
		}
	}
}

func TestClose(t *testing.T) {
	a, err := New(1)
	must(t, err)
	s := put(t, a, "x")
	must(t, a.Close())
	must(t, a.Close())
	s.Wipe()
	if _, err := a.Put([]byte("y")); !s.Empty() || !errors.Is(err, ErrFull) {
		t.Errorf("%q, %v", s.Reveal(), err)
	}
}

// The next best way is taken, and what was wrong with the better ones is said.
func TestFallback(t *testing.T) {
	broken := func(int) ([]byte, error) { return nil, limited(unix.EAGAIN) }
	all := ways()
	for n := range all {
		tried := ways()
		for i := range n {
			tried[i].open = broken
		}
		a, err := open(1, tried)
		must(t, err)
		kind, why := a.Kind()
		if kind != all[n].kind || (why == nil) != (n == 0) || (n > 0 && !errors.Is(why, unix.EAGAIN)) {
			t.Errorf("after %d failures: %s, %v", n, kind, why)
		}
		for i := range n {
			if !strings.Contains(why.Error(), all[i].kind.String()) {
				t.Errorf("%v does not name %s", why, all[i].kind)
			}
		}
		if s := put(t, a, "value"); !s.Equal([]byte("value")) {
			t.Errorf("%s: %q", kind, s.Reveal())
		}
		must(t, a.Close())
	}
	if _, err := open(1, []way{{Hidden, broken}}); !errors.Is(err, unix.EAGAIN) {
		t.Error("no way works:", err)
	}
}

// Many goroutines put, read and wipe; nobody sees another's value.
func TestAtOnce(t *testing.T) {
	a := newArena(t, DefaultSize)
	free := a.Free()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 300 {
				want := strings.Repeat(string(rune('a'+i)), 1+n%100)
				s, err := a.Put([]byte(want))
				if err != nil || !s.Equal([]byte(want)) {
					t.Errorf("%v, %q, want %q", err, s.Reveal(), want)
					return
				}
				all.Go(s.Wipe)
				s.Wipe()
			}
		})
	}
	all.Wait()
	if a.Free() != free {
		t.Errorf("%d bytes of %d came back", a.Free(), free)
	}
}

// FuzzArena: whatever is put and wiped in whatever order, what lives is intact,
// what is free is zero, and everything comes back as one gap.
func FuzzArena(f *testing.F) {
	f.Add(uint64(1), []byte{1, 200, 3, 0, 0, 255, 16, 17, 15, 0})
	f.Add(uint64(2), bytes.Repeat([]byte{255, 0, 16, 0, 1}, 100))
	f.Fuzz(func(t *testing.T, seed uint64, steps []byte) {
		// Not locked, so that the limit on that is not what is tested.
		a, err := open(1, []way{{Undumped, undumped}})
		must(t, err)
		defer a.Close()
		type held struct {
			secret secret.Secret
			want   []byte
		}
		var live []held
		random := rand.New(rand.NewPCG(seed, 0))
		for i, step := range steps {
			if step == 0 && len(live) > 0 {
				n := random.IntN(len(live))
				live[n].secret.Wipe()
				live = append(live[:n], live[n+1:]...)
			} else {
				want := bytes.Repeat([]byte{byte(i) | 1}, int(step)*(1+random.IntN(4)))
				s, err := a.Put(bytes.Clone(want))
				if err != nil && !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
				if err == nil {
					live = append(live, held{s, want})
				}
			}
			for _, h := range live {
				if !h.secret.Equal(h.want) {
					t.Fatalf("step %d: a value of %d bytes is damaged", i, len(h.want))
				}
			}
			for _, g := range a.gaps {
				if !bytes.Equal(a.memory[g.offset:g.offset+g.length], make([]byte, g.length)) {
					t.Fatalf("step %d: free memory is not zero", i)
				}
			}
		}
		for _, h := range live {
			h.secret.Wipe()
		}
		if len(a.gaps) != 1 || a.gaps[0] != (span{0, len(a.memory)}) {
			t.Errorf("the gaps are %v", a.gaps)
		}
	})
}
