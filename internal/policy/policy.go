// Package policy turns rules into verdicts. It is pure: no clock, no I/O, and
// the same input has the same verdict.
//
// A request is split into effects (the protocols do that). Each effect takes
// the first rule that matches it; over the effects deny beats ask beats allow,
// and asks accumulate. What no rule matches is denied. What is not known counts
// against the request: docs/policy.md has the truth table, and TestTruth has it
// row by row.
//
// What a request does is left to the protocols, waiting for people to approval,
// and hiding values to mask. Start with Compile, then Policy.Decide.
package policy

import (
	"time"

	"github.com/postern/postern/internal/engine"
)

// Config is the policies of one configuration.
type Config struct {
	Policies []Source
}

// Source is one policy as it is written. Where fields say the place in a file,
// for problems.
type Source struct {
	Where string
	Name  string
	Rules []Rule
	Masks []Mask
}

// Rule decides the effects that it matches. Exactly one of Allow, Deny and Ask
// is set.
type Rule struct {
	Where     string
	WhenWhere string
	Name      string
	Target    string   // "*": all
	Roles     []string // of identities, any of which it takes; empty: whoever it is
	Verbs     []string // "*": all but unknown, filter and derive
	Tables    []string // patterns of relations and what is named like them; empty: all
	Objects   []string // patterns of other objects; empty: all
	Columns   []string // patterns of columns, for filter and derive only; empty: all
	When      string   // a CEL expression; empty: always
	Allow     bool
	Deny      string // the reason
	Ask       *Ask
	Help      string // what to do instead
}

// Ask is who decides what a rule does not. One of Approvers is enough.
type Ask struct {
	Rule           string // set by Compile
	Approvers      []string
	Within         time.Duration
	ReasonRequired bool // whoever asks gives a reason
	SelfAllowed    bool // who runs the agent may approve
	Preview        bool // it is run first where it can be undone, and they see what it has done
}

// Mask says which values are hidden from an agent.
type Mask struct {
	Target  string   // "*": all
	Columns []string // "table.column" or "schema.table.column", "*" for any part
	Detect  []string // detectors
	With    string   // how
	Detects bool     // the detectors search what is computed from the columns; else it is redacted
	Domain  string   // of values whose hashes or pseudonyms are to be equal, empty for the agent's
}

// Problem is one thing wrong with a configuration.
type Problem struct {
	Where   string
	Warning bool // the configuration is used nevertheless
	Message string
	Help    string
}

func (p Problem) String() string {
	s := p.Where + ": "
	if p.Warning {
		s += "warning: "
	}
	s += p.Message
	if p.Help != "" {
		s += "; " + p.Help
	}
	return s
}

// Action of a verdict.
type Action uint8

const (
	Deny Action = iota // the zero verdict denies
	NeedsPerson
	Allow
)

func (a Action) String() string { return [...]string{"deny", "ask", "allow"}[a] }

// Verdict is what the policy says to one request.
type Verdict struct {
	Action Action
	Rule   string      // that decided; of several, that of the first effect; empty when none did
	Reason string      // for Deny and Ask: why, without the final stop
	Help   string      // for Deny and Ask: what to do instead
	Code   engine.Code // for Deny: of the denial

	Note string // for Ask: what the client should know while it waits

	// For Ask. A request needs one approver of each of Asks, which are in the
	// order of the effects; the other fields sum them up.
	Asks           []*Ask
	Approvers      []string      // of all, without doubles
	Within         time.Duration // the shortest
	ReasonRequired bool          // by any
	SelfAllowed    bool          // by all
	Preview        bool          // by any
}

// Denial returns the verdict of a Deny as the client is told it.
func (v Verdict) Denial() *engine.Denial {
	return &engine.Denial{Code: v.Code, Rule: v.Rule, Reason: v.Reason, Help: v.Help}
}

// Input is one request.
type Input struct {
	Target   string
	Effects  []engine.Effect
	Facts    map[string]any // by engine.Fact.Name; what is missing is unknown
	Passing  map[string]any // facts of this moment
	Agent    Agent
	Database string // as the agent named it; empty: unknown
	User     string // the same
	Session  Session

	Identity *engine.Identity   // nil: unknown
	Only     []engine.Narrowing // nil: no less than the policy allows
}

// named is a variable that may be unknown: what the agent has named a session,
// and on whose behalf it runs.
func (in *Input) named(variable string) (any, bool) {
	switch variable {
	case sessionUser:
		return in.User, in.User != ""
	case sessionDatabase:
		return in.Database, in.Database != ""
	}
	i := in.Identity
	if i == nil {
		return nil, false
	}
	switch variable {
	case identityPrefix + "issuer":
		return i.Issuer, true
	case identityPrefix + "subject":
		return i.Subject, true
	case identityPrefix + "name":
		return i.Name, true
	case identityPrefix + "email":
		return i.Email, true
	case identityPrefix + "owner":
		return i.Owner, true
	case identityPrefix + "groups":
		return i.Groups, true
	case identityPrefix + "roles":
		return i.Roles, true
	case identityPrefix + "claims":
		return i.Claims, true
	}
	return nil, false
}

// Session is what a session has had before this request.
type Session struct {
	Rows       int64 // that reached the agent
	Statements int64 // that were let through
}

func (in *Input) fact(name string) (any, bool) {
	if v, ok := in.Facts[name]; ok {
		return v, true
	}
	v, ok := in.Passing[name]
	return v, ok
}

// Agent is what `when` may ask about the caller. All of it stays the same for
// the life of a session.
type Agent struct {
	Name string
	Run  string
	Exe  string
	UID  uint32
}

// Set is the compiled policies. It is safe for concurrent use and never
// changes: a new configuration compiles to a new Set.
type Set struct {
	policies map[string]*Policy
}

// Policy returns the policy of that name.
func (s *Set) Policy(name string) (*Policy, bool) {
	p, ok := s.policies[name]
	return p, ok
}

// Policy is one compiled policy. It is safe for concurrent use.
type Policy struct {
	Name    string
	targets map[string]*index
	masks   []Mask
}

// index is the rules of one target.
type index struct {
	verbs      map[string][]*rule // in the order of the policy
	named      map[string]bool    // verbs, by a rule that has more to say than "*"
	opens      bool               // a rule may allow or ask
	perSession bool               // a when reads agent or session
	passing    bool               // a when reads what may be otherwise the next time
}

// rule is one compiled rule.
type rule struct {
	id      int // among all of the policy
	name    string
	action  Action
	roles   []string
	tables  []pattern
	objects []object
	columns []string
	when    *condition
	reason  string // of a deny
	help    string
	ask     *Ask
}

// Admit says whether a session with the target makes sense at all: it is
// denied when no rule allows or asks for anything there.
func (p *Policy) Admit(target string) Verdict {
	if x := p.targets[target]; x != nil && x.opens {
		return Verdict{Action: Allow}
	}
	return Verdict{
		Action: Deny,
		Reason: "policy " + p.Name + " allows nothing on target " + target,
		Help:   "ask whoever keeps policy " + p.Name + " for a rule with target: " + target,
	}
}

// PerSession says whether verdicts for the target depend on more than effects
// and facts, namely on Agent and Database. Otherwise a verdict may be kept for
// all sessions under this policy; if so, for those of one session.
func (p *Policy) PerSession(target string) bool {
	x := p.targets[target]
	return x != nil && x.perSession
}

// Names says whether a rule for the target names the verb, rather than by "*".
func (p *Policy) Names(target, verb string) bool {
	x := p.targets[target]
	return x != nil && x.named[verb]
}

// Passing says whether an equal request may get another verdict the next time,
// in the same session and under the same policy.
func (p *Policy) Passing(target string) bool {
	x := p.targets[target]
	return x != nil && x.passing
}

// Masks returns the masks for a target, in the order of the policy.
func (p *Policy) Masks(target string) []Mask {
	var out []Mask
	for _, m := range p.masks {
		if m.Target == target || m.Target == "*" {
			out = append(out, m)
		}
	}
	return out
}
