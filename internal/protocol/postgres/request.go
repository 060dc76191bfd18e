package postgres

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/jackc/pgproto3/v2"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
	"github.com/postern/postern/internal/sql"
)

// Request implements messages.Codec: one function per message of the client.
func (c *codec) Request(out *messages.Out, msg []byte) (messages.Step, error) {
	kind := msg[0]
	if c.queue.len() >= maxOwed {
		return messages.Step{}, tooMany("unanswered messages", maxOwed)
	}
	if c.skipping && kind != 'S' && kind != 'X' {
		return messages.Step{}, nil // PostgreSQL discards these too
	}
	if c.hold != nil {
		return c.gather(out, msg)
	}
	switch kind {
	case 'Q':
		return c.query(msg)
	case 'P':
		return c.parse(msg)
	case 'B':
		return c.bind(msg)
	case 'D':
		return messages.Step{}, c.describe(out, msg)
	case 'E':
		return c.execute(out, msg)
	case 'C':
		return messages.Step{}, c.close(out, msg)
	case 'S':
		return messages.Step{}, c.sync(out, msg)
	case 'H':
		out.Up = append(out.Up, msg...)
		return messages.Step{}, empty(msg, "Flush")
	case 'F':
		return c.functionCall(msg)
	case 'd', 'c', 'f':
		return messages.Step{}, c.copyData(out, kind, msg)
	case 'X':
		out.Up = append(out.Up, msg...)
		return messages.Step{End: true}, empty(msg, "Terminate")
	}
	return messages.Step{}, malformed(fmt.Sprintf("unknown (type %q)", kind))
}

func (c *codec) query(msg []byte) (messages.Step, error) {
	text, err := queryText(c.copied(msg))
	if err != nil {
		return messages.Step{}, err
	}
	return messages.Step{Decide: c.keep('Q', engine.Request{
		Kind: "query", Text: string(text), Context: c.ctx,
	})}, nil
}

// parse asks only whether the statement is sure to be denied: what it is run
// with is known at Bind.
func (c *codec) parse(msg []byte) (messages.Step, error) {
	p, err := decodeParse(c.copied(msg))
	if err != nil {
		return messages.Step{}, err
	}
	if _, again := c.statements[string(p.name)]; !again && len(c.statements) >= c.limits.Statements {
		return messages.Step{}, tooMany("prepared statements", c.limits.Statements)
	}
	s := &statement{name: string(p.name), text: string(p.text), types: bytes.Clone(msg[len(msg)-4*p.types:])}
	r := c.keep('P', engine.Request{Kind: "prepare", Text: s.text, Context: c.ctx})
	c.held.statement = s
	c.name(s)
	return messages.Step{Prepare: r}, nil
}

func tooMany(what string, limit int) error {
	return &engine.Denial{
		Code:   engine.Limit,
		Reason: fmt.Sprintf("more than %d %s in one session", limit, what),
		Help:   "close those that are no longer needed",
	}
}

// bind is where an extended query is decided: its text and its parameters are
// known, and planning, which may already run functions, comes next.
func (c *codec) bind(msg []byte) (messages.Step, error) {
	b, err := decodeBind(c.copied(msg))
	if err != nil {
		return messages.Step{}, err
	}
	if _, again := c.portals[string(b.portal)]; !again && len(c.portals) >= c.limits.Statements {
		return messages.Step{}, tooMany("portals", c.limits.Statements)
	}
	s, refused := c.statementFor(string(b.statement))
	if s == nil {
		s = &statement{name: string(b.statement)}
	}
	p := &portal{name: string(b.portal), statement: s, results: b.results, unit: c.unit}
	r := c.keep('B', engine.Request{Kind: "execute", Text: s.text, Params: b.params, Context: c.ctx})
	r.Refused = refused
	c.held.portal = p
	return messages.Step{Decide: r}, nil
}

// unknownName refuses a name that this session's Parse or Bind did not make. It
// may exist upstream by way of SQL (PREPARE, DECLARE), where what it stands
// for has not been followed to here.
func unknownName(what, name string) *engine.Denial {
	return &engine.Denial{
		Code:   engine.ByPolicy,
		Reason: fmt.Sprintf("%s %q was not made by a message of this session", what, name),
		Help:   "prepare and bind it through the protocol, or use EXECUTE and FETCH",
	}
}

func (c *codec) describe(out *messages.Out, msg []byte) error {
	kind, name, err := decodeNamed(msg, "Describe")
	if err != nil {
		return err
	}
	e := entry{kind: 'D'}
	if kind == 'S' {
		e.statement, _ = c.statementFor(string(name))
	} else if e.portal = c.portals[string(name)]; e.portal != nil {
		e.stale = e.portal.ran != c.ran
		e.portal.described = e.portal.described || !e.stale
	}
	c.queue.push(e)
	c.touched = true
	out.Up = append(out.Up, msg...)
	return nil
}

// execute runs a portal. Its first run in the unit of its Bind was decided
// there; every other one, which comes later, fetches more rows or repeats, is a
// request of its own.
func (c *codec) execute(out *messages.Out, msg []byte) (messages.Step, error) {
	name, err := decodeExecute(msg)
	if err != nil {
		return messages.Step{}, err
	}
	p, ok := c.portals[string(name)]
	if ok && !p.used && p.unit == c.unit {
		c.forwardExecute(out, p, msg)
		return messages.Step{}, nil
	}
	r := engine.Request{Kind: "fetch", Context: c.ctx}
	if ok {
		p.drop(engine.OK)
		r.Text = p.statement.text
	} else {
		p = &portal{name: string(name), statement: &statement{}}
		r.Refused = unknownName("portal", string(name))
	}
	c.copied(msg)
	step := messages.Step{Decide: c.keep('E', r)}
	c.held.portal = p
	return step, nil
}

// forwardExecute sends Execute on, and a Describe before it when the columns of
// the answer are not known: rows are never forwarded whose origin is unknown. A
// statement that ran since the Bind may have closed the portal and declared a
// cursor by its name (CLOSE, DECLARE), so then too.
func (c *codec) forwardExecute(out *messages.Out, p *portal, msg []byte) {
	stale := p.ran != c.ran
	if p.fields == nil && p.statement.fields != nil {
		p.fields = p.statement.fields.formatted(p.results)
	}
	if stale || p.fields == nil && !p.described {
		out.Up = encode(out.Up, &pgproto3.Describe{ObjectType: 'P', Name: p.name})
		c.queue.push(entry{kind: 'D', portal: p, swallow: true, stale: stale})
	}
	p.used = true
	r := c.known(p.statement.sql)
	asked := c.ask(out, r, false)
	c.queue.push(entry{
		kind: 'E', exchange: p.exchange, portal: p, started: c.now(),
		resolved: r, stale: stale, probe: asked, restored: p.restored,
	})
	p.exchange = nil
	c.ran++
	p.ran = c.ran
	c.touched = true
	out.Up = append(out.Up, msg...)
}

func (c *codec) close(out *messages.Out, msg []byte) error {
	kind, name, err := decodeNamed(msg, "Close")
	if err != nil {
		return err
	}
	if kind == 'S' {
		delete(c.statements, string(name))
		delete(c.sqlNames, string(name))
	} else {
		c.portals[string(name)].drop(engine.OK)
		delete(c.portals, string(name))
	}
	c.queue.push(entry{kind: 'C'})
	c.touched = true
	out.Up = append(out.Up, msg...)
	return nil
}

// sync ends the unit. A unit of which nothing went upstream, because its first
// message was denied, is ended here too.
func (c *codec) sync(out *messages.Out, msg []byte) error {
	local := c.skipping && !c.touched
	c.skipping, c.touched = false, false
	c.unit++
	c.unitRan = c.ran
	if local {
		out.Down = appendReady(out.Down, c.tx)
		return empty(msg, "Sync")
	}
	out.Up = append(out.Up, msg...)
	if !c.copyIn { // in a COPY the upstream ignores Sync
		c.queue.push(entry{kind: 'S'})
	}
	return empty(msg, "Sync")
}

// functionCall names its function by OID. Its result has no description, so it
// cannot be masked by where it comes from.
func (c *codec) functionCall(msg []byte) (messages.Step, error) {
	oid, params, err := decodeFunctionCall(c.copied(msg))
	if err != nil {
		return messages.Step{}, err
	}
	object := "oid " + strconv.FormatUint(uint64(oid), 10)
	r := c.keep('F', engine.Request{
		Kind: "call", Text: "FunctionCall " + object, Params: params, Context: c.ctx,
		Effects: []engine.Effect{{Verb: sql.Function, Object: object}},
		Facts:   map[string]any{},
		Writes:  1,
		Passing: c.passing(),
	})
	if len(c.catalog.patterns) > 0 {
		r.Refused = &engine.Denial{
			Code:   engine.ByPolicy,
			Reason: "the result of a FunctionCall cannot be masked, and columns of this target are",
			Help:   "call the function with SELECT",
		}
	}
	return messages.Step{Decide: r}, nil
}

// copyData passes a piece of COPY FROM STDIN to the statement that asked for
// it. Without one PostgreSQL would discard it, and so do we.
func (c *codec) copyData(out *messages.Out, kind byte, msg []byte) error {
	e := c.queue.copying()
	if e == nil {
		return nil
	}
	if kind == 'd' {
		if e.exchange != nil {
			if d := e.exchange.Data(engine.Upward, msg[headerBytes:], 0); d != nil {
				return d
			}
		}
		e.bytes += int64(len(msg) - headerBytes)
	} else {
		c.copyIn = false
	}
	out.Up = append(out.Up, msg...)
	return nil
}
