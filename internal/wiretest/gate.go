package wiretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/postern/postern/internal/engine"
)

// Gate decides by a func and records what it was asked, and what became of the
// exchanges it opened.
type Gate struct {
	// Decide returns nil to allow, else usually a *engine.Denial. Nil allows all
	// but what the protocol refuses itself.
	Decide func(context.Context, *engine.Request) error
	// Waits says for which requests Decide may wait. Nil: for all.
	Waits func(*engine.Request) bool
	// Sure is asked by Would; nil means that nothing is sure.
	Sure func(*engine.Request) *engine.Denial
	// Mask returns a field's masker, or nil. Nil masks nothing.
	Mask func(engine.Field) engine.Masker
	// Patterns is what Masked returns.
	Patterns []string
	// Hold says which of the requests that can be held are; Settle decides them.
	Hold   func(*engine.Request) bool
	Settle func(context.Context, engine.Preview) *engine.Denial
	// Rows is how many rows may still reach the client; nil: any number.
	Rows *int
	// Pseudonyms are values by what Restore knows them as.
	Pseudonyms map[string]string
	// Targets is asked by Reenter; nil: there are none.
	Targets func(host string, port uint16) (engine.Reentry, *engine.Denial)
	// Hide is replaced by [hidden] in free text and in what streams down.
	Hide string

	mu        sync.Mutex
	named     []string // by the policy
	events    []string
	exchanges []*exchange
}

// Submit implements engine.Gate.
func (g *Gate) Submit(ctx context.Context, r *engine.Request) (engine.Exchange, error) {
	g.note("submit %s %q%s", r.Kind, r.Text, effects(r))
	if r.Refused != nil {
		g.note("refused")
		return nil, r.Refused
	}
	if g.Decide != nil {
		if err := g.Decide(ctx, r); err != nil {
			g.note("denied")
			return nil, err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	x := &exchange{gate: g, n: len(g.exchanges) + 1, kind: r.Kind, text: r.Text, held: r.Holds && g.Hold != nil && g.Hold(r)}
	g.exchanges = append(g.exchanges, x)
	return x, nil
}

// SubmitNow implements engine.Gate.
func (g *Gate) SubmitNow(r *engine.Request) (x engine.Exchange, now bool, err error) {
	if g.Decide != nil && r.Refused == nil && (g.Waits == nil || g.Waits(r)) {
		return nil, false, nil
	}
	x, err = g.Submit(context.Background(), r)
	return x, true, err
}

func effects(r *engine.Request) string {
	var b strings.Builder
	for _, e := range r.Effects {
		fmt.Fprintf(&b, " %s(%s)", e.Verb, e.Object)
	}
	return b.String()
}

// Would implements engine.Gate.
func (g *Gate) Would(r *engine.Request) *engine.Denial {
	g.note("would %s %q", r.Kind, r.Text)
	if r.Refused != nil {
		return r.Refused
	}
	if g.Sure != nil {
		return g.Sure(r)
	}
	return nil
}

// Name has Names say yes to a verb from now on.
func (g *Gate) Name(verb string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.named = append(g.named, verb)
}

// Names implements engine.Gate.
func (g *Gate) Names(verb string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Contains(g.named, verb)
}

// Scrub implements engine.Gate.
func (g *Gate) Scrub(b []byte) []byte {
	if g.Hide == "" {
		return b
	}
	return bytes.ReplaceAll(b, []byte(g.Hide), []byte("[hidden]"))
}

// Scrubs implements engine.Gate.
func (g *Gate) Scrubs() bool { return g.Hide != "" }

// Masked implements engine.Gate.
func (g *Gate) Masked() []string { return g.Patterns }

// Restore implements engine.Gate. It is sure of what does not begin with a digit.
func (g *Gate) Restore(_ engine.Field, v []byte) (real []byte, sure, ok bool) {
	value, ok := g.Pseudonyms[string(v)]
	return []byte(value), ok && (v[0] < '0' || v[0] > '9'), ok
}

// Beside implements engine.Gate.
func (g *Gate) Beside() engine.Gate { return g }

// Reenter implements engine.Gate.
func (g *Gate) Reenter(host string, port uint16) (engine.Reentry, *engine.Denial) {
	if g.Targets == nil {
		return nil, &engine.Denial{Code: engine.ByPolicy, Reason: fmt.Sprintf("no target is configured for %s:%d", host, port)}
	}
	return g.Targets(host, port)
}

func (g *Gate) note(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, fmt.Sprintf(format, args...))
}

// Events returns, and forgets, what happened: "submit …", "would …", "denied",
// and for the exchanges "row …", "up …", "down …" and "end … status tag".
func (g *Gate) Events() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.events
	g.events = nil
	return e
}

// Saw fails the test unless exactly these events happened since it was last
// asked.
func (g *Gate) Saw(t *testing.T, want ...string) {
	t.Helper()
	if got := g.Events(); !slices.Equal(got, want) {
		t.Fatalf("the gate saw:\n\t%s\nwant:\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// Allowed returns how many exchanges were opened.
func (g *Gate) Allowed() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.exchanges)
}

func (g *Gate) mentions(text string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.events, func(e string) bool { return strings.Contains(e, text) })
}

// Unended returns how many exchanges have not been ended exactly once.
func (g *Gate) Unended() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, x := range g.exchanges {
		if x.ended != 1 {
			n++
		}
	}
	return n
}

// check is the law of every session: an exchange ends exactly once.
func (g *Gate) check(t testing.TB) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, x := range g.exchanges {
		if x.ended != 1 {
			t.Errorf("exchange %d (%s %q) was ended %d times", x.n, x.kind, x.text, x.ended)
		}
	}
}

// exchange records.
type exchange struct {
	gate  *Gate
	n     int
	kind  string
	text  string
	ended int
	held  bool
}

func (x *exchange) Result(fields []engine.Field) []engine.Masker {
	maskers := make([]engine.Masker, len(fields))
	for i, f := range fields {
		if x.gate.Mask != nil {
			maskers[i] = x.gate.Mask(f)
		}
	}
	return maskers
}

func (x *exchange) Row(body []byte) *engine.Denial {
	if d := x.gate.over(1); d != nil {
		return d
	}
	x.gate.note("row %q", body)
	return nil
}

func (x *exchange) Data(dir engine.Direction, b []byte, rows int) *engine.Denial {
	if dir == engine.Downward {
		if d := x.gate.over(rows); d != nil {
			return d
		}
	}
	x.gate.note("%s %q", [...]string{"up", "down"}[dir], b)
	return nil
}

// over counts rows against Rows.
func (g *Gate) over(rows int) *engine.Denial {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.Rows == nil {
		return nil
	}
	if *g.Rows -= rows; *g.Rows >= 0 {
		return nil
	}
	return &engine.Denial{Code: engine.Exhausted, Rule: "budget test", Reason: "no rows are left", Help: "wait"}
}

// Held implements engine.Exchange.
func (x *exchange) Held() bool { return x.held }

// Settle implements engine.Exchange.
func (x *exchange) Settle(ctx context.Context, p engine.Preview, pending func(engine.Pending)) *engine.Denial {
	x.gate.note("settle ran=%t why=%q rows=%d error=%q sample=%q", p.Ran, p.Why, p.Rows, p.Error, p.Sample)
	pending(engine.Pending{ID: "a1", Rule: "held"})
	return x.gate.Settle(ctx, p)
}

// Stream implements engine.Exchange.
func (x *exchange) Stream(kind engine.StreamKind) engine.Stream { return &stream{x, kind} }

// Terminal implements engine.Exchange.
func (x *exchange) Terminal(t engine.Terminal) {
	x.gate.note("terminal %q %dx%d", t.Type, t.Columns, t.Rows)
}

// File implements engine.Exchange. Of a hash it notes the beginning.
func (x *exchange) File(f engine.File) {
	sum := ""
	if f.SHA256 != [32]byte{} {
		sum = fmt.Sprintf(" %x", f.SHA256[:4])
	}
	to := ""
	if f.To != "" {
		to = " to " + f.To
	}
	failed := ""
	if f.Error != "" {
		failed = " " + f.Error
	}
	x.gate.note("file %s %s%s %d%s%s", f.Verb, f.Path, to, f.Bytes, sum, failed)
}

// Charge implements engine.Exchange.
func (x *exchange) Charge(int) *engine.Denial { return x.gate.over(1) }

// stream notes each piece.
type stream struct {
	x    *exchange
	kind engine.StreamKind
}

func (s *stream) Write(p []byte) ([]byte, *engine.Denial) {
	if s.kind != engine.Stdin {
		if d := s.x.gate.over(1); d != nil {
			return nil, d
		}
		p = s.x.gate.Scrub(p)
	}
	s.x.gate.note("%s %q", s.kind, p)
	return p, nil
}

func (s *stream) Held() bool                      { return false }
func (s *stream) Flush() ([]byte, *engine.Denial) { return nil, nil }
func (s *stream) Close() ([]byte, *engine.Denial) { return nil, nil }

func (x *exchange) Text(b []byte) []byte { return x.gate.Scrub(b) }

func (x *exchange) End(o engine.Outcome) {
	x.gate.note("end %q %s %q rows=%d", x.text, o.Status, o.Tag, o.Rows)
	x.gate.mu.Lock()
	defer x.gate.mu.Unlock()
	x.ended++
}

// Redact is a masker that leaves nothing.
type Redact struct{}

func (Redact) Mask([]byte) ([]byte, bool) { return []byte("[masked]"), false }

func asTimeout(err error, timeout *net.Error) bool {
	return errors.As(err, timeout) && (*timeout).Timeout()
}
