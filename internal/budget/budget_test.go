package budget

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// clock is a clock that a test moves.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func newClock() *clock { return &clock{time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)} }

func hourly(most Amounts) []Limit {
	return []Limit{{Name: "hourly", Target: "*", Per: time.Hour, Most: most, AskAt: 80}}
}

func TestStates(t *testing.T) {
	c := newClock()
	a := NewLedger(c.now).Account("planner", "orders", hourly(Amounts{Statements: 10}))
	one := Amounts{Statements: 1}
	for n := range 12 {
		want := Free
		switch {
		case n >= 10:
			want = Spent
		case n >= 8:
			want = Asks
		}
		got := Free
		s := a.Look(one)
		if s != nil {
			got = s.State
		}
		if got != want {
			t.Errorf("with %d of 10 used: %v instead of %v", n, got, want)
		}
		if refused := a.Take(one); (refused != nil) != (want == Spent) {
			t.Errorf("with %d of 10 used: taking one: %v", n, refused)
		}
	}
	if used := a.Standings()[0].Used[Statements]; used != 10 {
		t.Errorf("%d are used: what was refused counts", used)
	}
}

// Nothing is taken of one limit when another has not enough.
func TestAllOrNothing(t *testing.T) {
	c := newClock()
	a := NewLedger(c.now).Account("planner", "orders", []Limit{
		{Name: "wide", Target: "*", Per: time.Hour, Most: Amounts{Rows: 100}},
		{Name: "narrow", Target: "orders", Per: time.Minute, Most: Amounts{Rows: 3}},
		{Name: "elsewhere", Target: "other", Per: time.Minute, Most: Amounts{Rows: 1}},
	})
	if s := a.Take(Amounts{Rows: 4}); s == nil || s.Limit.Name != "narrow" || s.Index != 1 || s.Kind != Rows {
		t.Errorf("%+v", s)
	}
	if s := a.Take(Amounts{Rows: 3}); s != nil {
		t.Errorf("%+v", s)
	}
	for _, s := range a.Standings() {
		if s.Used[Rows] != 3 {
			t.Errorf("%s: %d are used", s.Limit.Name, s.Used[Rows])
		}
	}
}

// In no window of the limit's length is more taken than the limit, however the
// taking is spread; and what was taken is free again a part after it has left.
func TestSlides(t *testing.T) {
	const most, per = 50, time.Hour
	c := newClock()
	a := NewLedger(c.now).Account("planner", "orders", hourly(Amounts{Rows: most}))
	random := rand.New(rand.NewPCG(1, 2))
	var taken []time.Time
	for range 20_000 {
		c.Time = c.Add(time.Duration(random.Int64N(int64(2 * time.Minute))))
		refused := a.Take(Amounts{Rows: 1})
		if refused == nil {
			taken = append(taken, c.Time)
		}
		within := func(d time.Duration) (n int64) {
			for i := len(taken) - 1; i >= 0 && c.Sub(taken[i]) < d; i-- {
				n++
			}
			return n
		}
		if n := within(per); n > most {
			t.Fatalf("%d were taken within %v", n, per)
		}
		if refused != nil && within(per+per/slots) < most {
			t.Fatalf("refused with %d of %d taken", within(per+per/slots), most)
		}
		if refused != nil && (refused.Frees <= 0 || refused.Frees > per+per/slots) {
			t.Fatalf("free again in %v", refused.Frees)
		}
	}
	c.Time = c.Add(a.Standings()[0].Frees)
	if s := a.Standings()[0]; s.Used[Rows] >= most {
		t.Error("nothing was free again when it was said to be")
	}
	c.Time = c.Add(-24 * time.Hour) // a clock that is set back frees nothing
	before := a.Standings()[0].Used
	c.Time = c.Add(time.Hour)
	if after := a.Standings()[0].Used; after != before {
		t.Errorf("%v became %v", before, after)
	}
}

// A budget whose window becomes another keeps what is within both, and never
// forgets anything early.
func TestAnotherWindowKeepsCounts(t *testing.T) {
	for _, per := range []time.Duration{time.Minute, 30 * time.Minute, 7 * time.Hour} {
		c := newClock()
		l := NewLedger(c.now)
		limits := hourly(Amounts{Writes: 100})
		a := l.Account("planner", "orders", limits)
		a.Take(Amounts{Writes: 5})
		c.Time = c.Add(20 * time.Minute)
		a.Take(Amounts{Writes: 2})
		limits[0].Per = per
		want := int64(7)
		if per < 20*time.Minute {
			want = 2
		}
		b := l.Account("planner", "orders", limits)
		if got := b.Standings()[0].Used[Writes]; got != want {
			t.Errorf("%v: %d instead of %d", per, got, want)
		}
		if other := l.Account("other", "orders", limits).Standings()[0].Used; other != (Amounts{}) {
			t.Errorf("another agent has used %v", other)
		}
	}
}

func TestSurvivesOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "budgets.json")
	c := newClock()
	l := NewLedger(c.now)
	if err := l.Load(path); err != nil {
		t.Fatal(err)
	}
	limits := hourly(Amounts{Statements: 10, Bytes: 1 << 20})
	l.Account("planner", "orders", limits).Take(Amounts{Statements: 4, Bytes: 100})
	c.Time = c.Add(30 * time.Minute)
	l.Account("planner", "orders", limits).Owe(Amounts{Statements: 1})
	over, cancel := context.WithCancel(t.Context())
	cancel()
	l.Run(over, path, func(err error) { t.Error(err) })

	again := NewLedger(c.now)
	if err := again.Load(path); err != nil {
		t.Fatal(err)
	}
	a := again.Account("planner", "orders", limits)
	if got := a.Standings()[0].Used; got != (Amounts{Statements: 5, Bytes: 100}) {
		t.Errorf("%v", got)
	}
	c.Time = c.Add(32 * time.Minute)
	if got := a.Standings()[0].Used; got != (Amounts{Statements: 1}) {
		t.Errorf("%v after what is old has left", got)
	}
	if err := os.WriteFile(path, []byte(`{"planner":{"hourly":{}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := again.Load(path); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged file is read: %v", err)
	}
}

func TestHint(t *testing.T) {
	c := newClock()
	a := NewLedger(c.now).Account("planner", "orders", hourly(Amounts{Statements: 3, Bytes: 3 << 20}))
	a.Take(Amounts{Statements: 3, Bytes: 1 << 20})
	got := a.Take(Amounts{Statements: 1}).String()
	want := "budget hourly has 0 of 3 statements, 2.0 MiB of 3.0 MiB bytes left within 1h; some of it is free again in "
	if !strings.HasPrefix(got, want) {
		t.Errorf("%q", got)
	}
	var none *Account
	if none.Look(Amounts{1}) != nil || none.Take(Amounts{1}) != nil || none.Standings() != nil {
		t.Error("the nil account has limits")
	}
	none.Owe(Amounts{1})
}
