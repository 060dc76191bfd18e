package postgres

import (
	"bytes"
	"encoding/binary"
	"slices"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
)

func (c *codec) now() time.Time { return time.Now() }

// Response implements messages.Codec: one case per message of the upstream,
// each with the answer it must belong to.
func (c *codec) Response(out *messages.Out, msg []byte) error {
	head := c.queue.head()
	if head != nil && head.hold != nil {
		return head.hold.response(out, msg)
	}
	if head != nil && head.cut {
		return c.dropped(out, head, msg)
	}
	switch kind := msg[0]; kind {
	case 'D':
		return c.dataRow(out, head, msg)
	case 'T', 'n':
		return c.description(out, head, msg)
	case 't':
		return c.belongs(out, head, msg, head != nil && head.kind == 'D')
	case '1', '2', '3':
		return c.completes(out, head, msg, map[byte]byte{'1': 'P', '2': 'B', '3': 'C'}[kind])
	case 'C', 'I', 's':
		return c.commandComplete(out, head, msg)
	case 'Z':
		return c.ready(out, head, msg)
	case 'E':
		return c.errorResponse(out, head, msg)
	case 'N':
		return c.noticeResponse(out, head, msg)
	case 'A':
		return c.notification(out, msg)
	case 'S':
		return c.parameterStatus(out, msg)
	case 'G', 'H':
		return c.copyBegins(out, head, msg)
	case 'd':
		return c.copyOut(out, head, msg)
	case 'c':
		return c.copyDone(out, head, msg)
	case 'V':
		return c.functionResult(out, head, msg)
	default:
		return protocolError(kind, "in a session")
	}
}

// belongs passes a message that is part of an answer and does not end it.
func (c *codec) belongs(out *messages.Out, head *entry, msg []byte, ok bool) error {
	if !ok {
		return protocolError(msg[0], "that nobody asked for")
	}
	if !head.swallow {
		out.Down = append(out.Down, msg...)
	}
	return nil
}

// completes passes the one-message answer to Parse, Bind or Close.
func (c *codec) completes(out *messages.Out, head *entry, msg []byte, to byte) error {
	if head == nil || head.kind != to || head.denial != nil || len(msg) != headerBytes {
		return protocolError(msg[0], "that nobody asked for")
	}
	e := c.queue.pop()
	if to == 'P' && e.statement != nil {
		e.statement.confirm()
	}
	if !e.swallow {
		out.Down = append(out.Down, msg...)
	}
	return nil
}

// description is the answer to Describe, or the start of a result of Query.
func (c *codec) description(out *messages.Out, head *entry, msg []byte) error {
	if head == nil || head.kind != 'D' && (head.kind != 'Q' || msg[0] == 'n') || head.denial != nil {
		return protocolError(msg[0], "that nobody asked for")
	}
	if head.catalog != nil {
		return head.catalog.begin(msg)
	}
	var r *resolved
	switch {
	case head.kind == 'Q':
		r = head.resolved
	case head.stale && c.tainted: // nothing is known of what a cursor computes
	case head.portal != nil && !head.portal.statement.suspect:
		r = c.known(head.portal.statement.sql)
	case head.statement != nil && !head.statement.suspect:
		r = c.known(head.statement.sql)
	}
	f, err := c.fieldsOf(msg, r)
	if err != nil {
		return err
	}
	if head.kind == 'Q' {
		head.result = begin(head, f)
		out.Down = append(out.Down, msg...)
		return nil
	}
	e := c.queue.pop()
	switch {
	case e.portal != nil:
		e.portal.fields = f
	case e.statement != nil && !e.statement.suspect:
		e.statement.fields = f
	}
	if !e.swallow && (msg[0] == 'T' || !e.query) {
		out.Down = append(out.Down, msg...)
	}
	return nil
}

// result is how the rows of the running result set are masked.
type result struct {
	begun   bool
	columns int
	maskers []engine.Masker
	any     bool // some masker is not nil
}

func begin(e *entry, f *fields) result {
	r := result{begun: true, columns: len(f.list), maskers: hiding(e.exchange.Result(f.list), f.list, e.restored)}
	for _, m := range r.maskers {
		r.any = r.any || m != nil
	}
	return r
}

// dataRow masks one row. A row whose columns are not known is never forwarded.
func (c *codec) dataRow(out *messages.Out, head *entry, msg []byte) error {
	if head == nil || head.denial != nil {
		return protocolError('D', "that nobody asked for")
	}
	if head.catalog != nil {
		return head.catalog.row(msg[headerBytes:])
	}
	if head.kind == 'E' && !head.result.begun && head.portal.fields != nil {
		f := c.current(head.portal.fields)
		head.result = begin(head, f)
	}
	if !head.result.begun {
		return protocolError('D', "without a description of its columns")
	}
	if err := checkRow(msg[headerBytes:], head.result.columns); err != nil {
		return err
	}
	start := len(out.Down)
	if head.result.any {
		out.Down = maskRow(out.Down, msg, head.result.maskers)
	} else {
		out.Down = append(out.Down, msg...)
	}
	row := out.Down[start+headerBytes:]
	if d := head.exchange.Row(row); d != nil {
		out.Down = out.Down[:start]
		return c.cut(out, head, d)
	}
	head.rows++
	head.bytes += int64(len(row))
	return nil
}

// maskRow appends msg, which checkRow has accepted, with each value masked.
func maskRow(dst, msg []byte, maskers []engine.Masker) []byte {
	start := len(dst)
	dst = append(dst, 'D', 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(maskers)))
	rowValues(msg[headerBytes:], func(i int, v []byte) { //nolint:errcheck // checked
		if m := maskers[i]; m != nil && v != nil {
			masked, null := m.Mask(v)
			if v = masked; null {
				v = nil
			} else if v == nil {
				v = []byte{}
			}
		}
		if v == nil {
			dst = binary.BigEndian.AppendUint32(dst, 0xffffffff)
			return
		}
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(v)))
		dst = append(dst, v...)
	})
	return patchLength(dst, start)
}

// commandComplete ends an Execute; within a Query it ends one statement.
func (c *codec) commandComplete(out *messages.Out, head *entry, msg []byte) error {
	if head == nil || head.kind != 'Q' && head.kind != 'E' || head.denial != nil {
		return protocolError(msg[0], "that nobody asked for")
	}
	if head.catalog != nil {
		return head.catalog.endResult()
	}
	if msg[0] == 'C' {
		r := body(msg)
		tag := r.cstring()
		if !r.done() {
			return malformed("CommandComplete")
		}
		if head.tag != "" {
			head.tag += "; "
		}
		head.tag += string(tag)
	}
	head.result = result{}
	c.copyIn = false
	if !head.swallow {
		out.Down = append(out.Down, msg...)
	}
	if head.kind == 'E' {
		c.wrote = c.wrote || head.resolved == nil || head.resolved.charge.writes > 0
		e := c.queue.pop()
		c.learn(e.resolved)
		e.end(engine.OK)
	}
	return nil
}

// ready ends a Query, a FunctionCall or a unit.
func (c *codec) ready(out *messages.Out, head *entry, msg []byte) error {
	r := body(msg)
	status := r.byte()
	if !r.done() || status != 'I' && status != 'T' && status != 'E' {
		return malformed("ReadyForQuery")
	}
	if head == nil || head.kind != 'S' && head.kind != 'Q' && head.kind != 'F' {
		return protocolError('Z', "that nobody asked for")
	}
	e := *c.queue.pop()
	if e.kind == 'Q' && !e.failed {
		c.learn(e.resolved)
	}
	e.end(engine.OK)
	c.tx = status
	c.copyIn, c.wrote = false, false
	if e.swallow && e.catalog == nil {
		return nil
	}
	if e.catalog != nil {
		if c.catalogRead(out, e.catalog) {
			out.Down = append(out.Down, msg...) // for the one that waited: a failed reading fails the transaction
		}
		return nil
	}
	if status == 'I' {
		c.transactionOver()
	}
	if waits, err := c.failing(out, status); waits || err != nil {
		return err
	}
	if c.refresh && status != 'E' && c.queue.empty() && !c.touched {
		c.readCatalog(out) // the client hears that it may go on when the catalog is read
		return nil
	}
	out.Down = append(out.Down, msg...)
	return nil
}

// transactionOver forgets what ends with a transaction.
func (c *codec) transactionOver() {
	if c.unsettled {
		c.unsettled = false
		c.outdate() // a rollback takes settings and tables back
	}
	if c.queue.empty() && !c.touched {
		for name, p := range c.portals {
			p.drop(engine.OK)
			delete(c.portals, name)
		}
	}
}

// errorResponse ends what the upstream was doing. In the extended protocol it
// discards everything up to Sync, and so does the queue.
func (c *codec) errorResponse(out *messages.Out, head *entry, msg []byte) error {
	n, err := decodeNotice(msg)
	if err != nil {
		return err
	}
	if head == nil { // an error of the session: shutdown, time-out
		out.Down = c.maskNotice(n, nil).append(out.Down, 'E')
		return nil
	}
	if head.catalog != nil {
		head.catalog.err = n.field('M')
		return nil
	}
	head.failed = true
	head.tag = "SQLSTATE " + n.field('C')
	c.tell(out, head, n)
	head.result = result{}
	c.copyIn = false
	if head.kind == 'Q' || head.kind == 'F' || head.kind == 'S' {
		return nil // ReadyForQuery follows
	}
	c.unnameDiscarded()
	tag := head.tag
	for !c.queue.empty() && c.queue.head().kind != 'S' {
		e := c.queue.pop()
		if p := e.portal; e.kind == 'B' && c.portals[p.name] == p {
			delete(c.portals, p.name)
		}
		if e.query {
			e.tag = tag
		}
		e.end(engine.Failed)
	}
	if head := c.queue.head(); head != nil && head.hold != nil {
		head.hold.broken = true
	}
	if c.queue.empty() {
		c.skipping = true // no Sync is on its way yet: what comes before it is discarded upstream
	}
	return nil
}

// tell puts an error in the client's words.
func (c *codec) tell(out *messages.Out, head *entry, n notice) {
	const inFailedTransaction = "25P02"
	p := head.probe
	if p != nil && head.swallow { // it points into another text
		n = slices.DeleteFunc(n, func(f noticeField) bool { return f.kind == 'P' })
	}
	switch {
	case head.silent:
	case head.denial != nil:
		out.Down = appendDenial(out.Down, head.denial, c.session)
	case head.swallow && p.unanswered(c.maskNotice(n, head).append(nil, 'E')):
	case !head.swallow && p != nil && p.failed != nil && n.field('C') == inFailedTransaction:
		out.Down = append(out.Down, p.failed...)
	default:
		out.Down = c.maskNotice(n, head).append(out.Down, 'E')
	}
}

// unnameDiscarded takes the names back that Parse messages up to Sync gave.
func (c *codec) unnameDiscarded() {
	unit := c.queue.entries[c.queue.first:]
	if i := slices.IndexFunc(unit, func(e entry) bool { return e.kind == 'S' }); i >= 0 {
		unit = unit[:i]
	}
	for _, e := range slices.Backward(unit) {
		if e.kind == 'P' && e.statement != nil {
			c.unname(e.statement)
		}
	}
}

func (c *codec) noticeResponse(out *messages.Out, head *entry, msg []byte) error {
	n, err := decodeNotice(msg)
	if err != nil {
		return err
	}
	if head != nil && head.swallow {
		return nil
	}
	out.Down = c.maskNotice(n, head).append(out.Down, 'N')
	return nil
}

// notification is a NotificationResponse: its payload is free text.
func (c *codec) notification(out *messages.Out, msg []byte) error {
	pid, channel, payload, err := decodeNotification(msg)
	if err != nil {
		return err
	}
	masked := c.identity.scrub(c.gate.Scrub(payload))
	if bytes.Equal(masked, payload) {
		out.Down = append(out.Down, msg...)
		return nil
	}
	b := binary.BigEndian.AppendUint32(nil, pid)
	b = append(append(b, channel...), 0)
	b = append(append(b, bytes.ReplaceAll(masked, []byte{0}, nil)...), 0)
	out.Down = appendMessage(out.Down, 'A', b)
	return nil
}

func (c *codec) parameterStatus(out *messages.Out, msg []byte) error {
	name, value, err := decodeParameterStatus(msg)
	if err != nil {
		return err
	}
	if err := meaning(string(name), string(value)); err != nil {
		return &engine.Denial{
			Code: engine.ByPolicy, Reason: err.Error(),
			Help: "keep client_encoding = UTF8 and standard_conforming_strings = on",
		}
	}
	out.Down = c.identity.appendParameter(out.Down, name, value)
	return nil
}

// copyBegins is CopyInResponse or CopyOutResponse. In extended COPY FROM STDIN
// a Sync that the client has sent already is ignored upstream.
func (c *codec) copyBegins(out *messages.Out, head *entry, msg []byte) error {
	asked := head != nil && (head.kind == 'Q' || head.kind == 'E') && head.resolved != nil
	if !asked || head.denial != nil {
		return protocolError(msg[0], "that nobody asked for")
	}
	columns, binaryFormat, err := copyFormat(msg)
	if err != nil {
		return err
	}
	if msg[0] == 'H' {
		if err := c.copyOutBegins(head, columns, binaryFormat); err != nil {
			return err
		}
	}
	if msg[0] == 'G' {
		if head.resolved.copies != copyInto {
			return protocolError('G', "though the statement copies nothing in")
		}
		c.copyIn = true
		if head.kind == 'E' {
			c.queue.dropBehind('S')
		}
	}
	out.Down = append(out.Down, msg...)
	return nil
}

// functionResult is the value of a FunctionCall.
func (c *codec) functionResult(out *messages.Out, head *entry, msg []byte) error {
	if head == nil || head.kind != 'F' {
		return protocolError('V', "that nobody asked for")
	}
	r := body(msg)
	v := r.value()
	if !r.done() {
		return malformed("FunctionCallResponse")
	}
	if v == nil {
		out.Down = append(out.Down, msg...)
		return nil
	}
	masked := head.exchange.Text(v)
	if d := head.exchange.Data(engine.Downward, masked, 1); d != nil {
		return d // what the function has done cannot be taken back
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(len(masked)))
	out.Down = appendMessage(out.Down, 'V', append(b, masked...))
	return nil
}
