package budget

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// saveEvery is how much of what was counted a daemon that is killed may lose.
const saveEvery = time.Second

// saved is a window on disk: the parts that are not empty, by the number of
// their place in time.
type saved struct {
	Width time.Duration     `json:"width_ns"`
	Parts map[int64]Amounts `json:"parts"`
}

// Load takes the counts that a file holds, which need not exist.
func (l *Ledger) Load(path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("budgets: %w", err)
	}
	var agents map[string]map[string]saved
	if err := json.Unmarshal(b, &agents); err != nil {
		return fmt.Errorf("budgets: %s is damaged: %w; without it every budget begins anew", path, err)
	}
	for agent, budgets := range agents {
		p := l.purse(agent)
		for name, s := range budgets {
			if s.Width <= 0 {
				return fmt.Errorf("budgets: %s is damaged: budget %q has parts of %d ns; without it every budget begins anew", path, name, s.Width)
			}
			p.windows[name] = s.window()
		}
	}
	return nil
}

func (s saved) window() *window {
	w := &window{width: s.Width}
	for number := range s.Parts {
		w.latest = max(w.latest, number)
	}
	for number, a := range s.Parts {
		if number < 0 || number < w.latest-slots {
			continue
		}
		*w.part(number) = a
		for k, n := range a {
			w.sum[k] += n
		}
	}
	return w
}

// snapshot returns what there is to save, and whether any of it is new.
func (l *Ledger) snapshot() (agents map[string]map[string]saved, changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	agents = map[string]map[string]saved{}
	for agent, p := range l.purses {
		budgets := map[string]saved{}
		p.mu.Lock()
		for name, w := range p.windows {
			w.advance(now)
			changed = changed || w.unsaved
			w.unsaved = false
			if w.sum == (Amounts{}) {
				continue
			}
			s := saved{w.width, map[int64]Amounts{}}
			for number := max(w.latest-slots, 0); number <= w.latest; number++ {
				if a := *w.part(number); a != (Amounts{}) {
					s.Parts[number] = a
				}
			}
			budgets[name] = s
		}
		p.mu.Unlock()
		if len(budgets) > 0 {
			agents[agent] = budgets
		}
	}
	return agents, changed
}

// Save writes the counts to a file when there are new ones.
func (l *Ledger) Save(path string) error {
	agents, changed := l.snapshot()
	if !changed {
		return nil
	}
	b, err := json.Marshal(agents)
	if err != nil {
		return fmt.Errorf("budgets: %w", err)
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("budgets: %w", err)
	}
	return os.Rename(path+".new", path)
}

// Run saves to a file every second until ctx ends, and once more then.
func (l *Ledger) Run(ctx context.Context, path string, failed func(error)) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if err := l.Save(path); err != nil {
				failed(err)
			}
			return
		case <-tick.C:
			if err := l.Save(path); err != nil {
				failed(err)
			}
		}
	}
}
