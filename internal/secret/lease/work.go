package lease

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/postern/postern/internal/secret/source"
)

// atOnce bounds the questions that are asked beside each other: a thousand
// sessions may end together.
const atOnce = 8

// Run renews and revokes until ctx ends. What is left then is on disk, and the
// next daemon's.
func (l *Leases) Run(ctx context.Context) {
	var working sync.WaitGroup
	defer working.Wait()
	slots := make(chan struct{}, atOnce)
	for {
		due, next := l.due()
		for _, h := range due {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			working.Go(func() {
				defer func() { <-slots }()
				l.tend(ctx, h)
			})
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-l.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// idle is how long nothing is looked at when nothing is due.
const idle = time.Hour

// due takes what is to be done now, and says when to look again.
func (l *Leases) due() (now []*held, next time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.Now()
	next = idle
	for h := range l.out {
		switch {
		case h.due.IsZero():
		case h.due.After(at):
			next = min(next, h.due.Sub(at))
		default:
			h.due = time.Time{} // until it is known what came of it
			now = append(now, h)
		}
	}
	return now, next
}

// tend does what is due for one lease.
func (l *Leases) tend(ctx context.Context, h *held) {
	l.mu.Lock()
	e, renewable := h.Entry, h.renewable
	l.mu.Unlock()
	switch {
	case e.Ending:
		l.revoke(ctx, h, e)
	case renewable:
		l.renew(ctx, h, e)
	default:
		l.forget(h, "expired")
	}
}

func (l *Leases) revoke(ctx context.Context, h *held, e Entry) {
	err := l.ask(ctx, e, func(ctx context.Context, i source.Issuer) error { return i.Revoke(ctx, e.ID) })
	switch {
	case err == nil:
		l.forget(h, "revoked")
		return
	case ctx.Err() != nil:
		return // the next daemon's
	case !e.Expires.IsZero() && l.Now().After(e.Expires.Add(forgetAfter)):
		l.Log.Error("a credential could not be revoked, and has expired long ago", "source", e.Source, "target", e.Target, "for", e.Scope.ID, "error", err)
		l.forget(h, "expired")
		return
	}
	l.Log.Warn("a credential is not revoked yet", "source", e.Source, "target", e.Target, "for", e.Scope.ID, "expires", e.Expires, "error", err)
	l.again(h, err)
}

func (l *Leases) renew(ctx context.Context, h *held, e Entry) {
	var got source.Lease
	err := l.ask(ctx, e, func(ctx context.Context, i source.Issuer) (err error) {
		got, err = i.Renew(ctx, e.ID, h.span)
		return err
	})
	if ctx.Err() != nil {
		return
	}
	if errors.Is(err, source.ErrNotFound) {
		l.Log.Warn("a credential ended before its time", "source", e.Source, "target", e.Target, "for", e.Scope.ID)
		l.forget(h, "expired")
		return
	}
	if err != nil {
		l.Log.Warn("a credential is not renewed", "source", e.Source, "target", e.Target, "for", e.Scope.ID, "expires", e.Expires, "error", err)
		l.again(h, err)
		return
	}
	now := l.Now()
	l.mu.Lock()
	later := got.Expires.After(e.Expires)
	h.Expires, h.Error, h.retry = got.Expires, "", firstRetry
	// One that cannot be prolonged any more is left to its end; who needs one then
	// has another made.
	h.renewable = got.Renewable && later
	if !h.Ending {
		h.due = h.renewal(now)
	}
	l.poke()
	l.mu.Unlock()
	l.Changed(e.Source, "renewed")
	if err := l.save(); err != nil {
		l.Log.Error("put leases on disk", "error", err)
	}
}

func (l *Leases) ask(ctx context.Context, e Entry, f func(context.Context, source.Issuer) error) error {
	issuer, err := l.Issuer(e.Source)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return f(ctx, issuer)
}

// again has it tried later.
func (l *Leases) again(h *held, err error) {
	l.Changed(h.Source, "failed")
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.Now()
	h.Error, h.due = err.Error(), now.Add(h.retry)
	h.retry = min(2*h.retry, lastRetry)
	if !h.Ending && !h.Expires.IsZero() && h.due.After(h.Expires) {
		h.due, h.renewable = h.Expires, false
	}
	l.poke()
}

// forget is the end of a lease.
func (l *Leases) forget(h *held, how string) {
	l.mu.Lock()
	h.wipe()
	delete(l.out, h)
	for _, s := range l.slots {
		if s.lease == h {
			s.lease = nil
		}
	}
	l.mu.Unlock()
	l.Changed(h.Source, how)
	if err := l.save(); err != nil {
		l.Log.Error("put leases on disk", "error", err)
	}
}
