package budget

import (
	"sync"
	"time"
)

// Ledger is the counts of all agents. They belong to an agent and the name of a
// budget, so that they outlive sessions and reloads.
type Ledger struct {
	now func() time.Time

	mu     sync.Mutex
	purses map[string]*purse // by agent
}

// purse is the counts of one agent.
type purse struct {
	mu      sync.Mutex
	windows map[string]*window // by the budget's name
}

// NewLedger returns an empty ledger.
func NewLedger(now func() time.Time) *Ledger {
	return &Ledger{now: now, purses: map[string]*purse{}}
}

func (l *Ledger) purse(agent string) *purse {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.purses[agent]
	if p == nil {
		p = &purse{windows: map[string]*window{}}
		l.purses[agent] = p
	}
	return p
}

// Account is an agent's view of the ledger. It is safe for concurrent use; the
// nil Account has no limits.
type Account struct {
	ledger *Ledger
	purse  *purse
	limits []Limit
	index  []int // of each in what the account was made of
}

// Account returns the account of an agent for a target; nil when none of the
// limits holds there. Target "*" is for all limits.
func (l *Ledger) Account(agent, target string, limits []Limit) *Account {
	a := &Account{ledger: l}
	for i, limit := range limits {
		if limit.Target == "*" || target == "*" || limit.Target == target {
			a.limits, a.index = append(a.limits, limit), append(a.index, i)
		}
	}
	if len(a.limits) == 0 {
		return nil
	}
	a.purse = l.purse(agent)
	return a
}

// window is called with the purse's lock held.
func (a *Account) window(limit *Limit, now time.Time) *window {
	w := a.purse.windows[limit.Name]
	switch {
	case w == nil:
		w = newWindow(limit.Per)
		a.purse.windows[limit.Name] = w
	case w.width != limit.Per/slots:
		w = w.resized(limit.Per, now)
		a.purse.windows[limit.Name] = w
	}
	w.advance(now)
	return w
}

// Look says how the agent would stand with the worst of its limits if it took
// add; nil when all of them are free.
func (a *Account) Look(add Amounts) *Standing {
	if a == nil {
		return nil
	}
	now := a.ledger.now()
	a.purse.mu.Lock()
	defer a.purse.mu.Unlock()
	return a.worst(add, now)
}

// worst is called with the purse's lock held.
func (a *Account) worst(add Amounts, now time.Time) *Standing {
	var worst *Standing
	for i := range a.limits {
		w := a.window(&a.limits[i], now)
		state, kind := a.limits[i].state(w.sum, add)
		if state == Free || worst != nil && worst.State >= state {
			continue
		}
		worst = &Standing{Limit: a.limits[i], Index: a.index[i], Used: w.sum, State: state, Kind: kind, Frees: w.frees(now)}
	}
	return worst
}

// Take takes add from all limits, or from none: then it returns the one of which
// not enough is left.
func (a *Account) Take(add Amounts) *Standing {
	if a == nil {
		return nil
	}
	now := a.ledger.now()
	a.purse.mu.Lock()
	defer a.purse.mu.Unlock()
	if s := a.worst(add, now); s != nil && s.State == Spent {
		return s
	}
	a.take(add, now)
	return nil
}

// Owe takes add whatever is left: it has been had already.
func (a *Account) Owe(add Amounts) {
	if a == nil {
		return
	}
	a.purse.mu.Lock()
	defer a.purse.mu.Unlock()
	a.take(add, a.ledger.now())
}

func (a *Account) take(add Amounts, now time.Time) {
	for i := range a.limits {
		a.window(&a.limits[i], now).add(add)
	}
}

// Standings says how the agent stands with each of its limits, in their order.
func (a *Account) Standings() []Standing {
	if a == nil {
		return nil
	}
	now := a.ledger.now()
	a.purse.mu.Lock()
	defer a.purse.mu.Unlock()
	out := make([]Standing, len(a.limits))
	for i := range a.limits {
		w := a.window(&a.limits[i], now)
		s := Standing{Limit: a.limits[i], Index: a.index[i], Used: w.sum, Frees: w.frees(now)}
		s.State, s.Kind = a.limits[i].state(w.sum, Amounts{1, 1, 1, 1})
		out[i] = s
	}
	return out
}
