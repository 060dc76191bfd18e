package guard

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestShift: who hands over waits for those that are inside, turns others away, and
// gives up in time; ends wait for nobody but a handing over that is under way.
func TestShift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shift
		if !s.enter() {
			t.Fatal("an open one was not entered")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := s.close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with somebody inside: %v", err)
		}
		cancel()
		if !s.enter() {
			t.Error("it was given up, and is not open")
		}
		s.leave()

		closed := make(chan error)
		go func() { closed <- s.close(t.Context()) }()
		synctest.Wait()
		if s.enter() {
			t.Error("somebody came in who would be waited for")
		}
		s.enterLate() // an end is not kept waiting for what has not begun
		s.leave()
		s.leave()
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
		came := make(chan string, 2)
		go func() { s.enterLate(); came <- "end" }()
		go func() { s.enterNext(); came <- "next" }()
		synctest.Wait()
		if len(came) != 0 || s.enter() {
			t.Error("somebody came in while it was closed")
		}
		s.open()
		<-came
		<-came
		if s.inside != 2 {
			t.Errorf("%d are inside", s.inside)
		}
	})
}
