// Package run remembers the runs of this host: for whom each was launched, and
// what it was narrowed to. A run is announced with a ticket, bound when its
// cgroup is there, and forgotten when that is gone; it outlives the daemon,
// because its agent does.
//
// Who somebody is, the caller has verified; what follows from it is the
// gateway's. No token is ever kept here. Start with Registry.Announce.
package run

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern/postern/internal/engine"
)

const (
	// ticketLife is how long a run may take to be launched once it was announced.
	ticketLife = time.Minute
	// maxTickets bounds what is announced and not launched, of one user: a person
	// launches one at a time, a scheduler some.
	maxTickets = 64
	// maxRuns bounds what is remembered; the guard launches no more.
	maxRuns = 1024
)

// Run is one launch of an agent.
type Run struct {
	Name     string             `json:"name"`
	Agent    string             `json:"agent"`
	Cgroup   string             `json:"cgroup"` // relative to the cgroup2 root
	CgroupID uint64             `json:"cgroup_id"`
	UID      uint32             `json:"uid"` // of who launched it
	Identity *engine.Identity   `json:"identity,omitempty"`
	Login    bool               `json:"login,omitempty"` // the identity is that of who logged in, and follows it
	Only     []engine.Narrowing `json:"only,omitempty"`
	Narrowed bool               `json:"narrowed,omitempty"` // Only counts, though it be empty
	Began    time.Time          `json:"began"`
}

// Announced is a run that is about to be launched.
type Announced struct {
	Agent    string
	UID      uint32
	Identity *engine.Identity // nil: for nobody
	Login    bool
	Only     []engine.Narrowing // nil: not narrowed
}

type ticket struct {
	Announced
	until time.Time
}

// Registry is all runs. Safe for use by several goroutines.
type Registry struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	runs    map[string]*Run // by name
	tickets map[string]ticket
}

// Errors of Bind and Renew, matched with errors.Is.
var (
	ErrTicket = errors.New("the run was not announced, or too long ago: start postern run again")
	ErrAgent  = errors.New("the run was announced for another agent, or by somebody else")
	ErrMany   = errors.New("too many runs")
	ErrNoRun  = errors.New("there is no such run")
	ErrOther  = errors.New("the token is somebody else's: a run stays whose it was")
)

// Open reads what was remembered at path. A file that is damaged is an error:
// forgetting for whom runs are would be worse than not to start.
func Open(path string, now func() time.Time) (*Registry, error) {
	r := &Registry{path: path, now: now, runs: map[string]*Run{}, tickets: map[string]ticket{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	var list []*Run
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; runs that go on are without an identity when it is removed", path, err)
	}
	for _, run := range list {
		r.runs[run.Name] = run
	}
	return r, nil
}

// save writes the file anew; r.mu is held.
func (r *Registry) save() error {
	list := make([]*Run, 0, len(r.runs))
	for _, run := range r.runs {
		list = append(list, run)
	}
	slices.SortFunc(list, func(a, b *Run) int { return strings.Compare(a.Name, b.Name) })
	b, err := json.MarshalIndent(list, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(r.path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(r.path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(r.path+".new", r.path)
}

// Announce returns the ticket by which the run is known when it is launched,
// once.
func (r *Registry) Announce(a Announced) (string, error) {
	if err := engine.CheckNarrowing(a.Only); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now, mine := r.now(), 0
	for name, t := range r.tickets {
		switch {
		case !now.Before(t.until):
			delete(r.tickets, name)
		case t.UID == a.UID:
			mine++
		}
	}
	if mine >= maxTickets {
		return "", fmt.Errorf("%w of this user wait to be launched", ErrMany)
	}
	var b [20]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program first
	name := base32.StdEncoding.EncodeToString(b[:])
	r.tickets[name] = ticket{a, now.Add(ticketLife)}
	return name, nil
}

// Bind makes an announced run of one whose cgroup is there. What it returns is
// on disk. The run has Name, Agent, Cgroup, CgroupID and UID set.
func (r *Registry) Bind(name string, run Run) (Run, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tickets[name]
	if !ok || !r.now().Before(t.until) {
		return Run{}, ErrTicket
	}
	if t.Agent != run.Agent || t.UID != run.UID {
		return Run{}, ErrAgent
	}
	delete(r.tickets, name)
	run.Identity, run.Login, run.Only, run.Narrowed = t.Identity, t.Login, t.Only, t.Only != nil
	if err := r.add(&run); err != nil {
		return Run{}, err
	}
	return run, nil
}

// Note remembers a run that was not announced: it is for nobody, and not
// narrowed. The run is as for Bind.
func (r *Registry) Note(run Run) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	run.Identity, run.Login, run.Only, run.Narrowed = nil, false, nil, false
	return r.add(&run)
}

// add puts a run on disk, which begins now; r.mu is held.
func (r *Registry) add(run *Run) error {
	if len(r.runs) >= maxRuns {
		return ErrMany
	}
	run.Began = r.now()
	r.runs[run.Name] = run
	if err := r.save(); err != nil {
		delete(r.runs, run.Name)
		return fmt.Errorf("remember the run: %w", err)
	}
	return nil
}

// Of returns the run of this name. The guard gives no name twice.
func (r *Registry) Of(name string) (Run, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	run, ok := r.runs[name]
	if !ok {
		return Run{}, false
	}
	out := *run
	if out.Narrowed && out.Only == nil {
		out.Only = []engine.Narrowing{} // as it was before it was on disk
	}
	return out, true
}

// Renew gives a run the newest of its identity. It must be the same one's.
func (r *Registry) Renew(name string, i *engine.Identity) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	run, ok := r.runs[name]
	switch {
	case !ok:
		return ErrNoRun
	case i == nil || run.Identity == nil || run.Identity.Key() != i.Key():
		return ErrOther
	}
	before := run.Identity
	run.Identity = i
	if err := r.save(); err != nil {
		run.Identity = before
		return fmt.Errorf("remember the run: %w", err)
	}
	return nil
}

// All are the runs, by name.
func (r *Registry) All() []Run {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Run, 0, len(r.runs))
	for _, run := range r.runs {
		out = append(out, *run)
	}
	slices.SortFunc(out, func(a, b Run) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Sweep forgets the runs that are gone, and returns them.
func (r *Registry) Sweep(gone func(Run) bool) (ended []Run, err error) {
	for _, run := range r.All() {
		if gone(run) {
			ended = append(ended, run)
		}
	}
	if len(ended) == 0 {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, run := range ended {
		if now := r.runs[run.Name]; now != nil && now.CgroupID == run.CgroupID {
			delete(r.runs, run.Name)
		}
	}
	return ended, r.save()
}
