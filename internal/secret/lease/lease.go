// Package lease keeps credentials that were made to order for as long as
// somebody needs them, and has them revoked after.
//
// Each belongs to a scope: a session, or a run. The first who asks in a scope has
// one made, the others share it, and End revokes what the scope had. A lease is
// on disk before its credential is used, and the credential never is: so the
// daemon that starts next revokes what the one before left behind, whatever
// ended that.
//
// How a credential is made and revoked is a source.Issuer's. What is left to
// others is to say when a scope ends. Start with Leases.Credential.
package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

const (
	// maxLeases bounds what is out at once: as many as there may be sessions.
	maxLeases = 4096
	// askTime bounds one question to a source: a revocation waits for a database.
	askTime = 30 * time.Second
	// firstRetry and lastRetry are between two attempts to revoke or renew.
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
	// soon is how close to its end a lease is not given to anybody any more.
	soon = 10 * time.Second
	// forgetAfter is how long after its end a lease that could not be revoked is
	// still tried: the source has ended it by itself unless it was down.
	forgetAfter = 24 * time.Hour
)

// Scope is whom credentials are for.
type Scope struct {
	ID string `json:"id"` // of the session or the run: for people, and for the source's audit log
	// Of a run: what is gone when it is.
	Cgroup   string `json:"cgroup,omitempty"`
	CgroupID uint64 `json:"cgroup_id,omitempty"`
}

// Entry is a lease as it is on disk and shown: nothing in it is secret but the
// ID, which lets nobody in.
type Entry struct {
	Source  string    `json:"source"`
	Target  string    `json:"target"`
	Scope   Scope     `json:"scope"`
	ID      string    `json:"id"`
	Began   time.Time `json:"began"`
	Expires time.Time `json:"expires,omitzero"`
	Ending  bool      `json:"ending,omitempty"` // nobody needs it any more
	Error   string    `json:"-"`                // why it could not be renewed or revoked
}

// held is a lease that is out.
type held struct {
	Entry
	renewable bool
	span      time.Duration // how long it was to live when it was made
	fields    map[string]secret.Secret
	due       time.Time // to be renewed or revoked
	retry     time.Duration
}

// slot is the credential of a scope for a target. Whoever has the token in busy
// makes it or takes it.
type slot struct {
	busy  chan struct{}
	lease *held
	ended bool
}

type slotKey struct{ target, scope string }

// Options of Leases.
type Options struct {
	Path   string // where they are on disk
	Issuer func(source string) (source.Issuer, error)
	Now    func() time.Time
	Log    *slog.Logger
	// Changed is told what happened to leases: "issued", "renewed", "revoked",
	// "expired", "failed". It may be nil.
	Changed func(source, what string)
}

// Leases are all that are out. Safe for use by several goroutines.
type Leases struct {
	Options

	mu     sync.Mutex
	slots  map[slotKey]*slot
	out    map[*held]bool
	wake   chan struct{}
	saving sync.Mutex // held while the file is written, taken before mu
}

// Errors of Credential besides those of the source, matched with errors.Is.
var (
	ErrMany  = errors.New("too many credentials are out")
	ErrEnded = errors.New("whoever it was for has ended")
)

// Open reads what the daemon before has left, all of which is to be revoked. Run
// does it.
func Open(o Options) (*Leases, error) {
	if o.Changed == nil {
		o.Changed = func(string, string) {}
	}
	l := &Leases{Options: o, slots: map[slotKey]*slot{}, out: map[*held]bool{}, wake: make(chan struct{}, 1)}
	b, err := os.ReadFile(o.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Entry
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; credentials that are out end by themselves when it is removed", o.Path, err)
	}
	for _, e := range list {
		e.Ending = true
		l.out[&held{Entry: e, due: o.Now(), retry: firstRetry}] = true
	}
	return l, nil
}

// save writes the file anew, and returns when it is on disk.
func (l *Leases) save() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	b, err := json.MarshalIndent(l.List(), "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(l.Path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(l.Path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(l.Path+".new", l.Path)
}

// List shows what is out.
func (l *Leases) List() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Entry, 0, len(l.out))
	for h := range l.out {
		out = append(out, h.Entry)
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return 2*a.Began.Compare(b.Began) + strings.Compare(a.ID, b.ID)
	})
	return out
}

// Want is a credential that somebody needs.
type Want struct {
	Source string
	Target string
	Scope  Scope
	Order  source.Order
}

// Credential returns the parts of the credential of a scope, which is made when
// there is none, or when the one there is comes to its end. They are copies,
// which the caller may wipe.
func (l *Leases) Credential(ctx context.Context, w Want) (map[string]secret.Secret, error) {
	s, err := l.slot(w)
	if err != nil {
		return nil, err
	}
	select {
	case s.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-s.busy }()
	if fields := l.usable(s); fields != nil {
		return fields, nil
	}
	issuer, err := l.Issuer(w.Source)
	if err != nil {
		return nil, err
	}
	issued, err := issuer.Issue(ctx, w.Order)
	if err != nil {
		l.Changed(w.Source, "failed")
		return nil, fmt.Errorf("secret source %s: %w", w.Source, err)
	}
	h := l.hold(w, issued)
	if issued.Lease.ID != "" {
		if err := l.save(); err != nil {
			l.giveUp(h, issuer)
			return nil, fmt.Errorf("the lease cannot be put on disk, so its credential is not used: %w", err)
		}
	}
	l.Changed(w.Source, "issued")
	return l.take(s, h)
}

func (l *Leases) slot(w Want) (*slot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := slotKey{w.Target, w.Scope.ID}
	s := l.slots[key]
	if s == nil {
		if len(l.out) >= maxLeases {
			return nil, fmt.Errorf("%w: %d", ErrMany, len(l.out))
		}
		s = &slot{busy: make(chan struct{}, 1)}
		l.slots[key] = s
	}
	return s, nil
}

// usable copies the credential of a slot, if there is one that lasts.
func (l *Leases) usable(s *slot) map[string]secret.Secret {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := s.lease
	if h == nil || h.Ending || !h.Expires.IsZero() && l.Now().Add(min(soon, h.span/4)).After(h.Expires) {
		return nil
	}
	return copied(h.fields)
}

func copied(fields map[string]secret.Secret) map[string]secret.Secret {
	out := make(map[string]secret.Secret, len(fields))
	for name, s := range fields {
		out[name] = secret.New(slices.Clone(s.Reveal()))
	}
	return out
}

// hold notes a credential that was made.
func (l *Leases) hold(w Want, i source.Issued) *held {
	now := l.Now()
	h := &held{
		Entry:     Entry{Source: w.Source, Target: w.Target, Scope: w.Scope, ID: i.Lease.ID, Began: now, Expires: i.Lease.Expires},
		renewable: i.Lease.Renewable, fields: i.Fields, retry: firstRetry,
	}
	if !h.Expires.IsZero() {
		h.span = h.Expires.Sub(now)
	}
	h.due = h.renewal(now)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out[h] = true
	return h
}

// renewal is when a lease is renewed, or, where it cannot be, has ended.
func (h *held) renewal(now time.Time) time.Time {
	switch {
	case h.Expires.IsZero():
		return time.Time{}
	case h.renewable:
		return now.Add(h.Expires.Sub(now) * 2 / 3)
	}
	return h.Expires
}

// take gives the credential to a slot, whose scope may have ended meanwhile.
func (l *Leases) take(s *slot, h *held) (map[string]secret.Secret, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.ended {
		l.ending(h)
		return nil, ErrEnded
	}
	if old := s.lease; old != nil {
		// Sessions that began with it use it to its end, which is near.
		old.renewable, old.due = false, old.Expires
	}
	s.lease = h
	l.poke()
	return copied(h.fields), nil
}

// giveUp revokes at once what could not be put on disk.
func (l *Leases) giveUp(h *held, issuer source.Issuer) {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	if err := issuer.Revoke(ctx, h.ID); err != nil {
		l.Log.Error("a credential that is not used is out until it expires", "source", h.Source, "target", h.Target, "expires", h.Expires, "error", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h.wipe()
	delete(l.out, h)
}

func (h *held) wipe() {
	for _, s := range h.fields {
		s.Wipe()
	}
	h.fields = nil
}

// End says that nobody needs the credentials of a scope any more. They are
// revoked by Run.
func (l *Leases) End(scope string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, s := range l.slots {
		if key.scope != scope {
			continue
		}
		s.ended = true
		delete(l.slots, key)
		for h := range l.out {
			if h.Scope.ID == scope && h.Target == key.target {
				l.ending(h)
			}
		}
	}
}

// ending is called with mu held.
func (l *Leases) ending(h *held) {
	h.wipe()
	if h.ID == "" {
		delete(l.out, h) // nothing can be revoked
		return
	}
	if !h.Ending {
		h.Ending, h.due, h.retry = true, l.Now(), firstRetry
		l.poke()
	}
}

func (l *Leases) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Sweep ends the scopes whose cgroup is gone.
func (l *Leases) Sweep(there func(cgroup string, id uint64) bool) {
	gone := map[string]bool{}
	for _, e := range l.List() {
		if e.Scope.Cgroup != "" && !e.Ending && !gone[e.Scope.ID] && !there(e.Scope.Cgroup, e.Scope.CgroupID) {
			gone[e.Scope.ID] = true
			l.End(e.Scope.ID)
		}
	}
}

// Renounce takes the credential of a scope away, which its target did not
// accept, so that the next who asks has another made.
func (l *Leases) Renounce(w Want) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.slots[slotKey{w.Target, w.Scope.ID}]
	if s != nil && s.lease != nil {
		l.ending(s.lease)
		s.lease = nil
	}
}
