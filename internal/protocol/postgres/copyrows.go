package postgres

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/sql"
)

// copyRows masks the rows of one COPY … TO STDOUT, in any of its formats. They
// come in pieces that need not end where a row does.
type copyRows struct {
	form    *sql.Copied
	binary  bool
	maskers []engine.Masker // one per column, nil where values pass as they are
	limit   int             // bytes of one row

	begun bool   // the header has passed
	ended bool   // the trailer of the binary format has
	rest  []byte // of a row that is not whole
	row   []byte // as it is passed on
	value []byte // without its escapes
}

// copySignature begins the binary format.
const copySignature = "PGCOPY\n\xff\r\n\x00"

var errCopyRow = protocolError('d', "that is no row of the columns that were described")

// feed takes a piece and calls each for every row that is whole now: head for
// what is none, the header and the trailer. The slice is valid until each returns.
func (c *copyRows) feed(piece []byte, each func(row []byte, head bool)) error {
	b := piece
	if len(c.rest) > 0 {
		c.rest = append(c.rest, piece...)
		b = c.rest
	}
	for len(b) > 0 {
		n, err := c.length(b)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		row, head, err := c.masked(b[:n])
		if err != nil {
			return err
		}
		each(row, head)
		b = b[n:]
	}
	if len(b) > c.limit {
		return &engine.Denial{
			Code:   engine.Limit,
			Reason: fmt.Sprintf("a row of COPY is longer than %d bytes", c.limit),
			Help:   "leave its longest columns out, or raise limits.message_bytes",
		}
	}
	c.rest = append(c.rest[:0], b...)
	return nil
}

// whole says whether every row has passed.
func (c *copyRows) whole() bool { return len(c.rest) == 0 && (!c.binary || c.ended) }

// length of the row, the header or the trailer that b begins with, 0 when it is
// not whole.
func (c *copyRows) length(b []byte) (int, error) {
	switch {
	case c.binary:
		return c.binaryLength(b)
	case c.form.CSV:
		return c.csvLength(b), nil
	}
	return bytes.IndexByte(b, '\n') + 1, nil
}

// csvLength passes over newlines in quotes.
func (c *copyRows) csvLength(b []byte) int {
	quoted := false
	for i := 0; i < len(b); i++ {
		switch ch := b[i]; {
		case quoted && ch == c.form.Escape && c.form.Escape != c.form.Quote:
			i++
		case ch == c.form.Quote:
			quoted = !quoted // a doubled one does it twice
		case ch == '\n' && !quoted:
			return i + 1
		}
	}
	return 0
}

func (c *copyRows) binaryLength(b []byte) (int, error) {
	switch fixed := len(copySignature) + 8; {
	case c.ended:
		return 0, malformed("CopyData")
	case !c.begun && len(b) < fixed:
		return 0, nil
	case !c.begun:
		n := binary.BigEndian.Uint32(b[fixed-4:])
		if !bytes.HasPrefix(b, []byte(copySignature)) || n > uint32(c.limit) {
			return 0, malformed("CopyData")
		}
		if fixed += int(n); len(b) < fixed {
			return 0, nil
		}
		return fixed, nil
	case len(b) < 2:
		return 0, nil
	}
	count := int(int16(binary.BigEndian.Uint16(b)))
	if count == -1 {
		return 2, nil
	}
	at := 2
	for range count {
		if len(b) < at+4 {
			return 0, nil
		}
		n := int32(binary.BigEndian.Uint32(b[at:]))
		if n < -1 || n > int32(c.limit) {
			return 0, malformed("CopyData")
		}
		at += 4 + int(max(n, 0))
	}
	if count < 0 || len(b) < at {
		return 0, nil
	}
	return at, nil
}

// masked returns a row as it is passed on.
func (c *copyRows) masked(row []byte) (out []byte, head bool, err error) {
	if !c.begun {
		c.begun = true
		if c.binary || c.form.Header {
			return row, true, nil
		}
	}
	c.row = c.row[:0]
	switch {
	case c.binary && binary.BigEndian.Uint16(row) == 0xffff:
		c.ended = true
		return row, true, nil
	case c.binary:
		return c.row, false, c.maskBinary(row)
	case len(c.maskers) == 0:
		return row, false, nil
	}
	err = c.maskLine(row[:len(row)-1])
	return c.row, false, err
}

func (c *copyRows) maskBinary(row []byte) error {
	if int(binary.BigEndian.Uint16(row)) != len(c.maskers) {
		return errCopyRow
	}
	c.row = append(c.row, row[:2]...)
	at := 2
	for _, m := range c.maskers {
		n := int32(binary.BigEndian.Uint32(row[at:]))
		at += 4
		if n < 0 {
			c.row = binary.BigEndian.AppendUint32(c.row, 0xffffffff)
			continue
		}
		v, null := row[at:at+int(n)], false
		at += int(n)
		if m != nil {
			v, null = m.Mask(v)
		}
		if null {
			c.row = binary.BigEndian.AppendUint32(c.row, 0xffffffff)
			continue
		}
		c.row = append(binary.BigEndian.AppendUint32(c.row, uint32(len(v))), v...)
	}
	return nil
}

// maskLine masks a row of the text or csv format, without its newline.
func (c *copyRows) maskLine(line []byte) error {
	for i, m := range c.maskers {
		n := c.fieldLength(line)
		field := line[:n]
		last := i == len(c.maskers)-1
		if last != (n == len(line)) {
			return errCopyRow
		}
		switch {
		case m == nil, c.isNull(field):
			c.row = append(c.row, field...)
		default:
			c.maskField(field, m)
		}
		if last {
			c.row = append(c.row, '\n')
			break
		}
		c.row = append(c.row, c.form.Delimiter)
		line = line[n+1:]
	}
	return nil
}

// fieldLength is how far a field reaches, to the delimiter or to the end.
func (c *copyRows) fieldLength(line []byte) int {
	quoted := false
	for i := 0; i < len(line); i++ {
		switch ch := line[i]; {
		case c.form.CSV && quoted && ch == c.form.Escape && c.form.Escape != c.form.Quote, !c.form.CSV && ch == '\\':
			i++
		case c.form.CSV && ch == c.form.Quote:
			quoted = !quoted
		case ch == c.form.Delimiter && !quoted:
			return i
		}
	}
	return len(line)
}

// isNull says whether a field is surely NULL. In the text format a value may
// read as any string that the statement chose to write NULL with, so that
// passing it would tell which value it is.
func (c *copyRows) isNull(field []byte) bool {
	return string(field) == c.form.Null && (c.form.CSV || c.form.Null == "" || c.form.Null == `\N`)
}

func (c *copyRows) maskField(field []byte, m engine.Masker) {
	quoted := c.form.CSV && len(field) > 0 && field[0] == c.form.Quote
	switch {
	case quoted:
		c.value = c.unquoted(field)
	case c.form.CSV:
		c.value = append(c.value[:0], field...)
	default:
		c.value = appendUnescaped(c.value[:0], field)
	}
	v, null := m.Mask(c.value)
	switch {
	case null:
		c.row = append(c.row, c.form.Null...)
	case c.form.CSV:
		c.appendCSV(v, quoted)
	default:
		c.appendEscaped(v)
	}
}

func (c *copyRows) unquoted(field []byte) []byte {
	v := c.value[:0]
	for i := 1; i < len(field); i++ {
		ch := field[i]
		if ch == c.form.Escape && i+1 < len(field) && (field[i+1] == c.form.Quote || field[i+1] == c.form.Escape) {
			i++
			v = append(v, field[i])
			continue
		}
		if ch != c.form.Quote {
			v = append(v, ch)
		}
	}
	return v
}

func (c *copyRows) appendCSV(v []byte, quoted bool) {
	quoted = quoted || string(v) == c.form.Null ||
		bytes.ContainsAny(v, "\r\n") || bytes.IndexByte(v, c.form.Delimiter) >= 0 || bytes.IndexByte(v, c.form.Quote) >= 0
	if !quoted {
		c.row = append(c.row, v...)
		return
	}
	c.row = append(c.row, c.form.Quote)
	for _, ch := range v {
		if ch == c.form.Quote || ch == c.form.Escape {
			c.row = append(c.row, c.form.Escape)
		}
		c.row = append(c.row, ch)
	}
	c.row = append(c.row, c.form.Quote)
}

// copyEscapes are the letters that stand for control characters after a
// backslash.
var copyEscapes = [...][2]byte{{'b', '\b'}, {'f', '\f'}, {'n', '\n'}, {'r', '\r'}, {'t', '\t'}, {'v', '\v'}}

// appendUnescaped takes the escapes that PostgreSQL writes: octal and hex ones
// it only reads.
func appendUnescaped(dst, field []byte) []byte {
	for i := 0; i < len(field); i++ {
		ch := field[i]
		if ch == '\\' && i+1 < len(field) {
			i++
			ch = field[i]
			for _, e := range copyEscapes {
				if ch == e[0] {
					ch = e[1]
					break
				}
			}
		}
		dst = append(dst, ch)
	}
	return dst
}

func (c *copyRows) appendEscaped(v []byte) {
next:
	for _, ch := range v {
		for _, e := range copyEscapes {
			if ch == e[1] {
				c.row = append(c.row, '\\', e[0])
				continue next
			}
		}
		if ch == '\\' || ch == c.form.Delimiter {
			c.row = append(c.row, '\\')
		}
		c.row = append(c.row, ch)
	}
}
