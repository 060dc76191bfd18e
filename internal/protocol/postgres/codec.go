package postgres

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
	"github.com/postern/postern/internal/sql"
)

// codec is the protocol state of one logged-in session; it implements
// messages.Codec. What the upstream still owes is in queue, in order; every
// response belongs to its head.
type codec struct {
	gate       engine.Gate
	catalog    *catalog
	classifier Classifier
	session    string
	limits     engine.Limits
	identity   scrubber
	stale      func() // the shared catalog is out of date

	queue      queue
	statements map[string]*statement
	portals    map[string]*portal
	sqlNames   map[string]*sql.Statement // what SQL-level PREPARE named
	resolved   map[*sql.Statement]*resolved

	tx        byte      // status of the last ReadyForQuery: I, T or E
	touched   bool      // something was forwarded since the last Sync: the unit is open upstream
	unit      int       // counts Syncs of the client
	unitRan   int       // what ran was at the last of them
	ran       int       // counts what was forwarded that may run statements or make portals
	skipping  bool      // a denial answered this unit: all is dropped up to Sync, as PostgreSQL does
	copyIn    bool      // the upstream takes CopyData
	refresh   bool      // read the catalog again as soon as the upstream is ready
	reread    time.Time // when the catalog was last read again because it lacked a relation
	unsettled bool      // what made that necessary may yet be rolled back
	tainted   bool      // a cursor over masked columns may be open
	wrote     bool      // the upstream has changed something in the unit that is being answered
	fail      bool      // an answer was cut: if a transaction is open it has to fail

	held  held
	hold  *hold  // a request that runs before people decide
	words []byte // settings and open transaction that a request's meaning depends on
	ctx   string // words as engine.Request.Context
}

// held is the message that waits for its decision.
type held struct {
	kind      byte
	msg       []byte // reused
	statement *statement
	portal    *portal
	request   engine.Request
	parsed    *sql.Statement // what Resolve found
	restored  []restored     // what its pseudonyms stand for
}

// statement is a prepared statement of Parse.
type statement struct {
	name   string
	text   string
	types  []byte         // of its parameters, as Parse has them
	sql    *sql.Statement // nil until resolved
	fields *fields        // from the answer to Describe, nil while unknown

	unit      int        // of its Parse
	confirmed bool       // the upstream has taken the Parse
	suspect   bool       // code ran since that may have put another under its name
	previous  *statement // has the name again should the Parse fail
}

// portal is a bound statement.
type portal struct {
	name      string
	statement *statement
	results   []int16
	exchange  engine.Exchange // opened by Bind's decision, used by the first Execute
	restored  []restored
	used      bool
	fields    *fields
	described bool // its Describe is on the way
	unit      int  // of its Bind
	ran       int  // codec.ran as its Bind or last Execute left it
}

// resolved is a statement with the facts of this session's catalog. Its pointer
// is the request's memo.
type resolved struct {
	source  *sql.Statement // as the grammar read it: names are looked up again when it runs
	stmt    *sql.Statement
	effects []engine.Effect
	facts   map[string]any
	derived []string   // masked columns that computed values may come from
	outputs [][]string // the same per column of the result; nil where the statement does not tell
	copies  copyKind
	charge  charge
	unheld  string         // why it cannot be held
	refused *engine.Denial // whatever the policy says
	last    *fields        // the newest description of its result

	comparisons  []comparison
	byPseudonyms *resolved // the same, where every comparison is with a pseudonym
}

type copyKind uint8

const (
	copyNone copyKind = iota
	copyInto
	copyFrom
)

// maxResolved bounds what a session remembers of statements' facts.
const maxResolved = 512

func (c *codec) SplitRequest(buf []byte) (int, int, error)  { return split(buf) }
func (c *codec) SplitResponse(buf []byte) (int, int, error) { return split(buf) }

// copied returns a copy of msg that lives until it has been decided.
func (c *codec) copied(msg []byte) []byte {
	c.held.msg = append(c.held.msg[:0], msg...)
	return c.held.msg
}

// keep holds the message that was copied until r is decided.
func (c *codec) keep(kind byte, r engine.Request) *engine.Request {
	c.held.kind = kind
	c.held.request = r
	return &c.held.request
}

// Allowed implements messages.Codec.
func (c *codec) Allowed(out *messages.Out, x engine.Exchange) {
	h := &c.held
	stmt := c.heldStatement()
	if x != nil && x.Held() {
		c.holdBack(x, stmt)
		c.shrink()
		return
	}
	e := entry{kind: h.kind, exchange: x, resolved: stmt, restored: h.restored, started: time.Now()}
	switch h.kind {
	case 'P':
		h.statement.sql = stmt.source
		e.statement = h.statement
		c.touched = true
	case 'B':
		h.portal.exchange, h.portal.restored = x, h.restored
		e.exchange = nil // the portal's, until Execute
		e.portal = h.portal
		c.setPortal(h.portal)
		c.touched = true
		c.remember(stmt)
		c.ran++
		h.portal.ran = c.ran
	case 'E':
		h.portal.exchange = x
		c.forwardExecute(out, h.portal, h.msg)
		c.shrink()
		return
	case 'Q', 'F':
		e.probe = c.ask(out, stmt, true)
		c.remember(stmt)
		c.ran++
	}
	c.forward(out, e)
	c.shrink()
}

// forward sends the held message on, with the values that its pseudonyms stand
// for.
func (c *codec) forward(out *messages.Out, e entry) {
	h := &c.held
	switch {
	case len(h.restored) == 0:
		out.Up = append(out.Up, h.msg...)
	case h.kind == 'Q':
		c.queryByParameters(out, e, h.request.Text, h.restored)
		return
	default:
		out.Up = appendBind(out.Up, h.msg, h.restored)
	}
	c.queue.push(e)
}

// shrink gives a large held message's room back.
func (c *codec) shrink() {
	if cap(c.held.msg) > 16<<10 {
		c.held.msg = nil
	}
	c.held.statement, c.held.portal, c.held.parsed, c.held.restored = nil, nil, nil, nil
	c.held.request = engine.Request{}
}

func (c *codec) heldStatement() *resolved {
	r, _ := c.held.request.Memo.(*resolved)
	return r
}

// Denied implements messages.Codec. Outside of a transaction, with nothing of
// the unit upstream and nothing owed, the answer is given at once and the
// upstream never hears of it. Otherwise both sides must fail: the upstream is
// sent a statement that its grammar refuses, in place of the denied one, and
// the denial replaces that error when its turn comes.
func (c *codec) Denied(out *messages.Out, d *engine.Denial) {
	h := &c.held
	simple := h.kind == 'Q' || h.kind == 'F'
	if h.kind == 'P' {
		c.unname(h.statement)
	}
	local := c.queue.empty() && !c.touched && c.tx != 'T'
	switch {
	case local && simple:
		out.Down = appendDenial(out.Down, d, c.session)
		out.Down = appendReady(out.Down, c.tx)
	case local:
		out.Down = appendDenial(out.Down, d, c.session)
		c.skipping = true
	case simple:
		out.Up = appendQuery(out.Up, refusedStatement)
		c.queue.push(entry{kind: 'Q', denial: d, started: time.Now()})
	default:
		out.Up = appendParse(out.Up, refusedName, refusedStatement)
		c.queue.push(entry{kind: 'P', denial: d, started: time.Now()})
		c.touched, c.skipping = true, true
	}
	c.shrink()
}

// refusedStatement is no SQL in any version, so that nothing can come of it.
// It is what an operator finds in the server's log where a statement inside a
// transaction was denied.
const (
	refusedStatement = "!refused by postern"
	refusedName      = "postern_refused"
)

// Pending implements messages.Codec.
func (c *codec) Pending(out *messages.Out, p engine.Pending) {
	out.Down = appendPending(out.Down, p, time.Now())
}

// Idle implements messages.Codec.
func (c *codec) Idle() bool { return c.queue.empty() && c.hold == nil }

// InTransaction implements messages.Codec.
func (c *codec) InTransaction() bool { return c.tx != 'I' }

// Goodbye implements messages.Codec.
func (c *codec) Goodbye(out *messages.Out, d *engine.Denial) {
	out.Down = appendFatal(out.Down, d, c.session)
}

// Broken implements messages.Codec.
func (c *codec) Broken() {
	if h := c.hold; h != nil {
		c.hold = nil
		h.broke()
	}
	for !c.queue.empty() {
		c.queue.pop().end(engine.Broken)
	}
	for _, p := range c.portals {
		p.drop(engine.Broken)
	}
}

// drop ends the exchange of a portal that was bound and never executed.
func (p *portal) drop(s engine.Status) {
	if p != nil && p.exchange != nil && !p.used {
		p.used = true
		p.exchange.End(engine.Outcome{Status: s, Tag: "not executed"})
	}
}

func (c *codec) setPortal(p *portal) {
	c.portals[p.name].drop(engine.OK)
	c.portals[p.name] = p
}

// remember takes note of what an allowed statement means for those after it.
func (c *codec) remember(r *resolved) {
	if r == nil || r.stmt == nil {
		return
	}
	s := r.stmt
	c.forget(s)
	switch {
	case s.DDL || opaque(s) || slices.ContainsFunc(s.Settings, movesNames):
		c.unsettled = true
		c.outdate()
	case c.unsettled && endsTransaction(s):
		c.outdate()
	}
	if len(r.derived) > 0 && (hasKind(s, "declare") || callsFunction(s)) {
		c.tainted = true
	}
	if len(s.Settings) > 0 || c.tx != 'I' || len(s.Transactions) > 0 {
		c.extend(c.held.request.Text)
	}
}

func hasKind(s *sql.Statement, prefix string) bool {
	for _, k := range s.Kinds {
		if len(k) >= len(prefix) && k[:len(prefix)] == prefix {
			return true
		}
	}
	return false
}

// extend chains a statement into the context that approvals are bound to: a
// statement means what it means after these.
func (c *codec) extend(text string) {
	h := sha256.New()
	h.Write(c.words)
	fmt.Fprintf(h, "%d %s", len(text), text)
	c.words = h.Sum(c.words[:0])
	c.ctx = hex.EncodeToString(c.words)
}

// protocolError ends the session: the upstream said what it could not say here.
func protocolError(msg byte, state string) error {
	return &engine.Denial{
		Code:   engine.Malformed,
		Reason: fmt.Sprintf("the upstream sent message %q %s", msg, state),
		Help:   "the connection is closed; an operator finds the session's id in the log",
	}
}
