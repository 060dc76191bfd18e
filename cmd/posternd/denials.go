package main

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/postern/postern/internal/redirect"
)

const (
	// denialWindow is for how long the same denial is not logged again, but counted.
	denialWindow = 10 * time.Second
	// maxDenials bounds those that are remembered: an agent chooses where it wants
	// to go. When it is reached they are all told and forgotten.
	maxDenials = 4096
)

// denials puts what the kernel denied into the log: who tried, and what. The
// same once in a window, with how often it was meanwhile, so that nobody hides an
// attempt in noise or fills a disk with it. What is counted, and never left out,
// is in the metrics.
type denials struct {
	log     *slog.Logger
	agentOf func(cgroup uint64) string

	mu     sync.Mutex
	seen   map[denial]*repeated
	counts map[string]uint64 // by agent, all of them
}

// denial is what makes two of them the same.
type denial struct {
	agent string
	kind  redirect.Kind
	to    netip.AddrPort
}

type repeated struct {
	since      time.Time // when it was logged
	suppressed int
	last       redirect.Event
}

func newDenials(log *slog.Logger, agentOf func(cgroup uint64) string) *denials {
	return &denials{log: log, agentOf: agentOf, seen: map[denial]*repeated{}, counts: map[string]uint64{}}
}

// Run tells what was suppressed when its window is over, until ctx ends.
func (d *denials) Run(ctx context.Context) {
	tick := time.NewTicker(denialWindow / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			d.flush(0)
			return
		case <-tick.C:
			d.flush(denialWindow)
		}
	}
}

// hear is called for every event of the kernel.
func (d *denials) hear(e redirect.Event) {
	agent := d.agentOf(e.PolicyCgroupID)
	if e.Kind == redirect.Glass {
		// Each connection that goes past the gateway is in the log.
		d.log.Warn("past the gateway: the glass is broken", "agent", agent, "to", e.Remote,
			"protocol", e.Protocol, "pid", e.TGID, "uid", e.UID, "comm", e.Comm)
		return
	}
	key := denial{agent, e.Kind, e.Remote}
	d.mu.Lock()
	d.counts[agent]++
	if r := d.seen[key]; r != nil {
		r.suppressed++
		r.last = e
		d.mu.Unlock()
		return
	}
	full := len(d.seen) >= maxDenials
	d.mu.Unlock()
	if full {
		d.flush(0)
	}
	d.mu.Lock()
	d.seen[key] = &repeated{since: time.Now(), last: e}
	d.mu.Unlock()
	d.tell(agent, e, 0)
}

// counted says how much each agent was denied. It is what the kernel told of; its
// own counters have what it could not tell of too, and no agents.
func (d *denials) counted() map[string]uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.counts)
}

// flush forgets what is as old as this, and tells what of it was suppressed.
func (d *denials) flush(age time.Duration) {
	d.mu.Lock()
	over := map[denial]*repeated{}
	for key, r := range d.seen {
		if time.Since(r.since) >= age {
			over[key] = r
			delete(d.seen, key)
		}
	}
	d.mu.Unlock()
	for key, r := range over {
		if r.suppressed > 0 {
			d.tell(key.agent, r.last, r.suppressed)
		}
	}
}

// tell writes one line. With suppressed it is the last of so many that were not
// written.
func (d *denials) tell(agent string, e redirect.Event, suppressed int) {
	args := []any{
		"kind", e.Kind.String(), "agent", agent, "to", e.Remote, "protocol", e.Protocol, "pid", e.TGID, "uid", e.UID, "comm", e.Comm,
	}
	if suppressed > 0 {
		args = append(args, "suppressed", suppressed)
	}
	d.log.Warn("denied by the kernel", args...)
}
