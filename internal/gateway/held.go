package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/postern/postern/internal/approval"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/policy"
	"github.com/postern/postern/internal/record"
)

// maxHold is how long a held request may keep the rows that it has changed
// locked, from its decision to that of people.
const maxHold = 60 * time.Second

// maxSampleText bounds what is shown of one value of a sample, in bytes.
const maxSampleText = 200

// held is a request that may be run before people decide.
type held struct {
	request engine.Request // a copy that lives as long
	verdict policy.Verdict
	until   time.Time
	release func()
}

// holds are the agents that have a held request now: one each, because it keeps
// locks that others wait for.
type holds struct {
	mu     sync.Mutex
	agents map[string]bool
}

func (h *holds) acquire(agent string) (release func(), ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.agents[agent] {
		return nil, false
	}
	if h.agents == nil {
		h.agents = map[string]bool{}
	}
	h.agents[agent] = true
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.agents, agent)
	}, true
}

// hold says that r may be run before people decide, or why not where the rule
// asks for it.
func (g *gate) hold(r *engine.Request, v policy.Verdict) (*held, *approval.Preview) {
	switch {
	case !v.Preview:
		return nil, nil
	case !r.Holds:
		return nil, &approval.Preview{Why: r.Unheld}
	}
	release, ok := g.gateway.holds.acquire(g.flow.Agent)
	if !ok {
		return nil, &approval.Preview{Why: "another transaction of this agent is held already"}
	}
	h := &held{request: *r, verdict: v, until: g.gateway.Now().Add(maxHold), release: release}
	h.request.Params = slices.Clone(r.Params)
	for i, p := range r.Params {
		h.request.Params[i].Value = slices.Clone(p.Value)
	}
	return h, nil
}

// Held implements engine.Exchange.
func (x *exchange) Held() bool { return x.held != nil }

// Settle implements engine.Exchange.
func (x *exchange) Settle(ctx context.Context, p engine.Preview, pending func(engine.Pending)) *engine.Denial {
	g, h := x.gate, x.held
	r, v := h.request, h.verdict
	r.Pending = pending
	shown := g.preview(p)
	if p.Ran {
		v.Within = max(min(v.Within, h.until.Sub(g.gateway.Now())), time.Second)
		r.Context += " " + digest(shown)
	}
	if d := g.ask(ctx, x.number, &r, v, shown); d != nil {
		return g.deny(x.number, d)
	}
	if g.setup.Host {
		if err := g.log.Commit(record.Host); err != nil {
			return g.deny(x.number, g.unrecorded(err))
		}
	}
	g.gateway.Metrics.allowed(g.session)
	return nil
}

// preview is p for people: masked as for the agent.
func (g *gate) preview(p engine.Preview) *approval.Preview {
	out := &approval.Preview{Ran: p.Ran, Why: p.Why, Rows: p.Rows, Error: g.maskedText(p.Error)}
	maskers := make([]engine.Masker, len(p.Fields))
	for i := range p.Fields {
		out.Columns = append(out.Columns, p.Fields[i].Name)
		maskers[i] = g.maskerFor(&p.Fields[i])
	}
	for _, row := range p.Sample {
		values := make([]string, len(maskers))
		for i, v := range row {
			null := v == nil
			if m := maskers[i]; m != nil && !null {
				v, null = m.Mask(v)
			}
			values[i] = string(v[:min(len(v), maxSampleText)])
			if null {
				values[i] = "NULL"
			}
		}
		out.Sample = append(out.Sample, values)
	}
	return out
}

// digest binds an approval to what people were shown: a retry that changes other
// rows is another request.
func digest(p *approval.Preview) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d %q %q %q", p.Rows, p.Error, p.Columns, p.Sample)
	return hex.EncodeToString(h.Sum(nil))
}
