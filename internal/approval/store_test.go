package approval

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func anAsk() Ask {
	return Ask{
		Run: "run-1", Agent: "planner", Target: "orders", Form: "query", Text: "DELETE FROM orders", Params: []Param{{Value: []byte("1")}},
		Context: "role=app", Session: "s1", Request: 1, Rule: "writes", Approvers: []string{"dba"}, Effects: []string{"delete public.orders"},
		Within: 10 * time.Minute,
	}
}

var yes = Vote{Group: "dba", By: "ada"}

// waiter is a Submit that runs.
type waiter struct {
	t       *testing.T
	cancel  context.CancelCauseFunc
	noticed Approval
	done    chan struct{}
	got     Decision
	err     error
}

// submit starts a Submit and returns once it waits, or is over.
func submit(t *testing.T, s *Store, a Ask) *waiter {
	ctx, cancel := context.WithCancelCause(t.Context())
	w := &waiter{t: t, cancel: cancel, done: make(chan struct{})}
	a.Notify = func(v Approval) { w.noticed = v }
	go func() {
		defer close(w.done)
		w.got, w.err = s.Submit(ctx, a)
	}()
	synctest.Wait()
	return w
}

func (w *waiter) waits() {
	w.t.Helper()
	synctest.Wait()
	select {
	case <-w.done:
		w.t.Fatalf("it does not wait: %+v, %v", w.got, w.err)
	default:
	}
}

// ends returns the error of a Submit that is over now.
func (w *waiter) ends() error {
	w.t.Helper()
	synctest.Wait()
	select {
	case <-w.done:
		return w.err
	default:
		w.t.Fatal("it still waits")
		return nil
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// states is all that OnChange was told, as "id state".
type states struct {
	mu   sync.Mutex
	list []string
}

func (s *states) told(a Approval) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, string(a.State))
}

func (s *states) are(t *testing.T, want string) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := strings.Join(s.list, " "); got != want {
		t.Errorf("the states were %q, want %q", got, want)
	}
}

func TestStates(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(t *testing.T, s *Store, w *waiter)
		err  error
		told string
	}{
		"approved": {func(t *testing.T, s *Store, w *waiter) { must(t, s.Approve(w.noticed.ID, yes)) }, nil, "pending approved consumed"},
		"approved, the id in capitals": {
			func(t *testing.T, s *Store, w *waiter) { must(t, s.Approve(strings.ToUpper(w.noticed.ID), yes)) },
			nil, "pending approved consumed",
		},
		"denied":    {func(t *testing.T, s *Store, w *waiter) { must(t, s.Deny(w.noticed.ID, yes)) }, ErrDenied, "pending denied"},
		"expired":   {func(*testing.T, *Store, *waiter) { time.Sleep(10 * time.Minute) }, ErrExpired, "pending expired"},
		"withdrawn": {func(_ *testing.T, _ *Store, w *waiter) { w.cancel(ErrWithdrawn) }, ErrWithdrawn, "pending withdrawn"},
		"gone":      {func(_ *testing.T, _ *Store, w *waiter) { w.cancel(errors.New("reset")) }, errors.New("reset"), "pending"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told states
				s := New(Options{OnChange: told.told})
				w := submit(t, s, anAsk())
				if w.noticed.State != Pending || len(w.noticed.ID) != 8 || w.noticed.Waiting != 1 {
					t.Errorf("noticed %+v", w.noticed)
				}
				time.Sleep(time.Minute)
				w.waits()
				c.do(t, s, w)
				if err := w.ends(); !errors.Is(err, c.err) && fmt.Sprint(err) != fmt.Sprint(c.err) {
					t.Error("the error is", err)
				}
				told.are(t, c.told)
				// What is over cannot be decided again, nor brought back.
				if c.err == nil || errors.Is(c.err, ErrDenied) || errors.Is(c.err, ErrExpired) || errors.Is(c.err, ErrWithdrawn) {
					for what, err := range map[string]error{"approved": s.Approve(w.noticed.ID, yes), "denied": s.Deny(w.noticed.ID, yes)} {
						if !errors.Is(err, ErrDecided) {
							t.Errorf("%s after the end: %v", what, err)
						}
					}
				}
				if all := s.List(); len(all) != 1 || all[0].Waiting != 0 {
					t.Errorf("%+v", all)
				}
			})
		})
	}
}

// A person's no and nobody's are told apart, with the words of the one.
func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		w := submit(t, s, anAsk())
		must(t, s.Deny(w.noticed.ID, Vote{Group: "dba", By: "ada", Reason: "not now"}))
		var no *Refusal
		if err := w.ends(); !errors.As(err, &no) || no.By != "ada" || no.Reason != "not now" || no.ID != w.noticed.ID || errors.Is(err, ErrExpired) {
			t.Error("denied:", err)
		}
		w = submit(t, s, anAsk())
		time.Sleep(time.Hour)
		if err := w.ends(); !errors.As(err, &no) || no.By != "" || errors.Is(err, ErrDenied) {
			t.Error("expired:", err)
		}
	})
}

// However many identical requests wait or come, an approval lets one through.
func TestSingleUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told states
		s := New(Options{OnChange: told.told})
		var all []*waiter
		for range 50 {
			all = append(all, submit(t, s, anAsk()))
		}
		if list := s.List(); len(list) != 1 || list[0].Waiting != 50 {
			t.Fatalf("%d approvals, of which the first has %d that wait", len(list), list[0].Waiting)
		}
		must(t, s.Approve(all[0].noticed.ID, yes))
		through := 0
		for _, w := range all {
			switch err := w.ends(); {
			case err == nil && w.got.ID == w.noticed.ID && len(w.got.Votes) == 1:
				through++
			case !errors.Is(err, ErrConsumed):
				t.Error("another ends with", err)
			}
		}
		if through != 1 {
			t.Errorf("%d requests went through", through)
		}
		told.are(t, "pending approved consumed")
		again := submit(t, s, anAsk())
		again.waits()
		if again.noticed.ID == all[0].noticed.ID {
			t.Error("a later request finds the used approval")
		}
	})
}

// The same with real threads and an approver in the midst of them.
func TestSingleUseRace(t *testing.T) {
	s := New(Options{PerAgent: 1000, Total: 1000})
	for round := range 50 {
		ask := anAsk()
		ask.Request = uint64(round)
		ask.Text = fmt.Sprint("round ", round)
		var through atomic.Int32
		var all sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for range 8 {
			all.Go(func() {
				if _, err := s.Submit(ctx, ask); err == nil {
					through.Add(1)
					cancel() // those that came too late for this approval wait for one that never is
				}
			})
		}
		for range 2 {
			all.Go(func() {
				for ctx.Err() == nil {
					for _, a := range s.List() {
						if a.State == Pending && a.Text == ask.Text && s.Approve(a.ID, yes) == nil {
							return
						}
					}
				}
			})
		}
		all.Wait()
		cancel()
		if n := through.Load(); n < 1 || n > 2 { // two approvers, two approvals at most
			t.Fatalf("%d requests went through", n)
		}
		used := 0
		for _, a := range s.List() {
			if a.Text == ask.Text && a.State == Consumed {
				used++
			}
		}
		if used != int(through.Load()) {
			t.Fatalf("%d requests went through, %d approvals were used", through.Load(), used)
		}
	}
}

// A client that is gone leaves its approval to a retry: while it is pending,
// and after it was approved.
func TestRetryAttaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		first := submit(t, s, anAsk())
		first.cancel(errors.New("reset"))
		first.ends()
		again := anAsk()
		again.Session, again.Request = "s2", 7
		second := submit(t, s, again)
		second.waits()
		if second.noticed.ID != first.noticed.ID || second.noticed.Session != "s2" || second.noticed.Request != 7 {
			t.Errorf("the retry has %+v", second.noticed)
		}
		second.cancel(errors.New("reset"))
		second.ends()
		must(t, s.Approve(first.noticed.ID, yes))
		time.Sleep(DefaultExecute - time.Second)
		third := submit(t, s, anAsk())
		if err := third.ends(); err != nil || third.got.ID != first.noticed.ID || third.noticed.ID != "" {
			t.Errorf("after the approval: %+v, %v", third.got, err)
		}
	})
}

// An approval that nobody uses in time is worth nothing.
func TestUnusedApprovalExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told states
		s := New(Options{OnChange: told.told})
		first := submit(t, s, anAsk())
		first.cancel(errors.New("reset"))
		first.ends()
		must(t, s.Approve(first.noticed.ID, yes))
		time.Sleep(DefaultExecute)
		second := submit(t, s, anAsk())
		second.waits()
		if second.noticed.ID == first.noticed.ID {
			t.Error("the expired approval is found")
		}
		told.are(t, "pending approved expired pending")
	})
}

// A request that is taken back ends the approval only if no other waits.
func TestWithdrawLeavesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		first, second := submit(t, s, anAsk()), submit(t, s, anAsk())
		first.cancel(ErrWithdrawn)
		first.ends()
		second.waits()
		must(t, s.Approve(second.noticed.ID, yes))
		must(t, second.ends())
	})
}

// A context that is over bothers nobody.
func TestSubmitTooLate(t *testing.T) {
	var told states
	s := New(Options{OnChange: told.told})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Submit(ctx, anAsk()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(s.List())+len(told.list) > 0 {
		t.Error("an approval was made:", s.List(), told.list)
	}
}
