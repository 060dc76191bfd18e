package postgres

import (
	"slices"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
	"github.com/postern/postern/internal/sql"
)

// What a budget is charged for, and how an answer ends when there is nothing
// left of one.

// charge is what a statement counts as.
type charge struct {
	count, writes int
	upkeep        bool
}

// harmless are the verbs that change nothing which outlives the session.
var harmless = []string{
	sql.Select, sql.Session, sql.Set, sql.CopyOut, sql.Lock, sql.Listen, sql.Explain, sql.Sensitive, sql.Filter, sql.Derive,
}

// ofPart are the verbs of statements that Parts tells one by one.
var ofPart = []string{sql.Insert, sql.Update, sql.Delete, sql.Merge}

func chargeOf(s *sql.Statement) charge {
	c := charge{count: len(s.Kinds), upkeep: true}
	for _, p := range s.Parts {
		if p.Verb != sql.Select {
			c.writes++
		}
	}
	for _, e := range s.Effects {
		c.upkeep = c.upkeep && e.Verb == sql.Session
		switch {
		case slices.Contains(harmless, e.Verb):
		case slices.Contains(ofPart, e.Verb):
			c.writes = max(c.writes, 1)
		default: // whatever it is, each statement of the text may be it
			c.writes = max(c.writes, len(s.Kinds), 1)
		}
	}
	return c
}

var (
	inTransaction      = map[string]any{sql.FactInTransaction: true}
	outsideTransaction = map[string]any{sql.FactInTransaction: false}
)

// passing is whether a transaction block is open, as far as that is known while
// answers are owed. A statement that fails leaves one open, failed as it is.
func (c *codec) passing() map[string]any {
	for i := c.queue.first; i < len(c.queue.entries); i++ {
		if r := c.queue.entries[i].resolved; r != nil && r.stmt != nil && (len(r.stmt.Transactions) > 0 || opaque(r.stmt)) {
			return nil
		}
	}
	if c.tx == 'I' {
		return outsideTransaction
	}
	return inTransaction
}

// maxDropped is how much of an answer is read and dropped after the agent has
// been told that it may have no more. Longer ones end the session, which ends
// them upstream.
const maxDropped = 16 << 20

// cut ends the answer that the head is: the agent may have no more of it. Where
// its statement cannot be made to fail on both sides any more, the session ends,
// so that the agent does not take what was done for undone.
func (c *codec) cut(out *messages.Out, head *entry, d *engine.Denial) error {
	if !c.cuttable(head) {
		return d
	}
	head.cut, head.failed, head.tag = true, true, "SQLSTATE "+sqlstate(d)
	out.Down = appendDenial(out.Down, d, c.session)
	if head.kind == 'E' && c.queue.len() == 1 {
		c.skipping = true // as PostgreSQL discards what comes before Sync
	}
	return nil
}

// cuttable: the statement is alone in its text and in its unit and has changed
// nothing, so that failing it changes nothing but the transaction it is in.
func (c *codec) cuttable(head *entry) bool {
	r := head.resolved
	if r == nil || r.stmt == nil || r.charge.count != 1 || r.charge.writes > 0 || c.wrote {
		return false
	}
	switch head.kind {
	case 'Q':
		return c.queue.len() == 1
	case 'E':
		return c.queue.len() == 1 || c.queue.len() == 2 && c.queue.entries[c.queue.first+1].kind == 'S'
	}
	return false
}

// dropped is a message of an answer that was cut.
func (c *codec) dropped(out *messages.Out, head *entry, msg []byte) error {
	switch msg[0] {
	case 'C', 's', 'I':
		head.result, head.copying, c.copyIn = result{}, nil, false
		if head.kind == 'E' {
			c.fail = true
			c.queue.pop().end(engine.Failed)
		}
		return nil
	case 'E':
		if head.kind == 'E' {
			c.queue.pop().end(engine.Failed)
		}
		return nil
	case 'Z':
		c.fail = head.kind == 'Q'
		return c.ready(out, head, msg)
	case 'N':
		return c.noticeResponse(out, head, msg)
	case 'A':
		return c.notification(out, msg)
	case 'S':
		return c.parameterStatus(out, msg)
	case 'D', 'd', 'c', 'T':
		if head.dropped += len(msg); head.dropped <= maxDropped {
			return nil
		}
		return &engine.Denial{
			Code: engine.Exhausted, Reason: "a budget is used up, and the rest of the answer is too long to be waited for",
			Help: "connect again, and ask for less at a time",
		}
	}
	return protocolError(msg[0], "in an answer that was cut")
}

// failed reports whether the transaction has to fail upstream too before the
// client hears that it may go on, and has it fail.
func (c *codec) failing(out *messages.Out, status byte) (bool, error) {
	if !c.fail {
		return false, nil
	}
	c.fail = false
	if status != 'T' {
		return false, nil
	}
	if !c.queue.empty() || c.touched {
		return false, &engine.Denial{
			Code: engine.Exhausted, Reason: "a budget is used up, and what was sent behind the answer that was cut cannot be taken back",
			Help: "connect again",
		}
	}
	out.Up = appendQuery(out.Up, refusedStatement)
	c.queue.push(entry{kind: 'Q', silent: true})
	return true, nil
}
