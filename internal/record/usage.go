package record

import (
	"fmt"
	"sync"
)

// block is what the smallest file takes on the usual file systems. Counting
// whole blocks keeps an agent that opens sessions and says nothing from filling
// the disk beside its quota.
const block = 4 << 10

// usage counts the room that recordings take.
type usage struct {
	total, perAgent int64 // quotas

	mu     sync.Mutex
	used   int64
	agents map[string]int64
}

func blocks(n int64) int64 { return (n + block - 1) / block * block }

// of returns the budget of one agent: called with a positive number to take
// room, with a negative one to give it back.
func (u *usage) of(agent string) func(n int64) error {
	return func(n int64) error {
		u.mu.Lock()
		defer u.mu.Unlock()
		if n > 0 && u.used+n > u.total {
			return fmt.Errorf("%w: %d bytes for this host", ErrQuota, u.total)
		}
		if n > 0 && u.agents[agent]+n > u.perAgent {
			return fmt.Errorf("%w: %d bytes for agent %s", ErrQuota, u.perAgent, agent)
		}
		u.add(agent, n)
		return nil
	}
}

// add counts room that is taken already, quota or not.
func (u *usage) add(agent string, n int64) {
	u.used += n
	u.agents[agent] += n
}

// Usage is how much room recordings take.
type Usage struct {
	Total  int64
	Agents map[string]int64
}

// Usage returns the room taken now, including what is made ahead for sessions
// that are open.
func (s *Store) Usage() Usage {
	s.usage.mu.Lock()
	defer s.usage.mu.Unlock()
	out := Usage{Total: s.usage.used, Agents: make(map[string]int64, len(s.usage.agents))}
	for a, n := range s.usage.agents {
		out.Agents[a] = n
	}
	return out
}
