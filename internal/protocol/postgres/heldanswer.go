package postgres

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/jackc/pgproto3/v2"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
	"github.com/postern/postern/internal/sql"
)

// What the upstream says while a request is held.

// response takes one message of a step. What is not of the step passes: the
// client may hear of other sessions and of settings.
func (h *hold) response(out *messages.Out, msg []byte) error {
	c := h.codec
	switch msg[0] {
	case 'A':
		return c.notification(out, msg)
	case 'S':
		return c.parameterStatus(out, msg)
	case 'Z':
		r := body(msg)
		status := r.byte()
		if !r.done() || status != 'I' && status != 'T' && status != 'E' {
			return malformed("ReadyForQuery")
		}
		c.queue.pop()
		if h.stage == running {
			h.keep(msg)
		}
		return h.next(out, status)
	case 'E':
		n, err := decodeNotice(msg)
		if err != nil {
			return err
		}
		h.failed = n.clone()
	}
	switch h.stage {
	case opening:
		return h.opened(msg)
	case sampling:
		return h.sampled(msg)
	case running:
		return h.runs(msg)
	}
	return nil
}

// opened takes the settings, and what the check found.
func (h *hold) opened(msg []byte) error {
	if msg[0] != 'D' {
		return nil
	}
	var v []string
	if err := rowValues(msg[headerBytes:], func(_ int, value []byte) { v = append(v, string(value)) }); err != nil {
		return err
	}
	switch {
	case len(v) == 2 && h.settings == nil && !strings.ContainsAny(v[0]+v[1], `'\`):
		h.settings = v
	case len(v) == 1 && h.settings != nil:
		h.found = append(h.found, v[0])
	default:
		return malformed("DataRow")
	}
	return nil
}

func (h *hold) sampled(msg []byte) error {
	switch msg[0] {
	case 'T':
		f, err := h.codec.fieldsOf(msg, nil)
		h.fields = f
		return err
	case 'D':
		if h.fields == nil || len(h.rows) >= sql.SampleRows {
			return protocolError('D', "in a sample")
		}
		if err := checkRow(msg[headerBytes:], len(h.fields.list)); err != nil {
			return err
		}
		row := make([][]byte, 0, len(h.fields.list))
		err := rowValues(msg[headerBytes:], func(_ int, v []byte) { row = append(row, bytes.Clone(v)) })
		h.rows = append(h.rows, row)
		return err
	}
	return nil
}

// runs keeps the answer to the statement.
func (h *hold) runs(msg []byte) error {
	switch msg[0] {
	case 'C':
		r := body(msg)
		h.changed = changedRows(string(r.cstring()))
	case 'E':
		h.failure = h.codec.maskNotice(h.failed, &entry{resolved: h.stmt, exchange: h.exchange}).clone()
	case 'G', 'H', 'W':
		return protocolError(msg[0], "in a held statement")
	}
	h.keep(msg)
	return nil
}

func (h *hold) keep(msg []byte) {
	if len(h.answer)+len(msg) <= maxHeldAnswer {
		h.answer = append(h.answer, msg...)
		return
	}
	h.denial = &engine.Denial{
		Code:   engine.Limit,
		Reason: fmt.Sprintf("the answer to a statement that waits for approval is longer than %d bytes", maxHeldAnswer),
		Help:   "leave RETURNING out, or change fewer rows at a time",
	}
}

// next is called at the end of each step.
func (h *hold) next(out *messages.Out, status byte) error {
	switch h.stage {
	case syncing:
		return h.wasSynced(out, status)
	case opening, sampling:
		h.ready(out, status)
	case abandoning:
		if h.why == "" && !h.decided { // the sample failed: without one
			h.sample = nil
			h.open(out, status)
			return nil
		}
		if h.block {
			h.codec.tx = status
		}
		h.wait()
		if h.decided {
			h.instead(out)
		}
		return nil
	case running:
		if want := byte('T'); h.failure == nil && status != want {
			return protocolError('Z', "outside of the transaction of a held statement")
		}
		h.stage = ran
		h.hasRan()
		if h.decided {
			return h.finish(out)
		}
	case closing:
		return h.closed(out, status)
	}
	return nil
}

// wasSynced knows what came of everything before.
func (h *hold) wasSynced(out *messages.Out, status byte) error {
	c := h.codec
	c.tx, c.wrote = status, false
	if status == 'I' {
		c.transactionOver()
	}
	switch {
	case h.broken: // the client has been told, and has sent its Sync
		if h.kind == 'B' {
			c.unit++
		}
		h.end("not executed")
		out.Down = appendReady(out.Down, status)
		h.isDone()
	case h.decided:
		h.wait()
		h.instead(out)
	case status == 'E':
		h.why = "its transaction has failed already"
		h.wait()
	default:
		h.open(out, status)
	}
	return nil
}

// ready goes on after the transaction was opened, and after the sample.
func (h *hold) ready(out *messages.Out, status byte) {
	switch {
	case h.stage == opening && (h.failed != nil || len(h.found) != 1 || status != 'T'):
		h.why = "it cannot be told what its table sets off"
	case h.stage == opening && h.found[0] != "":
		h.why = h.found[0]
	}
	switch {
	case h.why != "", h.decided, h.failed != nil:
		h.abandon(out, status)
	case h.stage == opening && h.sample != nil:
		h.take(out)
	default:
		h.run(out)
	}
}

// take asks for the sample, or goes on without one.
func (h *hold) take(out *messages.Out) {
	if len(h.sample.Params) == 0 {
		h.step(out, sampling, h.sample.Query)
		return
	}
	ask, bind, ok := h.bound()
	if !ok {
		h.sample = nil
		h.run(out)
		return
	}
	h.stage, h.failed = sampling, nil
	out.Up = encode(out.Up, ask)
	out.Up = encode(out.Up, bind)
	out.Up = encode(out.Up, &pgproto3.Describe{ObjectType: 'P'})
	out.Up = encode(out.Up, &pgproto3.Execute{})
	out.Up = encode(out.Up, &pgproto3.Close{ObjectType: 'S', Name: sampleName})
	out.Up = encode(out.Up, &pgproto3.Sync{})
	h.codec.queue.push(entry{kind: 'S', hold: h})
}

// bound gives the sample those parameters of the statement that it has.
func (h *hold) bound() (*pgproto3.Parse, *pgproto3.Bind, bool) {
	if h.kind != 'B' {
		return nil, nil, false
	}
	b, err := decodeBind(h.messages[0])
	if err != nil {
		return nil, nil, false
	}
	ask, bind := &pgproto3.Parse{Name: sampleName, Query: h.sample.Query}, &pgproto3.Bind{PreparedStatement: sampleName}
	types := h.portal.statement.types
	for _, n := range h.sample.Params {
		if n < 1 || n > len(b.params) {
			return nil, nil, false
		}
		var typ uint32
		if 4*n <= len(types) {
			typ = (&reader{b: types[4*(n-1):]}).uint32()
		}
		p, format := b.params[n-1], int16(0)
		if p.Binary {
			format = 1
		}
		ask.ParameterOIDs = append(ask.ParameterOIDs, typ)
		bind.ParameterFormatCodes = append(bind.ParameterFormatCodes, format)
		bind.Parameters = append(bind.Parameters, p.Value)
	}
	return ask, bind, true
}

// closed tells the client what came of it. A COMMIT may fail yet, by a constraint
// that is checked only then.
func (h *hold) closed(out *messages.Out, status byte) error {
	want := byte('I')
	if h.block {
		want = 'T'
	}
	switch {
	case h.failed != nil:
		h.uncommitted(out, status)
	case status != want:
		return protocolError('Z', "after a held statement")
	case h.denial != nil:
		h.deny(out, status)
	default:
		return h.replay(out, status)
	}
	return nil
}

// uncommitted tells why COMMIT has failed.
func (h *hold) uncommitted(out *messages.Out, status byte) {
	c := h.codec
	if h.kind == 'B' && c.portals[h.portal.name] == h.portal {
		delete(c.portals, h.portal.name)
	}
	out.Down = c.maskNotice(h.failed, &entry{resolved: h.stmt, exchange: h.exchange}).append(out.Down, 'E')
	out.Down = appendReady(out.Down, status)
	c.tx = status
	h.end("SQLSTATE " + h.failed.field('C'))
	h.isDone()
}

// clone is n with a life of its own.
func (n notice) clone() notice {
	out := make(notice, len(n))
	for i, f := range n {
		f.value = bytes.Clone(f.value)
		out[i] = f
	}
	return out
}
