package gateway

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern/postern/internal/dns"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/mask"
	"github.com/postern/postern/internal/policy"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/pkg/recording"
)

// Setup is one configuration, built whole before it is used and never changed
// afterwards. A reload replaces it.
type Setup struct {
	Generation uint64         // counted by the gateway
	Hash       recording.Hash // of the configuration's text
	Agents     map[string]*Agent
	Targets    []*Target
	Names      *dns.Table
	Limits     Limits
	Results    bool  // rows, and what commands and shells write, go on record
	Input      bool  // so does what commands read
	Typed      bool  // and what is typed at terminals
	MaxSession int64 // bytes of results on one session's record
	Host       bool  // what is recorded survives a power failure before it is forwarded
}

// Limits of all sessions together, and of each.
type Limits struct {
	engine.Limits
	Sessions         int
	SessionsPerAgent int
	Idle             time.Duration
}

// Agent is a configured agent.
type Agent struct {
	Name       string
	Policy     *policy.Policy
	PolicyName string
	Observe    bool // until Until, verdicts are recorded and not enforced
	Until      time.Time
	Budgets    []Budget          // of its policy
	MaskKey    []byte            // of this agent's hashes and pseudonyms
	Masks      map[string]*Masks // by target; nil when nothing is masked

	Roles    []RolePolicy // what those have instead whose identity has a role; the first counts
	Identity IdentityRule
}

// RolePolicy is the agent as it is for whoever has a role.
type RolePolicy struct {
	Role  string
	Agent *Agent
}

// IdentityRule is what an agent must be told of on whose behalf it runs.
type IdentityRule struct {
	Required bool
	Issuers  []string // whose identities are taken; empty: of all
	OnExpiry Expiry
	Ask      *policy.Ask // for ExpiryAsks
}

// Expiry says what becomes of new sessions when what attests an identity has
// come to its end.
type Expiry uint8

const (
	ExpiryEnds  Expiry = iota // there are none
	ExpiryAsks                // people decide about each
	ExpiryKeeps               // they are as before
)

// agentFor returns the agent of a flow, as it is for its identity; nil when it is
// not configured.
func (s *Setup) agentFor(f *engine.Flow) *Agent {
	a := s.Agents[f.Agent]
	if a == nil || f.Identity == nil {
		return a
	}
	for _, r := range a.Roles {
		if slices.Contains(f.Identity.Roles, r.Role) {
			return r.Agent
		}
	}
	return a
}

// Masks is what an agent must not see of a target.
type Masks struct {
	Columns []ColumnMask  // the first that matches counts
	Scanner *mask.Scanner // nil when nothing is detected
	Words   []string      // all of it as configured, to compare
}

// ColumnMask masks the columns that a pattern names.
type ColumnMask struct {
	Pattern string
	Kind    mask.Kind
	Detects bool   // what is computed from the columns is searched, and not redacted
	Domain  string // of hashes and pseudonyms that are to be equal for equal values
}

// of returns the mask of a field's column, nil when there is none.
func (m *Masks) of(f *engine.Field) *ColumnMask {
	if m == nil || f.Column == "" {
		return nil
	}
	for i := range m.Columns {
		if engine.MatchColumn(m.Columns[i].Pattern, f.Schema, f.Table, f.Column) {
			return &m.Columns[i]
		}
	}
	return nil
}

// detects says whether values that may be computed from these columns, each
// "schema.table.column", are searched by detectors instead of redacted.
func (m *Masks) detects(columns []string) bool {
	if m == nil || m.Scanner == nil {
		return false
	}
	return !slices.ContainsFunc(columns, func(name string) bool {
		parts := strings.Split(name, ".")
		if len(parts) != 3 {
			return true // a name that is quoted, or not known
		}
		of := m.of(&engine.Field{Schema: parts[0], Table: parts[1], Column: parts[2]})
		return of == nil || !of.Detects
	})
}

// keyOf derives the key of a mask's domain; nil when the agent has none.
func (a *Agent) keyOf(m *ColumnMask) []byte {
	if m.Domain == "" || len(a.MaskKey) == 0 {
		return a.MaskKey
	}
	h := hmac.New(sha256.New, a.MaskKey)
	h.Write([]byte("domain " + m.Domain))
	return h.Sum(nil)
}

// Patterns returns those of m's columns.
func (m *Masks) Patterns() []string {
	if m == nil {
		return nil
	}
	out := make([]string, len(m.Columns))
	for i, c := range m.Columns {
		out[i] = c.Pattern
	}
	return out
}

func (m *Masks) words() []string {
	if m == nil {
		return nil
	}
	return m.Words
}

func (a *Agent) observing(now time.Time) bool { return a.Observe && now.Before(a.Until) }

// Target is a configured upstream.
type Target struct {
	Name        string
	Protocol    engine.Protocol
	Hosts       []HostPort
	Dial        *HostPort
	Real        bool // agents are told the real addresses of its hosts
	Placeholder secret.Placeholder
	AgentAuth   string
	Verified    bool
	// ServerTLS is what the agent is shown; ClientTLS what the upstream is
	// asked for, nil for no TLS; Credential fetches the newest.
	ServerTLS  func(engine.Flow) *tls.Config
	ClientTLS  func(host string) *tls.Config
	Credential func(context.Context, *engine.Flow) (secret.Credential, error)
	// Refetch has the credential asked for anew where it comes from, after the
	// upstream refused it; nil: it cannot have changed.
	Refetch func(context.Context, *engine.Flow) error
	// HostKeys are shown to agents for a host, KnownHosts verifies the upstream's:
	// for SSH.
	HostKeys   func(host string) ([]engine.HostKey, error)
	KnownHosts []byte
	// Identity is everything of the configuration that a session depends on;
	// a session ends when it changed.
	Identity any

	matcher sharedMatcher
}

// sharedMatcher finds a target's newest secrets in what comes back. Its table
// takes more memory than all else that an idle session knows of its target, so
// the sessions of a target share it.
type sharedMatcher struct {
	mu    sync.Mutex
	made  []secret.Secret // what it was made for
	known *mask.Matcher
	weak  bool
}

// of returns the matcher for secrets, and whether one is too weak to be looked
// for.
func (s *sharedMatcher) of(list []mask.Known) (known *mask.Matcher, weak bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := slices.EqualFunc(s.made, list, func(a secret.Secret, b mask.Known) bool { return a.Equal(b.Secret) })
	if s.known == nil || !same {
		var weak []int
		s.known, weak = mask.NewKnown(list)
		s.made, s.weak = nil, len(weak) > 0
		for _, k := range list {
			s.made = append(s.made, secret.New(bytes.Clone(k.Secret)))
		}
	}
	return s.known, s.weak
}

// same reports whether a session with one may go on under the other.
func (t *Target) same(o *Target) bool { return reflect.DeepEqual(t.Identity, o.Identity) }

func (t *Target) listsAddress(a netip.Addr) bool {
	for _, h := range t.Hosts {
		if listed, err := netip.ParseAddr(h.Host); err == nil && listed.Unmap() == a {
			return true
		}
	}
	return false
}

func (t *Target) clientTLS(host HostPort) *tls.Config {
	if t.ClientTLS == nil {
		return nil
	}
	return t.ClientTLS(host.Host)
}
