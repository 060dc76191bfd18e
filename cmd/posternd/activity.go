package main

import (
	"cmp"
	"slices"
	"time"

	"github.com/postern/postern/internal/approval"
	pkgcontrol "github.com/postern/postern/pkg/control"
)

// activity is what `postern top` shows.
func (d *daemon) activity() (pkgcontrol.Activity, error) {
	out := pkgcontrol.Activity{At: time.Now(), Started: d.started, Traffic: []pkgcontrol.Traffic{}, Bypass: map[string]uint64{}}
	type key struct{ agent, target string }
	rows := map[key]*pkgcontrol.Traffic{}
	row := func(agent, target string) *pkgcontrol.Traffic {
		r := rows[key{agent, target}]
		if r == nil {
			r = &pkgcontrol.Traffic{Agent: agent, Target: target}
			rows[key{agent, target}] = r
		}
		return r
	}
	for _, a := range d.config().Agents {
		row(a.Name, "")
	}
	for _, t := range d.gateway.Traffic() {
		r := row(t.Agent, t.Target)
		r.Sessions, r.Allowed, r.Denied, r.FromAgent, r.ToAgent = t.Sessions, t.Allowed, t.Denied, t.FromAgent, t.ToAgent
	}
	for _, a := range d.approvals.List() {
		if a.State == approval.Pending {
			row(a.Agent, a.Target).Pending++
		}
	}
	for agent, n := range d.denials.counted() {
		row(agent, "").Bypass = n
	}
	for _, r := range rows {
		out.Traffic = append(out.Traffic, *r)
	}
	slices.SortFunc(out.Traffic, func(a, b pkgcontrol.Traffic) int {
		return cmp.Or(cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Target, b.Target))
	})
	counts, err := d.kernel.Stats()
	for kind, n := range counts {
		if kind.Denied() && n > 0 {
			out.Bypass[kind.String()] = n
		}
	}
	return out, err
}
