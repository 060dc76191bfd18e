package dns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// saveEvery is how often what has changed is written down: after a crash, what
	// an agent was told in the second before has to be asked for again.
	saveEvery = time.Second
	// maxSaved bounds a file that is read: maxTold names of 253 bytes, with their
	// addresses.
	maxSaved   = 4 << 20
	savedEnd   = ".json"
	unfinished = ".new"
)

// Memory is what all agents were told, in a directory with a file for each.
// Runtimes keep what they resolved, and dial it after a restart of the daemon
// without asking again.
type Memory struct {
	dir     string
	log     *slog.Logger
	evicted func()

	mu     sync.Mutex
	share  int
	agents map[string]*Told

	saving sync.Mutex // files
}

// OpenMemory returns the memory kept in a directory, which is made when it is
// missing. Evicted, which may be nil, is told of every name that had to go.
func OpenMemory(dir string, log *slog.Logger, evicted func()) (*Memory, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("names: %w", err)
	}
	return &Memory{dir: dir, log: log, evicted: evicted, share: maxTold, agents: map[string]*Told{}}, nil
}

// Follow takes the agents of a configuration: each has its share of the names,
// and what is kept of others is forgotten.
func (m *Memory) Follow(agents []string) error {
	m.mu.Lock()
	m.share = min(maxTold, max(1, maxToldInAll/max(1, len(agents))))
	for name, t := range m.agents {
		if !slices.Contains(agents, name) {
			delete(m.agents, name)
			continue
		}
		t.mu.Lock()
		t.most = m.share
		t.mu.Unlock()
	}
	m.mu.Unlock()
	m.saving.Lock()
	defer m.saving.Unlock()
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return fmt.Errorf("names: %w", err)
	}
	var errs []error
	for _, e := range entries {
		agent, err := url.PathUnescape(strings.TrimSuffix(strings.TrimSuffix(e.Name(), unfinished), savedEnd))
		if !e.IsDir() && (err != nil || !slices.Contains(agents, agent)) {
			errs = append(errs, os.Remove(filepath.Join(m.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// Of returns what an agent was told. The same agent has the same Told for as
// long as it is followed.
func (m *Memory) Of(agent string) *Told {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.agents[agent]; t != nil {
		return t
	}
	t := newTold(m.share, m.evicted)
	if err := t.load(m.file(agent), time.Now()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		// Nothing depends on it but clients that do not ask again.
		m.log.Warn("what an agent was told of names is lost", "agent", agent, "error", err)
		t = newTold(m.share, m.evicted)
	}
	m.agents[agent] = t
	return t
}

func (m *Memory) file(agent string) string {
	return filepath.Join(m.dir, url.PathEscape(agent)+savedEnd)
}

// Run saves what changes, until ctx ends.
func (m *Memory) Run(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			m.save()
		case <-ctx.Done():
			m.save()
			return
		}
	}
}

// save writes the files of agents that were told something new.
func (m *Memory) save() {
	m.saving.Lock()
	defer m.saving.Unlock()
	m.mu.Lock()
	changed := map[string][]byte{}
	for agent, t := range m.agents {
		if b := t.saved(); b != nil {
			changed[agent] = b
		}
	}
	m.mu.Unlock()
	for agent, b := range changed {
		path := m.file(agent)
		err := os.WriteFile(path+unfinished, b, 0o600)
		if err == nil {
			err = os.Rename(path+unfinished, path)
		}
		if err != nil {
			m.log.Warn("what an agent was told of names is not saved", "agent", agent, "error", err)
		}
	}
}

// line is a name in a file, which has the ones used least recently first.
type line struct {
	Name    string               `json:"name"`
	Virtual netip.Addr           `json:"virtual,omitzero"`
	Real    map[netip.Addr]int64 `json:"real,omitempty"` // Unix seconds
}

// saved is the content of the file; nil when it has not changed.
func (t *Told) saved() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.changed {
		return nil
	}
	t.changed = false
	var out bytes.Buffer
	to := json.NewEncoder(&out)
	for e := t.recent.Back(); e != nil; e = e.Prev() {
		n := e.Value.(*told)
		l := line{Name: n.name, Virtual: n.virtual, Real: map[netip.Addr]int64{}}
		for a, at := range n.real {
			l.Real[a] = at.Unix()
		}
		to.Encode(l) //nolint:errcheck // of such a type, into memory
	}
	return out.Bytes()
}

var errSaved = errors.New("the file is damaged")

// load reads a file. It is the daemon's own, and checked all the same: nothing
// in it says what an agent may reach, only which name an address stands for.
func (t *Told) load(path string, now time.Time) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	from := json.NewDecoder(io.LimitReader(f, maxSaved))
	from.DisallowUnknownFields()
	for {
		var l line
		switch err := from.Decode(&l); {
		case errors.Is(err, io.EOF):
			t.changed = false
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", errSaved, err)
		}
		if clean, ok := plain(l.Name); !ok || clean != l.Name || len(l.Real) > maxReal {
			return fmt.Errorf("%w: %q is no name", errSaved, l.Name)
		}
		n := t.of(l.Name)
		if l.Virtual.IsValid() {
			if !wild4.Contains(l.Virtual) || t.virtual[l.Virtual] != nil || n.virtual.IsValid() {
				return fmt.Errorf("%w: %s is not free for %s", errSaved, l.Virtual, l.Name)
			}
			n.virtual, t.virtual[l.Virtual] = l.Virtual, n
		}
		for a, at := range l.Real {
			if told := time.Unix(at, 0); !told.After(now) && now.Sub(told) <= remember && a.Zone() == "" && !Virtual(a) {
				t.note(n, a.Unmap(), told)
			}
		}
	}
}
