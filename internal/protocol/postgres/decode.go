package postgres

import (
	"bytes"
	"fmt"

	"github.com/postern/postern/internal/engine"
)

// The decoders of messages that a peer may have forged. All of them check every
// count against the bytes that are there before they make room, and accept a
// message only when nothing is left of it. github.com/jackc/pgproto3/v2, whose
// encoders and types this package uses, does neither (CVE-2026-32286), so its
// decoders are never called. Slices point into the message.

// malformed is a message that does not follow the protocol chapter "Message
// Formats". The session ends with it.
func malformed(what string) error {
	return &engine.Denial{
		Code:   engine.Malformed,
		Reason: fmt.Sprintf("malformed %s message", what),
		Help:   "the connection is closed; check the client library's version",
	}
}

// queryText is the body of Query: one string and nothing behind its NUL.
func queryText(msg []byte) ([]byte, error) {
	r := body(msg)
	text := r.cstring()
	if !r.done() {
		return nil, malformed("Query")
	}
	return text, nil
}

type parseMessage struct {
	name, text []byte
	types      int
}

func decodeParse(msg []byte) (parseMessage, error) {
	r := body(msg)
	p := parseMessage{name: r.cstring(), text: r.cstring()}
	p.types = r.count(4)
	for range p.types {
		r.int32()
	}
	if !r.done() {
		return p, malformed("Parse")
	}
	return p, nil
}

type bindMessage struct {
	portal, statement []byte
	params            []engine.Param
	results           []int16 // format codes: none, one for all, or one each
}

func decodeBind(msg []byte) (bindMessage, error) {
	r := body(msg)
	b := bindMessage{portal: r.cstring(), statement: r.cstring()}
	formats, ok := formatCodes(&r)
	n := r.count(4)
	if n > 0 && ok {
		b.params = make([]engine.Param, n)
	}
	if len(formats) > 1 && len(formats) != n {
		ok = false
	}
	for i := range b.params {
		v := r.value()
		b.params[i] = engine.Param{Value: v, Null: v == nil, Binary: formatOf(formats, i)}
	}
	results, resultsOK := formatCodes(&r)
	if !ok || !resultsOK || !r.done() {
		return b, malformed("Bind")
	}
	b.results = results
	return b, nil
}

// formatCodes reads a count and that many codes, each 0 (text) or 1 (binary).
func formatCodes(r *reader) ([]int16, bool) {
	n := r.count(2)
	if n == 0 {
		return nil, !r.bad
	}
	codes := make([]int16, n)
	for i := range codes {
		codes[i] = int16(r.int16())
		if codes[i]&^1 != 0 {
			return nil, false
		}
	}
	return codes, !r.bad
}

// formatOf applies the rule of Bind: no codes mean text, one is for all.
func formatOf(codes []int16, i int) (binary bool) {
	switch len(codes) {
	case 0:
		return false
	case 1:
		return codes[0] == 1
	}
	return i < len(codes) && codes[i] == 1
}

// named is Describe and Close: 'S'tatement or 'P'ortal, and its name.
func decodeNamed(msg []byte, what string) (kind byte, name []byte, err error) {
	r := body(msg)
	kind, name = r.byte(), r.cstring()
	if !r.done() || kind != 'S' && kind != 'P' {
		return 0, nil, malformed(what)
	}
	return kind, name, nil
}

func decodeExecute(msg []byte) (portal []byte, err error) {
	r := body(msg)
	portal = r.cstring()
	r.int32()
	if !r.done() {
		return nil, malformed("Execute")
	}
	return portal, nil
}

func decodeFunctionCall(msg []byte) (oid uint32, params []engine.Param, err error) {
	r := body(msg)
	oid = r.uint32()
	formats, ok := formatCodes(&r)
	n := r.count(4)
	if len(formats) > 1 && len(formats) != n {
		ok = false
	}
	for i := range n {
		v := r.value()
		params = append(params, engine.Param{Value: v, Null: v == nil, Binary: formatOf(formats, i)})
	}
	if r.int16()&^1 != 0 {
		ok = false
	}
	if !ok || !r.done() {
		return 0, nil, malformed("FunctionCall")
	}
	return oid, params, nil
}

// empty is a message without a body: Sync, Flush, Terminate, CopyDone, and the
// upstream's ParseComplete and its like.
func empty(msg []byte, what string) error {
	if len(msg) != headerBytes {
		return malformed(what)
	}
	return nil
}

// column is one entry of RowDescription.
type column struct {
	name   []byte
	table  uint32 // OID, 0 when computed
	attr   int16  // attribute number, 0 when computed
	typ    uint32
	binary bool
}

func decodeRowDescription(msg []byte) ([]column, error) {
	r := body(msg)
	n := r.count(19) // an empty name's NUL and 18 bytes
	columns := make([]column, n)
	for i := range columns {
		c := &columns[i]
		c.name = r.cstring()
		c.table = r.uint32()
		c.attr = int16(r.int16())
		c.typ = r.uint32()
		r.int16() // type length
		r.int32() // type modifier
		c.binary = r.int16() == 1
	}
	if !r.done() {
		return nil, malformed("RowDescription")
	}
	return columns, nil
}

// rowValues walks a DataRow's body, calling each with every value in turn.
func rowValues(b []byte, each func(i int, v []byte)) error {
	r := reader{b: b}
	n := r.count(4)
	for i := range n {
		v := r.value()
		if r.bad {
			break
		}
		each(i, v)
	}
	if !r.done() {
		return malformed("DataRow")
	}
	return nil
}

// checkRow makes sure that a DataRow's body holds this many values.
func checkRow(b []byte, columns int) error {
	r := reader{b: b}
	if r.count(4) != columns {
		r.fail()
	}
	for range columns {
		r.value()
	}
	if !r.done() {
		return malformed("DataRow")
	}
	return nil
}

// copyFormat is the overall format of CopyInResponse and CopyOutResponse.
func copyFormat(msg []byte) (columns int, binary bool, err error) {
	r := body(msg)
	format := r.byte()
	n := r.count(2)
	for range n {
		r.int16()
	}
	if !r.done() || format > 1 {
		return 0, false, malformed("CopyResponse")
	}
	return n, format == 1, nil
}

// notice is an ErrorResponse or NoticeResponse: fields by their letter.
type notice []noticeField

type noticeField struct {
	kind  byte
	value []byte
}

func decodeNotice(msg []byte) (notice, error) {
	r := body(msg)
	var n notice
	for {
		kind := r.byte()
		if r.bad {
			return nil, malformed("ErrorResponse")
		}
		if kind == 0 {
			break
		}
		n = append(n, noticeField{kind, r.cstring()})
	}
	if !r.done() {
		return nil, malformed("ErrorResponse")
	}
	return n, nil
}

func (n notice) field(kind byte) string {
	for _, f := range n {
		if f.kind == kind {
			return string(f.value)
		}
	}
	return ""
}

// append encodes n as a message of type t.
func (n notice) append(dst []byte, t byte) []byte {
	start := len(dst)
	dst = append(dst, t, 0, 0, 0, 0)
	for _, f := range n {
		dst = append(dst, f.kind)
		dst = append(dst, bytes.ReplaceAll(f.value, []byte{0}, nil)...)
		dst = append(dst, 0)
	}
	dst = append(dst, 0)
	return patchLength(dst, start)
}

// parameterStatus is a name and a value.
func decodeParameterStatus(msg []byte) (name, value []byte, err error) {
	r := body(msg)
	name, value = r.cstring(), r.cstring()
	if !r.done() {
		return nil, nil, malformed("ParameterStatus")
	}
	return name, value, nil
}

func decodeNotification(msg []byte) (pid uint32, channel, payload []byte, err error) {
	r := body(msg)
	pid, channel, payload = r.uint32(), r.cstring(), r.cstring()
	if !r.done() {
		return 0, nil, nil, malformed("NotificationResponse")
	}
	return pid, channel, payload, nil
}
