package main

import (
	"cmp"
	"slices"
	"time"

	"github.com/postern/postern/internal/budget"
	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/gateway"
	"github.com/postern/postern/internal/metrics"
	"github.com/postern/postern/internal/policy"
	pkgcontrol "github.com/postern/postern/pkg/control"
)

// budgets are those of a policy.
func budgets(cfg *config.Config, name string) []gateway.Budget {
	var out []gateway.Budget
	for _, p := range cfg.Policies {
		if p.Name != name {
			continue
		}
		for _, b := range p.Budgets {
			made := gateway.Budget{Limit: budget.Limit{
				Name: b.Name, Target: b.Target, Per: b.Per,
				Most: budget.Amounts{
					budget.Statements: int64(b.Statements), budget.Rows: int64(b.Rows),
					budget.Bytes: int64(b.Bytes), budget.Writes: int64(b.Writes),
				},
			}}
			if b.Ask != nil {
				made.AskAt = b.Ask.At
				made.Ask = &policy.Ask{
					Rule: "budget " + b.Name, Approvers: b.Ask.Ask.Approvers, Within: b.Ask.Ask.Within,
					ReasonRequired: b.Ask.Ask.ReasonRequired, SelfAllowed: b.Ask.Ask.SelfAllowed,
				}
			}
			out = append(out, made)
		}
	}
	return out
}

// shownBudgets is how every agent stands.
func (d *daemon) shownBudgets() []pkgcontrol.Budget {
	out := []pkgcontrol.Budget{}
	for _, s := range d.gateway.Budgets() {
		shown := pkgcontrol.Budget{
			Agent: s.Agent, Name: s.Limit.Name, Target: s.Limit.Target, Window: s.Limit.Per.Seconds(),
			State: s.State.String(), AskAt: s.Limit.AskAt, Frees: s.Frees.Seconds(), Amounts: map[string]pkgcontrol.Amount{},
		}
		for k, most := range s.Limit.Most {
			if kind := budget.Kind(k); most > 0 {
				shown.Amounts[kind.String()] = pkgcontrol.Amount{Used: s.Used[k], Most: most, Left: s.Left(kind)}
			}
		}
		out = append(out, shown)
	}
	slices.SortFunc(out, func(a, b pkgcontrol.Budget) int {
		return cmp.Or(cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// budgetUse is the same for metrics.
func (d *daemon) budgetUse() []metrics.BudgetUse {
	var out []metrics.BudgetUse
	for _, s := range d.gateway.Budgets() {
		for k, most := range s.Limit.Most {
			if most > 0 {
				out = append(out, metrics.BudgetUse{
					Agent: s.Agent, Budget: s.Limit.Name, Kind: budget.Kind(k).String(), Ratio: float64(s.Used[k]) / float64(most),
				})
			}
		}
	}
	return out
}

// openBudgets takes up the counts that the last daemon left.
func openBudgets(path string) (*budget.Ledger, error) {
	l := budget.NewLedger(time.Now)
	return l, l.Load(path)
}
