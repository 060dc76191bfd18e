package recording

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// maxPause bounds the wait between two events of a replay, so that a session
// left open over lunch does not have to be watched that long.
const maxPause = 5 * time.Second

// Play calls f with every event of r, from where r stands to its end, at the
// pace at which they were recorded: speed times as fast, or without any pause
// when speed is 0. No pause is longer than five seconds. It ends with ctx, with
// an error of f or of the recording, or at the end of what is written, which is
// no error.
func Play(ctx context.Context, r *Reader, speed float64, f func(Event) error) error {
	if !(speed >= 0) { // NaN too
		return fmt.Errorf("%g is no speed: 1 is the pace it had, 0 shows all at once", speed)
	}
	var last time.Time
	for {
		ev, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if speed > 0 && !last.IsZero() {
			// Bounded as a float: a slow speed makes more than a Duration holds.
			pause := time.Duration(min(float64(ev.Time.Sub(last))/speed, float64(maxPause)))
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			}
		}
		last = ev.Time
		if err := f(ev); err != nil {
			return err
		}
	}
}
