package approval

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options of a Store. Zero fields take the defaults.
type Options struct {
	PerAgent     int
	Total        int
	TextBytes    int
	Execute      time.Duration
	Denials      int
	DenialWindow time.Duration
	CoolDown     time.Duration
	Now          func() time.Time
	// OnChange is called for every new state, in order, on the goroutine that
	// caused it, without any lock held. It does not call back into the store's
	// changing methods. An error of it is logged by its owner: a state that
	// changed has changed.
	OnChange func(Approval)
}

// Store holds the approvals of one host.
type Store struct {
	opts Options

	mu       sync.Mutex
	byID     map[string]*item
	byPrint  map[Fingerprint]*item // pending and approved ones
	pending  map[string]int        // per agent
	total    int
	denials  map[string][]time.Time // per agent, within the window
	cool     map[string]time.Time   // per agent, until when
	done     []string               // ids of ended ones, oldest first
	watchers map[*watcher]struct{}
	changes  []Approval // to be told, in order

	telling sync.Mutex // held while OnChange is called, taken before mu
}

// item is an approval and those who wait for it.
type item struct {
	Approval
	changed chan struct{} // closed at the next change
	wait    time.Duration // to execute, once approved
}

// New returns an empty store.
func New(o Options) *Store {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	defTime := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.PerAgent, DefaultPerAgent)
	def(&o.Total, DefaultTotal)
	def(&o.TextBytes, DefaultTextBytes)
	def(&o.Denials, DefaultDenials)
	defTime(&o.Execute, DefaultExecute)
	defTime(&o.DenialWindow, DefaultDenialWindow)
	defTime(&o.CoolDown, DefaultCoolDown)
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Store{
		opts: o, byID: map[string]*item{}, byPrint: map[Fingerprint]*item{}, pending: map[string]int{},
		denials: map[string][]time.Time{}, cool: map[string]time.Time{}, watchers: map[*watcher]struct{}{},
	}
}

// Submit asks and waits. It returns a Decision when the request may go ahead,
// which uses the approval up: of several identical requests that wait, one does.
// The error is a *Refusal, one of the Err values, or the cause of ctx.
//
// When ctx ends, the approval lives on until its time is over, unless the cause
// is ErrWithdrawn. An identical Ask attaches to it, also when it was approved
// meanwhile.
func (s *Store) Submit(ctx context.Context, a Ask) (Decision, error) {
	if err := a.check(s.opts.TextBytes); err != nil {
		return Decision{}, err
	}
	if ctx.Err() != nil { // before anybody is bothered
		return Decision{}, context.Cause(ctx)
	}
	it, err := s.attach(&a)
	if err != nil {
		s.tell()
		return Decision{}, err
	}
	s.tell()
	if a.Notify != nil {
		s.mu.Lock()
		view := it.view()
		s.mu.Unlock()
		if view.State == Pending {
			a.Notify(view)
		}
	}
	for {
		if ctx.Err() != nil { // before it could use up what nobody waits for
			s.leave(it, errors.Is(context.Cause(ctx), ErrWithdrawn))
			s.tell()
			return Decision{}, context.Cause(ctx)
		}
		d, wait, until, err := s.try(it)
		s.tell()
		if wait == nil {
			return d, err
		}
		timer := time.NewTimer(until)
		select {
		case <-wait:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// attach finds the approval of an identical request or makes a new one.
func (s *Store) attach(a *Ask) (*item, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.Now()
	s.expire(now)
	print := a.Fingerprint()
	if it := s.byPrint[print]; it != nil && it.Rule == a.Rule && slices.Equal(it.Approvers, a.Approvers) && it.SelfAllowed == a.SelfAllowed {
		it.Waiting++
		it.Session, it.Request = a.Session, a.Request
		return it, nil
	} else if it != nil {
		// The policy asks otherwise now: what was approved under the old rule
		// does not count.
		s.end(it, Expired, now)
	}
	if until := s.cool[a.Agent]; now.Before(until) {
		return nil, fmt.Errorf("%w: agent %s waits until %s", ErrCoolDown, a.Agent, until.Format(time.TimeOnly))
	}
	if s.pending[a.Agent] >= s.opts.PerAgent {
		return nil, fmt.Errorf("%w: %d of agent %s", ErrTooMany, s.opts.PerAgent, a.Agent)
	}
	if s.total >= s.opts.Total {
		return nil, fmt.Errorf("%w: %d on this host", ErrTooMany, s.opts.Total)
	}
	it := &item{changed: make(chan struct{}), wait: a.ExecuteWithin}
	if it.wait == 0 {
		it.wait = s.opts.Execute
	}
	it.Approval = Approval{
		ID: newID(), Fingerprint: print, State: Pending, Session: a.Session, Request: a.Request, Run: a.Run,
		Agent: a.Agent, Target: a.Target, Rule: a.Rule, Form: a.Form, Text: a.Text, Params: copyParams(a.Params),
		Context: a.Context, Effects: slices.Clone(a.Effects), Approvers: slices.Clone(a.Approvers),
		ReasonRequired: a.ReasonRequired, Preview: a.Preview, Behalf: a.Behalf, UIDs: a.UIDs, SelfAllowed: a.SelfAllowed, Waiting: 1, Created: now, DecideBy: now.Add(a.Within),
	}
	for s.byID[it.ID] != nil {
		it.ID = newID()
	}
	s.byID[it.ID], s.byPrint[print] = it, it
	s.pending[a.Agent]++
	s.total++
	s.change(it)
	return it, nil
}

func copyParams(in []Param) []Param {
	out := slices.Clone(in)
	for i := range out {
		out[i].Value = slices.Clone(out[i].Value)
	}
	return out
}

// try takes the approval if it is there to be taken. Otherwise it returns what
// to wait for, and how long.
func (s *Store) try(it *item) (d Decision, wait <-chan struct{}, until time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.Now()
	s.expire(now)
	switch it.State {
	case Pending:
		return d, it.changed, it.DecideBy.Sub(now), nil
	case Approved:
		it.Waiting--
		s.end(it, Consumed, now)
		return Decision{ID: it.ID, Votes: slices.Clone(it.Votes)}, nil, 0, nil
	}
	it.Waiting--
	refusal := &Refusal{ID: it.ID, Err: ErrExpired}
	switch it.State {
	case Denied:
		last := it.Votes[len(it.Votes)-1]
		refusal.By, refusal.Reason, refusal.Err = last.By, last.Reason, ErrDenied
	case Withdrawn:
		refusal.Err = ErrWithdrawn
	case Consumed:
		// Another identical request was faster. This one was not approved.
		refusal.Err = ErrConsumed
	}
	return d, nil, 0, refusal
}

// leave is for a request that stops waiting.
func (s *Store) leave(it *item, withdrawn bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it.Waiting--
	if withdrawn && !it.State.Done() && it.Waiting == 0 {
		s.end(it, Withdrawn, s.opts.Now())
	}
}

// end moves it to a final state; s.mu is held.
func (s *Store) end(it *item, to State, now time.Time) {
	if it.State == Pending {
		s.unpend(it)
	}
	it.State, it.Ended = to, now
	delete(s.byPrint, it.Fingerprint)
	s.done = append(s.done, it.ID)
	if len(s.done) > keptDone {
		delete(s.byID, s.done[0])
		s.done = s.done[1:]
	}
	s.change(it)
}

func (s *Store) unpend(it *item) {
	s.total--
	if s.pending[it.Agent]--; s.pending[it.Agent] == 0 {
		delete(s.pending, it.Agent)
	}
}

// expire ends what is over; s.mu is held. The maps are small: Total bounds what
// is pending, and what is approved was pending once.
func (s *Store) expire(now time.Time) {
	for _, it := range s.byPrint {
		if it.State == Pending && !now.Before(it.DecideBy) || it.State == Approved && !now.Before(it.ExecuteBy) {
			s.end(it, Expired, now)
		}
	}
	for agent, until := range s.cool {
		if !now.Before(until) {
			delete(s.cool, agent)
		}
	}
}

// Approve says yes. Vote.By is the person, as authenticated by the caller,
// Vote.Group one of the approval's Approvers, or empty: for every group that is
// missing, which is root's way.
func (s *Store) Approve(id string, v Vote) error {
	defer s.tell()
	s.mu.Lock()
	defer s.mu.Unlock()
	it, now, err := s.vote(id, &v)
	if err != nil {
		return err
	}
	if !it.SelfAllowed && it.own(v) {
		return ErrSelf
	}
	if v.Group != "" && !slices.Contains(it.Missing(), v.Group) {
		return fmt.Errorf("%w: %s has approved", ErrDecided, v.Group)
	}
	if v.Group != "" || len(it.Approvers) == 0 {
		it.Votes = append(it.Votes, v)
	} else {
		for _, v.Group = range it.Missing() {
			it.Votes = append(it.Votes, v)
		}
	}
	if len(it.Missing()) > 0 {
		s.change(it)
		return nil
	}
	s.unpend(it)
	it.State, it.ExecuteBy = Approved, now.Add(it.wait)
	s.change(it)
	return nil
}

// Deny says no, which one approver suffices for.
func (s *Store) Deny(id string, v Vote) error {
	defer s.tell()
	s.mu.Lock()
	defer s.mu.Unlock()
	it, now, err := s.vote(id, &v)
	if err != nil {
		return err
	}
	it.Votes = append(it.Votes, v)
	s.end(it, Denied, now)
	recent := slices.DeleteFunc(s.denials[it.Agent], func(t time.Time) bool { return now.Sub(t) >= s.opts.DenialWindow })
	recent = append(recent, now)
	if len(recent) >= s.opts.Denials {
		s.cool[it.Agent] = now.Add(s.opts.CoolDown)
		recent = nil
	}
	s.denials[it.Agent] = recent
	return nil
}

// vote checks what Approve and Deny have in common; s.mu is held.
func (s *Store) vote(id string, v *Vote) (*item, time.Time, error) {
	now := s.opts.Now()
	v.At = now
	s.expire(now)
	it := s.byID[strings.ToLower(id)]
	switch {
	case it == nil:
		return nil, now, ErrUnknown
	case it.State != Pending:
		return nil, now, fmt.Errorf("%w: %s", ErrDecided, it.State)
	case v.By == "":
		return nil, now, ErrNoApprover
	case v.Group != "" && !slices.Contains(it.Approvers, v.Group):
		return nil, now, fmt.Errorf("%w: %s", ErrNotAsked, v.Group)
	case it.ReasonRequired && strings.TrimSpace(v.Reason) == "":
		return nil, now, ErrNoReason
	}
	return it, now, nil
}
