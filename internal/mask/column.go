package mask

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"unicode/utf8"
)

// texts masks what is text in both formats.
func (c *column) texts(value []byte) bool {
	switch c.typ.family {
	case xmlText:
		c.buf = append(c.buf, "<redacted>"...)
		if c.kind == Hash || c.kind == Pseudonym {
			c.buf = appendHex(c.buf, c.digest(value)[:16])
		}
		c.buf = append(c.buf, "</redacted>"...)
		return true
	case jsonb, jsonText:
		if c.typ.family == jsonb && c.binary {
			if len(value) == 0 {
				return false
			}
			c.buf = append(c.buf, value[0]) // the version, which is 1
			value = value[1:]
		}
		c.buf = append(c.buf, '"')
		if c.kind == Hash || c.kind == Pseudonym {
			c.buf = appendHex(c.buf, c.digest(value)[:16])
		} else {
			c.buf = append(c.buf, redacted...)
		}
		c.buf = append(c.buf, '"')
		return true
	}
	switch c.kind {
	case Partial:
		c.buf = appendPartial(c.buf, value)
	case Hash:
		c.buf = appendHex(c.buf, c.digest(value)[:16])
	case Pseudonym:
		c.buf = c.names.appendText(c.buf, value)
	default:
		c.buf = append(c.buf, redacted...)
	}
	return true
}

func appendHex(dst, b []byte) []byte { return hex.AppendEncode(dst, b) }

// appendPartial is idempotent: what it keeps, it keeps again.
func appendPartial(dst, value []byte) []byte {
	if at := bytes.LastIndexByte(value, '@'); at > 0 && at < len(value)-1 && bytes.IndexByte(value[at:], '.') > 1 {
		_, n := utf8.DecodeRune(value)
		dst = append(dst, value[:n]...)
		dst = append(dst, "***"...)
		return append(dst, value[at:]...)
	}
	count, keep := utf8.RuneCount(value), 0
	switch {
	case count >= 12:
		keep = 4
	case count >= 8:
		keep = 2
	}
	for range count - keep {
		_, n := utf8.DecodeRune(value)
		value = value[n:]
		dst = append(dst, '*')
	}
	return append(dst, value...)
}

func allDigits(b []byte) bool {
	for _, c := range b {
		if c-'0' > 9 {
			return false
		}
	}
	return len(b) > 0
}

// bytea is \x… in text, and in binary the bytes.
func (c *column) bytea(value []byte) bool {
	raw := value
	if !c.binary {
		raw = byteaBytes(value)
	}
	out := []byte("redacted")
	switch c.kind {
	case Hash:
		out = c.digest(raw)[:16]
	case Pseudonym:
		out = c.names.seal(nil, raw)
	}
	if c.binary {
		c.buf = append(c.buf, out...)
		return true
	}
	c.buf = append(c.buf, `\x`...)
	c.buf = appendHex(c.buf, out)
	return true
}

// byteaBytes reads the hex form; another form (bytea_output = escape) is taken
// as the bytes it is written with.
func byteaBytes(value []byte) []byte {
	if digits, ok := bytes.CutPrefix(value, []byte(`\x`)); ok {
		if raw, err := hex.AppendDecode(nil, digits); err == nil {
			return raw
		}
	}
	return value
}

// number keeps to the range of the type.
func (c *column) number(value []byte) bool {
	if c.kind != Hash && c.kind != Pseudonym {
		return c.zero()
	}
	v, err := strconv.ParseInt(string(value), 10, 64)
	ok := err == nil
	if c.binary {
		v, ok = binaryInt(value)
		ok = ok && len(value) == c.typ.width
	}
	if !ok || !binaryFits(v, c.typ.width) {
		return false
	}
	if c.kind == Pseudonym {
		v = c.names.number(v, c.typ.width, true)
	} else {
		limit := uint64(1)
		for range c.typ.digits {
			limit *= 10
		}
		v = int64(binary.BigEndian.Uint64(c.digest(strconv.AppendInt(nil, v, 10))) % limit)
	}
	if !c.binary {
		c.buf = strconv.AppendInt(c.buf, v, 10)
		return true
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(v))
	c.buf = append(c.buf, b[8-c.typ.width:]...)
	return true
}

func binaryInt(b []byte) (int64, bool) {
	switch len(b) {
	case 2:
		return int64(int16(binary.BigEndian.Uint16(b))), true
	case 4:
		return int64(int32(binary.BigEndian.Uint32(b))), true
	case 8:
		return int64(binary.BigEndian.Uint64(b)), true
	}
	return 0, false
}

// uuid makes a version 8 one (RFC 9562: for others' use) from the digest. A
// pseudonym has every bit for the value itself.
func (c *column) uuid(value []byte) bool {
	if c.kind != Hash && c.kind != Pseudonym {
		return c.zero()
	}
	raw := value
	if !c.binary {
		var ok bool
		if raw, ok = uuidBytes(value); !ok {
			return false
		}
	}
	if len(raw) != 16 {
		return false
	}
	var id []byte
	if c.kind == Pseudonym {
		id = c.names.uuid(raw, true)
	} else {
		id = c.digest(raw)[:16]
		id[6] = id[6]&0x0f | 0x80
		id[8] = id[8]&0x3f | 0x80
	}
	if c.binary {
		c.buf = append(c.buf, id...)
	} else {
		c.buf = appendUUID(c.buf, id)
	}
	return true
}

func appendUUID(dst, id []byte) []byte {
	for i, from := range [...]int{0, 4, 6, 8, 10} {
		to := [...]int{4, 6, 8, 10, 16}[i]
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = appendHex(dst, id[from:to])
	}
	return dst
}

func uuidBytes(value []byte) ([]byte, bool) {
	digits := make([]byte, 0, 32)
	for _, b := range value {
		if b != '-' {
			digits = append(digits, b)
		}
	}
	raw, err := hex.AppendDecode(nil, digits)
	return raw, err == nil && len(raw) == 16
}
