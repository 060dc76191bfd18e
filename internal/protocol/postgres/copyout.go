package postgres

import (
	"cmp"
	"slices"
	"strings"

	"github.com/jackc/pgproto3/v2"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
	"github.com/postern/postern/internal/sql"
)

// COPY … TO STDOUT. PostgreSQL tells no columns of what it copies, so the
// gateway has the same query described first: what it says of each column decides
// how that is masked. The question travels with the COPY, and nobody waits.

// probe is the question for the columns of one COPY.
type probe struct {
	statement statement // whose fields are the answer
	simple    bool      // it is a unit of its own
	failed    []byte    // the ErrorResponse to it
}

// probeName is the prepared statement of the question, as long as it exists.
const probeName = "postern_copy"

// ask sends the question for r before its COPY is forwarded, nil when it is no
// COPY whose columns can be described.
func (c *codec) ask(out *messages.Out, r *resolved, simple bool) *probe {
	if r == nil || r.copies != copyFrom || r.stmt.Copied == nil || simple && c.touched {
		return nil
	}
	p := &probe{statement: statement{name: probeName, sql: r.source}, simple: simple}
	out.Up = appendParse(out.Up, probeName, c.copiedQuery(r.stmt.Copied))
	out.Up = encode(out.Up, &pgproto3.Describe{ObjectType: 'S', Name: probeName})
	out.Up = encode(out.Up, &pgproto3.Close{ObjectType: 'S', Name: probeName})
	c.queue.push(entry{kind: 'P', swallow: true, probe: p, resolved: r})
	c.queue.push(entry{kind: 'D', swallow: true, probe: p, statement: &p.statement})
	c.queue.push(entry{kind: 'C', swallow: true, probe: p})
	if simple {
		out.Up = encode(out.Up, &pgproto3.Sync{})
		c.queue.push(entry{kind: 'S', swallow: true})
	}
	return p
}

// copiedQuery leaves generated columns out, which COPY does not copy.
func (c *codec) copiedQuery(o *sql.Copied) string {
	if o.Table.Name == "" {
		return o.Query
	}
	r, ok := c.catalog.find(o.Table)
	if !ok || r == nil || len(r.generated) == 0 {
		return o.Query
	}
	var numbers []int16
	for attr, name := range r.columns {
		if !slices.Contains(r.generated, name) {
			numbers = append(numbers, attr)
		}
	}
	slices.Sort(numbers)
	names := make([]string, len(numbers))
	for i, attr := range numbers {
		names[i] = r.columns[attr]
	}
	return sql.SelectColumns(o.Table, names)
}

// unanswered keeps the error to a question that was a unit of its own: the COPY
// fails by itself, with the same error outside of a transaction. Inside of one it
// finds the transaction failed, and the client should hear why.
func (p *probe) unanswered(failed []byte) bool {
	if p == nil || !p.simple {
		return false
	}
	p.failed = failed
	return true
}

// copyOutBegins finds out how the rows of a COPY are masked.
func (c *codec) copyOutBegins(head *entry, columns int, binaryFormat bool) error {
	if head.resolved.copies != copyFrom {
		return protocolError('H', "though the statement copies nothing out")
	}
	form := head.resolved.stmt.Copied
	rows := &copyRows{form: form, binary: binaryFormat, limit: c.limits.MessageBytes}
	switch {
	case head.probe == nil || head.probe.statement.fields == nil:
		if binaryFormat || len(head.resolved.derived) > 0 {
			return &engine.Denial{
				Code:   engine.ByPolicy,
				Reason: "the columns of this COPY cannot be told, and so not be masked",
				Help:   "send COPY … TO STDOUT as a statement of its own",
			}
		}
		head.copying = &copyRows{} // text, of which nothing comes from a masked column
		return nil
	default:
		list := c.current(head.probe.statement.fields).list
		if len(list) != columns {
			return &engine.Denial{
				Code:   engine.ByPolicy,
				Reason: "the columns of this COPY are not those that were described",
				Help:   "name the columns, and try again",
			}
		}
		if binaryFormat {
			list = slices.Clone(list)
			for i := range list {
				list[i].Binary = true
			}
		}
		rows.maskers = head.exchange.Result(list)
	}
	head.copying = rows
	return nil
}

// copyOut is a piece of COPY TO STDOUT.
func (c *codec) copyOut(out *messages.Out, head *entry, msg []byte) error {
	if head == nil || head.exchange == nil || head.copying == nil {
		return protocolError('d', "that nobody asked for")
	}
	var cut error
	pass := func(row []byte, header bool) {
		rows := 1
		if header {
			rows = 0
		}
		if head.cut || cut != nil {
			return
		}
		if d := head.exchange.Data(engine.Downward, row, rows); d != nil {
			cut = c.cut(out, head, d)
			return
		}
		head.bytes += int64(len(row))
		head.rows += int64(rows)
		out.Down = appendMessage(out.Down, 'd', row)
	}
	if head.copying.form == nil {
		pass(head.exchange.Text(msg[headerBytes:]), false)
		return cut
	}
	err := head.copying.feed(msg[headerBytes:], pass)
	return cmp.Or(cut, err)
}

func (c *codec) copyDone(out *messages.Out, head *entry, msg []byte) error {
	if head == nil || head.copying == nil || len(msg) != headerBytes {
		return protocolError('c', "that nobody asked for")
	}
	if head.copying.form != nil && !head.copying.whole() {
		return protocolError('c', "in the middle of a row")
	}
	head.copying = nil
	out.Down = append(out.Down, msg...)
	return nil
}

// foreignEncoding refuses a COPY whose bytes are not the session's.
func foreignEncoding(o *sql.Copied) *engine.Denial {
	if o == nil || o.Encoding == "" || strings.EqualFold(strings.ReplaceAll(o.Encoding, "-", ""), "utf8") {
		return nil
	}
	return &engine.Denial{
		Code:   engine.ByPolicy,
		Reason: "COPY in encoding " + o.Encoding + " cannot be masked",
		Help:   "leave ENCODING out, or write UTF8",
	}
}
