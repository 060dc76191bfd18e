package gateway

import (
	"cmp"
	"slices"
	"sync/atomic"
)

// Traffic is what an agent has done with a target since the daemon started, as
// `postern top` shows it. The target is "" where none was meant.
type Traffic struct {
	Agent, Target      string
	Sessions           int    // that are running
	Allowed, Denied    uint64 // requests
	FromAgent, ToAgent int64  // bytes, inside TLS
}

// traffic counts beside the metrics, which have no labels for both an agent and
// a target: their number would be the product of the two.
type traffic struct {
	allowed, denied    atomic.Uint64
	fromAgent, toAgent atomic.Int64 // of sessions that have ended
}

type trafficKey struct{ agent, target string }

func (m *Metrics) trafficOf(s *session) *traffic {
	key := trafficKey{s.flow.Agent, s.targetName()}
	m.mu.Lock()
	defer m.mu.Unlock()
	t, ok := m.traffic[key]
	if !ok {
		t = &traffic{}
		m.traffic[key] = t
	}
	return t
}

// Traffic returns what all agents have done, by agent and target. There is an
// entry for each pair that had a session.
func (g *Gateway) Traffic() []Traffic {
	g.Metrics.mu.Lock()
	all := map[trafficKey]*Traffic{}
	for key, t := range g.Metrics.traffic {
		all[key] = &Traffic{
			Agent: key.agent, Target: key.target, Allowed: t.allowed.Load(), Denied: t.denied.Load(),
			FromAgent: t.fromAgent.Load(), ToAgent: t.toAgent.Load(),
		}
	}
	g.Metrics.mu.Unlock()
	for _, r := range g.Running() {
		// A session that is not counted in yet comes with the next reading.
		if t := all[trafficKey{r.Agent, r.Target}]; t != nil {
			t.Sessions++
			t.FromAgent += r.FromAgent
			t.ToAgent += r.ToAgent
		}
	}
	out := make([]Traffic, 0, len(all))
	for _, t := range all {
		out = append(out, *t)
	}
	slices.SortFunc(out, func(a, b Traffic) int {
		return cmp.Or(cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Target, b.Target))
	})
	return out
}
