package recording

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// events a second apart, as chain.add makes them.
func played(t *testing.T, speed float64) (at []time.Duration) {
	t.Helper()
	began := time.Now()
	r := reader(t, newChain(SessionFile, 1).add(&Verdict{}, &Verdict{}, &Verdict{}).b)
	must(t, Play(t.Context(), r, Pace{Speed: speed}, func(Event) error {
		at = append(at, time.Since(began))
		return nil
	}))
	return at
}

func TestPlayKeepsThePace(t *testing.T) {
	for speed, pause := range map[float64]time.Duration{
		1: time.Second, 2: time.Second / 2, 0.5: 2 * time.Second, 0: 0, math.Inf(1): 0,
		0.01: DefaultIdle, 1e-300: DefaultIdle, // more than a time.Duration holds
	} {
		synctest.Test(t, func(t *testing.T) {
			at := played(t, speed)
			if len(at) != 3 || at[0] != 0 || at[1] != pause || at[2] != 2*pause {
				t.Errorf("at speed %g the events come at %v", speed, at)
			}
		})
	}
}

func TestPlayRefusesNoSpeed(t *testing.T) {
	for _, speed := range []float64{-1, math.NaN(), math.Inf(-1)} {
		r := reader(t, newChain(SessionFile, 1).add(&Verdict{}).b)
		err := Play(t.Context(), r, Pace{Speed: speed}, func(Event) error { t.Error("an event at speed", speed); return nil })
		if err == nil {
			t.Error("no error at speed", speed)
		}
	}
}

// A clock that was set back does not stop the replay.
func TestPlayBackwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChain(SessionFile, 1).add(&Verdict{})
		frame, _ := EndFrame((&Verdict{}).AppendTo(BeginFrame(nil, c.head, KindVerdict, moment.Add(-time.Hour))))
		n := 0
		must(t, Play(t.Context(), reader(t, append(c.b, frame[hashSize:]...)), Pace{Speed: 1}, func(Event) error { n++; return nil }))
		if n != 2 {
			t.Error(n, "events")
		}
	})
}

func TestPlayEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := newChain(SessionFile, 1).add(&Verdict{}, &Verdict{}).b
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		n := 0
		if err := Play(ctx, reader(t, file), Pace{Speed: 1}, func(Event) error { n++; return nil }); !errors.Is(err, context.DeadlineExceeded) || n != 1 {
			t.Error("with its context:", err, n)
		}
		if err := Play(ctx, reader(t, file), Pace{}, func(Event) error { n++; return nil }); !errors.Is(err, context.DeadlineExceeded) || n != 1 {
			t.Error("at once, with its context:", err, n)
		}
		stop := errors.New("enough")
		if err := Play(t.Context(), reader(t, file), Pace{Speed: 1}, func(Event) error { return stop }); err != stop {
			t.Error("with the caller:", err)
		}
		bad := append(file, 0, 0, 0, 1)
		if err := Play(t.Context(), reader(t, bad), Pace{}, func(Event) error { return nil }); !errors.As(err, new(*BrokenError)) {
			t.Error("with the file:", err)
		}
	})
}

// No pause is longer than is wanted, and each is the caller's where it waits.
func TestPlayIdle(t *testing.T) {
	file := newChain(SessionFile, 1).add(&Verdict{}, &Verdict{}, &Verdict{}).b
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		must(t, Play(t.Context(), reader(t, file), Pace{Speed: 1, Idle: time.Second / 4}, func(Event) error { return nil }))
		if took := time.Since(began); took != time.Second/2 {
			t.Error("it took", took)
		}
	})
	var pauses []time.Duration
	stop := errors.New("enough")
	n := 0
	err := Play(t.Context(), reader(t, file), Pace{Speed: 2, Wait: func(_ context.Context, d time.Duration) error {
		if pauses = append(pauses, d); len(pauses) == 2 {
			return stop
		}
		return nil
	}}, func(Event) error { n++; return nil })
	if err != stop || n != 2 || len(pauses) != 2 || pauses[0] != time.Second/2 {
		t.Error(err, n, pauses)
	}
}
