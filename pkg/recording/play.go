package recording

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// DefaultIdle is the longest pause between two events of a replay, so that a
// session left open over lunch does not have to be watched that long.
const DefaultIdle = 5 * time.Second

// Pace is how fast events are played.
type Pace struct {
	Speed float64       // how many times as fast as they were recorded; 0: without any pause
	Idle  time.Duration // no pause is longer; 0: DefaultIdle
	// Wait is called for every pause, also for one of no length; nil: it is slept
	// through. An error of it ends the replay.
	Wait func(context.Context, time.Duration) error
}

// Source is where events come from: a Reader, or what passes over some of one.
type Source interface {
	Next() (Event, error) // io.EOF: there are no more
}

// Play calls f with every event of from, to its end, at a pace. It ends with ctx,
// with an error of f or of the recording, or at the end of what is written, which
// is no error.
func Play(ctx context.Context, from Source, p Pace, f func(Event) error) error {
	if !(p.Speed >= 0) { // NaN too
		return fmt.Errorf("%g is no speed: 1 is the pace it had, 0 shows all at once", p.Speed)
	}
	if p.Idle == 0 {
		p.Idle = DefaultIdle
	}
	if p.Wait == nil {
		p.Wait = sleep
	}
	var last time.Time
	for {
		ev, err := from.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if p.Speed > 0 && !last.IsZero() {
			// Bounded as a float: a slow speed makes more than a Duration holds.
			pause := min(float64(ev.Time.Sub(last))/p.Speed, float64(p.Idle))
			if err := p.Wait(ctx, time.Duration(max(pause, 0))); err != nil {
				return err
			}
		}
		last = ev.Time
		if err := f(ev); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
