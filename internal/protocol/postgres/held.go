package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
	"github.com/postern/postern/internal/sql"
)

// A held statement is run in a transaction that is committed only when people
// have agreed: BEGIN is the gateway's where the client has none, and a savepoint
// within the client's own. Until then everything that the upstream says of it is
// kept. The steps, each ended by a ReadyForQuery:
//
//	syncing   what the client sent before has been answered
//	opening   BEGIN or SAVEPOINT, limits of time, and what the table sets off
//	sampling  some of the rows that will be changed
//	running   the statement itself, as the client sent it
//	ran       people decide
//	closing   COMMIT, RELEASE or ROLLBACK
//
// What cannot be run so, as it turns out in between, is rolled back and decided
// before it is run, as without a preview.

const (
	holdSavepoint = "postern_hold"
	sampleName    = "postern_sample"

	// maxHeldAnswer is how much of an answer is kept until people have decided.
	maxHeldAnswer = 4 << 20
	// holdLimits keep a held statement from waiting for others, and others for it,
	// in milliseconds.
	holdLimits = "SET LOCAL lock_timeout = 5000; SET LOCAL statement_timeout = 60000"
	// settings are those that holdLimits change.
	holdSettings = "SELECT pg_catalog.current_setting('lock_timeout'), pg_catalog.current_setting('statement_timeout')"
)

type holdStage uint8

const (
	gathering holdStage = iota // the client has not sent all of it
	gathered
	syncing
	opening
	sampling
	running
	abandoning // it is rolled back before it has run
	waiting    // it has not run, and people decide whether it may
	ran
	closing
)

// hold is the request that is held; it implements messages.Held.
type hold struct {
	codec    *codec
	exchange engine.Exchange
	stmt     *resolved
	text     string
	kind     byte     // Q, or B for a unit of the extended protocol
	messages [][]byte // of the client
	portal   *portal
	executed bool   // Execute was among them
	synced   bool   // and Sync
	behind   []byte // a message that came after them

	stage    holdStage
	injected bool // the unnamed statement upstream is gone
	block    bool // the client's own transaction
	sample   *sql.Sample
	settings []string
	fields   *fields
	rows     [][][]byte
	found    []string // what the check said
	failed   notice   // of the step
	why      string   // it cannot be run first
	broken   bool     // what came before it failed

	future  queue  // what the answer belongs to
	answer  []byte // kept
	changed int64
	failure notice // of the statement

	isRan, isOver bool
	ran, over     chan struct{}
	decided       bool
	denial        *engine.Denial
}

// holdBack keeps what was allowed to be held only.
func (c *codec) holdBack(x engine.Exchange, stmt *resolved) {
	h := &hold{
		codec: c, exchange: x, stmt: stmt, text: c.held.request.Text, kind: c.held.kind, portal: c.held.portal,
		messages: [][]byte{bytes.Clone(c.held.msg)}, ran: make(chan struct{}), over: make(chan struct{}),
	}
	if h.kind == 'Q' {
		h.stage, h.synced = gathered, true
	}
	c.hold = h
}

// Held implements messages.Codec.
func (c *codec) Held() messages.Held {
	if c.hold == nil || c.hold.stage == gathering {
		return nil
	}
	return c.hold
}

// gather takes what follows a Bind that is held. A unit of Bind, Describe, Execute
// and Sync is run as a whole; people are asked about any other before.
func (c *codec) gather(out *messages.Out, msg []byte) (messages.Step, error) {
	h := c.hold
	keep := false
	switch msg[0] {
	case 'X':
		c.hold = nil
		h.end("not executed")
		return c.Request(out, msg)
	case 'D':
		kind, name, err := decodeNamed(msg, "Describe")
		if err != nil {
			return messages.Step{}, err
		}
		keep = kind == 'P' && string(name) == h.portal.name && len(h.messages) == 1
	case 'E':
		name, err := decodeExecute(msg)
		if err != nil {
			return messages.Step{}, err
		}
		all := binary.BigEndian.Uint32(msg[len(msg)-4:]) == 0
		keep = all && string(name) == h.portal.name && !h.executed
		h.executed = h.executed || keep
	case 'S':
		if err := empty(msg, "Sync"); err != nil {
			return messages.Step{}, err
		}
		keep = h.executed
		h.synced = keep
	}
	if keep {
		h.messages = append(h.messages, bytes.Clone(msg))
	} else {
		h.behind, h.why = bytes.Clone(msg), "it is not sent as a statement of its own"
	}
	if !keep || h.synced {
		h.stage = gathered
	}
	return messages.Step{}, nil
}

// Exchange implements messages.Held.
func (h *hold) Exchange() engine.Exchange { return h.exchange }

// Ran implements messages.Held.
func (h *hold) Ran() <-chan struct{} { return h.ran }

// Over implements messages.Held.
func (h *hold) Over() <-chan struct{} { return h.over }

// Prepare implements messages.Held.
func (h *hold) Prepare(ctx context.Context) {
	if h.why == "" && h.stmt.stmt.Parts[0].Verb != sql.Insert {
		h.sample, _ = h.codec.classifier.Sample(ctx, h.text) //nolint:errcheck // then there is none, and the number of rows is shown
	}
}

// Start implements messages.Held.
func (h *hold) Start(out *messages.Out) {
	c := h.codec
	switch {
	case h.why != "":
		h.wait()
	case c.queue.empty() && !c.touched:
		h.open(out, c.tx)
	default: // the answers that are owed decide whether there is a transaction
		h.stage, c.touched, c.skipping = syncing, false, false
		out.Up = appendMessage(out.Up, 'S', nil)
		c.queue.push(entry{kind: 'S', hold: h})
	}
}

// wait has people asked before it is run.
func (h *hold) wait() { h.stage = waiting; h.hasRan() }

func (h *hold) hasRan() {
	if !h.isRan {
		h.isRan = true
		close(h.ran)
	}
}

func (h *hold) isDone() {
	h.hasRan()
	if !h.isOver {
		h.isOver = true
		close(h.over)
	}
	if h.codec.hold == h {
		h.codec.hold = nil
	}
}

// end ends the exchange of what was not kept.
func (h *hold) end(tag string) {
	h.exchange.End(engine.Outcome{Status: engine.Failed, Tag: tag})
}

// broke ends what the session's end has left: nothing was committed.
func (h *hold) broke() {
	h.hasRan()
	h.exchange.End(engine.Outcome{Status: engine.Broken, Tag: "not committed"})
	for !h.future.empty() {
		if e := h.future.pop(); e.portal != nil {
			e.portal.exchange = nil
		}
	}
	if h.portal != nil {
		h.portal.exchange = nil
	}
}

// open begins the transaction. Within the client's own the settings are told
// first, so that they can be put back.
func (h *hold) open(out *messages.Out, status byte) {
	h.block, h.injected = status == 'T', true
	h.fields, h.rows, h.found, h.settings = nil, nil, nil, nil
	begin := "BEGIN"
	if h.block {
		begin = "SAVEPOINT " + holdSavepoint
	}
	p := h.stmt.stmt.Parts[0]
	h.step(out, opening, strings.Join([]string{begin, holdSettings, holdLimits, checkQuery(p.Table, p.Verb)}, "; "))
}

// step sends a query of the gateway's own.
func (h *hold) step(out *messages.Out, stage holdStage, query string) {
	h.stage, h.failed = stage, nil
	out.Up = appendQuery(out.Up, query)
	h.codec.queue.push(entry{kind: 'Q', hold: h})
}

// abandon rolls back what was opened.
func (h *hold) abandon(out *messages.Out, status byte) {
	switch {
	case h.block:
		h.step(out, abandoning, "ROLLBACK TO SAVEPOINT "+holdSavepoint+"; RELEASE SAVEPOINT "+holdSavepoint)
	case status == 'I':
		h.wait()
	default:
		h.step(out, abandoning, "ROLLBACK")
	}
}

// Preview implements messages.Held.
func (h *hold) Preview() (engine.Preview, bool) {
	p := engine.Preview{Ran: h.stage == ran, Why: h.why, Rows: h.changed}
	if h.isOver || h.denial != nil {
		return p, false
	}
	if h.stage != ran {
		return p, true
	}
	if h.failure != nil {
		p.Error = h.failure.field('M') + " (SQLSTATE " + h.failure.field('C')
		if name := h.failure.field('n'); name != "" {
			p.Error += ", " + name
		}
		p.Error += ")"
	}
	if h.fields != nil {
		p.Fields, p.Sample = h.fields.list, h.rows
	}
	return p, true
}

// Settled implements messages.Held.
func (h *hold) Settled(out *messages.Out, d *engine.Denial) error {
	if h.isOver {
		return nil
	}
	h.decided = true
	if h.denial == nil {
		h.denial = d
	}
	switch h.stage {
	case waiting:
		h.instead(out)
	case ran:
		return h.finish(out)
	}
	return nil
}

// Rest implements messages.Held.
func (h *hold) Rest(out *messages.Out) (messages.Step, error) {
	if h.behind == nil {
		return messages.Step{}, nil
	}
	msg := h.behind
	h.behind = nil
	return h.codec.Request(out, msg)
}

// finish commits or rolls back what has run.
func (h *hold) finish(out *messages.Out) error {
	switch {
	case h.denial == nil && h.failure == nil && h.block:
		h.step(out, closing, "RELEASE SAVEPOINT "+holdSavepoint+"; SET LOCAL lock_timeout = '"+h.settings[0]+
			"'; SET LOCAL statement_timeout = '"+h.settings[1]+"'")
	case h.denial == nil && h.failure == nil:
		h.step(out, closing, "COMMIT")
	case !h.block:
		h.step(out, closing, "ROLLBACK")
	case h.denial != nil:
		h.deny(out, 'T')
	default: // the client's transaction has failed, as it would have without us
		return h.replay(out, 'E')
	}
	return nil
}

// instead runs what people have let go on without a preview, or denies it.
func (h *hold) instead(out *messages.Out) {
	c := h.codec
	switch {
	case h.denial == nil:
		h.forward(out)
		h.isDone()
	case !h.synced: // the client is in the middle of its unit
		c.held.kind = h.kind
		c.Denied(out, h.denial)
		h.end("denied")
		h.isDone()
	default:
		h.deny(out, c.tx)
	}
}

// deny tells the denial at the end of a unit. An open transaction fails on both
// sides.
func (h *hold) deny(out *messages.Out, status byte) {
	c := h.codec
	if h.kind == 'B' {
		c.unit++
		if h.portal.name != "" && c.portals[h.portal.name] == h.portal {
			delete(c.portals, h.portal.name)
		}
	}
	c.skipping, c.touched = false, false
	if status == 'T' {
		out.Up = appendQuery(out.Up, refusedStatement)
		c.queue.push(entry{kind: 'Q', denial: h.denial, exchange: h.exchange, started: c.now()})
	} else {
		out.Down = appendDenial(out.Down, h.denial, c.session)
		out.Down = appendReady(out.Down, status)
		c.tx = status
		h.end("denied")
	}
	h.isDone()
}

// forward sends the client's messages on, as if they were allowed only now.
func (h *hold) forward(out *messages.Out) {
	c := h.codec
	c.held.request.Text = h.text
	c.remember(h.stmt)
	c.held.request.Text = ""
	c.ran++
	if h.kind == 'Q' {
		c.queue.push(entry{kind: 'Q', exchange: h.exchange, resolved: h.stmt, started: c.now()})
		out.Up = append(out.Up, h.messages[0]...)
		return
	}
	if s := h.portal.statement; s.name == "" && h.injected {
		out.Up = s.appendParse(out.Up)
		c.queue.push(entry{kind: 'P', swallow: true})
	}
	h.portal.exchange, h.portal.ran, h.portal.unit = h.exchange, c.ran, c.unit
	c.setPortal(h.portal)
	c.touched = true
	for _, msg := range h.messages {
		switch msg[0] {
		case 'B':
			c.queue.push(entry{kind: 'B', portal: h.portal, started: c.now()})
			out.Up = append(out.Up, msg...)
		case 'D':
			c.describe(out, msg) //nolint:errcheck // it was decoded when it came
		case 'E':
			c.forwardExecute(out, h.portal, msg)
		case 'S':
			c.sync(out, msg) //nolint:errcheck // likewise
		}
	}
}

// appendParse sends the statement again, as the client sent it.
func (s *statement) appendParse(dst []byte) []byte {
	body := append([]byte(s.name+"\x00"+s.text+"\x00"), 0, 0)
	binary.BigEndian.PutUint16(body[len(body)-2:], uint16(len(s.types)/4))
	return appendMessage(dst, 'P', append(body, s.types...))
}

// run sends the statement, and keeps what its answer will belong to.
func (h *hold) run(out *messages.Out) {
	c := h.codec
	owed := c.queue
	c.queue = queue{}
	h.forward(out)
	h.future, c.queue = c.queue, owed
	c.touched = false
	h.stage, h.failed = running, nil
	c.queue.push(entry{kind: 'Q', hold: h})
}

// replay gives the client the answer that was kept.
func (h *hold) replay(out *messages.Out, status byte) error {
	c := h.codec
	c.queue, h.future = h.future, queue{}
	h.isDone()
	for b := h.answer; len(b) > 0; {
		n, _, err := split(b)
		if err != nil {
			return err
		}
		msg := b[:n]
		if b = b[n:]; msg[0] == 'Z' {
			msg = appendReady(nil, status)
		}
		if err := c.Response(out, msg); err != nil {
			return err
		}
	}
	return nil
}

// changedRows is the number at the end of a command's tag.
func changedRows(tag string) int64 {
	n, err := strconv.ParseInt(tag[strings.LastIndexByte(tag, ' ')+1:], 10, 64)
	if err != nil {
		return 0
	}
	return n
}
