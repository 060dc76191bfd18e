package approval

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestVotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		a := anAsk()
		a.ReasonRequired = true
		w := submit(t, s, a)
		id := w.noticed.ID
		for _, c := range []struct {
			id   string
			vote Vote
			want error
		}{
			{"00000000", yes, ErrUnknown},
			{id, Vote{Group: "dba", Reason: "r"}, ErrNoApprover},
			{id, Vote{Group: "security", By: "eve", Reason: "r"}, ErrNotAsked},
			{id, yes, ErrNoReason},
			{id, Vote{Group: "dba", By: "ada", Reason: " \t\n"}, ErrNoReason},
		} {
			if err := s.Approve(c.id, c.vote); !errors.Is(err, c.want) {
				t.Errorf("approve %+v: %v, want %v", c.vote, err, c.want)
			}
			if err := s.Deny(c.id, c.vote); !errors.Is(err, c.want) {
				t.Errorf("deny %+v: %v, want %v", c.vote, err, c.want)
			}
		}
		w.waits()
		must(t, s.Approve(id, Vote{Group: "dba", By: "ada", Reason: "ticket 7"}))
		must(t, w.ends())
		if v := w.got.Votes; len(v) != 1 || v[0].By != "ada" || v[0].Reason != "ticket 7" || !v[0].At.Equal(time.Now()) {
			t.Errorf("%+v", v)
		}
	})
}

// Each of several groups has to approve, once; one no is enough.
func TestSeveralGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told states
		s := New(Options{OnChange: told.told})
		a := anAsk()
		a.Approvers = []string{"dba", "security"}
		w := submit(t, s, a)
		must(t, s.Approve(w.noticed.ID, yes))
		w.waits()
		if err := s.Approve(w.noticed.ID, yes); !errors.Is(err, ErrDecided) {
			t.Error("a group approves twice:", err)
		}
		w.waits()
		if v := s.List()[0]; v.State != Pending || fmt.Sprint(v.Missing()) != "[security]" {
			t.Errorf("%+v", v)
		}
		must(t, s.Approve(w.noticed.ID, Vote{Group: "security", By: "sam"}))
		must(t, w.ends())
		if len(w.got.Votes) != 2 {
			t.Errorf("%+v", w.got)
		}
		told.are(t, "pending pending approved consumed")

		w = submit(t, s, a)
		must(t, s.Approve(w.noticed.ID, yes))
		must(t, s.Deny(w.noticed.ID, yes)) // who approved may think again
		if err := w.ends(); !errors.Is(err, ErrDenied) {
			t.Error(err)
		}

		w = submit(t, s, a)
		must(t, s.Approve(w.noticed.ID, yes))
		must(t, s.Approve(w.noticed.ID, Vote{By: "root"})) // for the rest
		must(t, w.ends())
		if v := w.got.Votes; len(v) != 2 || v[1].Group != "security" || v[1].By != "root" || !v[1].At.Equal(time.Now()) {
			t.Errorf("%+v", v)
		}
	})
}

// An approver's yes that comes at the very end is too late.
func TestApproveTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		w := submit(t, s, anAsk())
		w.cancel(errors.New("reset"))
		w.ends()
		time.Sleep(10 * time.Minute)
		if err := s.Approve(w.noticed.ID, yes); !errors.Is(err, ErrDecided) {
			t.Error(err)
		}
	})
}

func TestCaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{PerAgent: 2, Total: 3})
		ask := func(agent string, n int) *waiter {
			a := anAsk()
			a.Agent, a.Text = agent, fmt.Sprint(n)
			return submit(t, s, a)
		}
		first := ask("planner", 1)
		ask("planner", 2).waits()
		if err := ask("planner", 3).ends(); !errors.Is(err, ErrTooMany) || !strings.Contains(err.Error(), "planner") {
			t.Error("the agent's third:", err)
		}
		ask("planner", 1).waits() // attaches, which takes no place
		ask("coder", 1).waits()
		if err := ask("third", 1).ends(); !errors.Is(err, ErrTooMany) {
			t.Error("the host's fourth:", err)
		}
		must(t, s.Deny(first.noticed.ID, yes))
		ask("third", 1).waits()
	})
}

func TestSizes(t *testing.T) {
	s := New(Options{TextBytes: 100})
	for name, change := range map[string]func(*Ask){
		"text":       func(a *Ask) { a.Text = strings.Repeat("x", 101) },
		"context":    func(a *Ask) { a.Context = strings.Repeat("x", 101) },
		"parameters": func(a *Ask) { a.Params = []Param{{Value: make([]byte, 101)}} },
		"together":   func(a *Ask) { a.Text, a.Context = strings.Repeat("x", 51), strings.Repeat("x", 50) },
		"number":     func(a *Ask) { a.Params = make([]Param, maxParams+1) },
	} {
		a := anAsk()
		change(&a)
		if _, err := s.Submit(t.Context(), a); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(s.List()) > 0 {
		t.Error("something waits:", s.List())
	}
}

// Denial upon denial, the agent's requests are refused for a while and nobody
// is asked. Other agents' are not.
func TestCoolDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		deny := func() {
			t.Helper()
			w := submit(t, s, anAsk())
			must(t, s.Deny(w.noticed.ID, yes))
			w.ends()
		}
		for range DefaultDenials - 1 {
			deny()
		}
		time.Sleep(DefaultDenialWindow) // which they are outside of by now
		for range DefaultDenials - 1 {
			deny()
		}
		submit(t, s, anAsk()).cancel(ErrWithdrawn)
		deny()
		if err := submit(t, s, anAsk()).ends(); !errors.Is(err, ErrCoolDown) {
			t.Error("after the fifth denial:", err)
		}
		other := anAsk()
		other.Agent = "coder"
		submit(t, s, other).waits()
		time.Sleep(DefaultCoolDown - 1)
		if err := submit(t, s, anAsk()).ends(); !errors.Is(err, ErrCoolDown) {
			t.Error("before its end:", err)
		}
		time.Sleep(time.Nanosecond)
		submit(t, s, anAsk()).waits()
	})
}

// List shows what is pending and the latest of what is over, and forgets the rest.
func TestListForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Denials: 1 << 30})
		waits := anAsk()
		waits.Text = "waits"
		submit(t, s, waits)
		for range keptDone + 10 {
			time.Sleep(time.Second)
			w := submit(t, s, anAsk())
			must(t, s.Deny(w.noticed.ID, yes))
			w.ends()
		}
		all := s.List()
		if len(all) != keptDone+1 || all[0].Text != "waits" {
			t.Errorf("%d approvals, the first is %+v", len(all), all[0])
		}
	})
}

// A watcher that does not read delays nobody, loses the oldest changes and has
// the newest when it reads again.
func TestWatchNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Denials: 1 << 30})
		ctx, cancel := context.WithCancel(t.Context())
		read, seen := make(chan struct{}), []Approval(nil)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for a := range s.Watch(ctx) {
				<-read
				seen = append(seen, a)
			}
		}()
		began, last := time.Now(), ""
		for range 2 * watchBuffer {
			w := submit(t, s, anAsk())
			must(t, s.Deny(w.noticed.ID, yes))
			w.ends()
			last = w.noticed.ID
		}
		if took := time.Since(began); took != 0 {
			t.Error("the watcher delayed others by", took)
		}
		close(read)
		synctest.Wait()
		if n := len(seen); n > watchBuffer+1 || n < watchBuffer || seen[n-1].ID != last || seen[n-1].State != Denied {
			t.Errorf("%d changes seen", n)
		}
		cancel()
		<-done
		if len(s.watchers) > 0 {
			t.Error("the watcher stays")
		}
	})
}

// A watcher is told first what is there, oldest first, then each change.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		var ids []string
		for n := range 5 {
			a := anAsk()
			a.Text = fmt.Sprint(n)
			ids = append(ids, submit(t, s, a).noticed.ID)
			time.Sleep(time.Second)
		}
		n := 0
		for a := range s.Watch(t.Context()) {
			if n < 5 && (a.Text != fmt.Sprint(n) || a.State != Pending) || n == 5 && (a.ID != ids[0] || a.State != Denied) {
				t.Errorf("change %d is %+v", n, a)
			}
			if n++; n == 6 {
				break
			}
			if n == 5 {
				must(t, s.Deny(ids[0], yes))
			}
		}
	})
}

// Run tells the end of what nobody waits for and nobody looks at.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told states
		s := New(Options{OnChange: told.told})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.Run(ctx); close(done) }()
		w := submit(t, s, anAsk())
		w.cancel(errors.New("reset"))
		w.ends()
		time.Sleep(10*time.Minute + sweep)
		told.are(t, "pending expired")
		cancel()
		<-done
	})
}
