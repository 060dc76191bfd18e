package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// headerBytes is a type byte and a length that counts itself but not the type.
const headerBytes = 5

// maxLength is the longest message PostgreSQL itself sends or takes (1 GiB,
// MaxAllocSize); what claims more is garbage or an attack. The session's own
// limit is lower and is checked before memory is made.
const maxLength = 1 << 30

var errLength = errors.New("message length out of range")

// split returns the length of the first whole message in buf; 0 when it is not
// whole yet, with the bytes it will need. The length field is 32 bits signed
// and counts its own four bytes.
func split(buf []byte) (n, need int, err error) {
	if len(buf) < headerBytes {
		return 0, headerBytes, nil
	}
	length := int32(binary.BigEndian.Uint32(buf[1:]))
	if length < 4 || length > maxLength {
		return 0, 0, fmt.Errorf("%w: %d in message type %q", errLength, length, buf[0])
	}
	need = int(length) + 1
	if len(buf) < need {
		return 0, need, nil
	}
	return need, need, nil
}

// reader takes a message body apart. The first short or malformed read makes
// it bad, and every later read returns zero values; callers check done once.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) fail() { r.b, r.bad = nil, true }

func (r *reader) byte() byte {
	if len(r.b) < 1 {
		r.fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) int16() int {
	if len(r.b) < 2 {
		r.fail()
		return 0
	}
	v := int16(binary.BigEndian.Uint16(r.b))
	r.b = r.b[2:]
	return int(v)
}

// count reads an int16 that counts items of at least size bytes each.
func (r *reader) count(size int) int {
	n := r.int16()
	if n < 0 || n*size > len(r.b) {
		r.fail()
		return 0
	}
	return n
}

func (r *reader) int32() int32 {
	if len(r.b) < 4 {
		r.fail()
		return 0
	}
	v := int32(binary.BigEndian.Uint32(r.b))
	r.b = r.b[4:]
	return v
}

func (r *reader) uint32() uint32 { return uint32(r.int32()) }

// cstring reads up to a NUL, which it drops.
func (r *reader) cstring() []byte {
	for i, c := range r.b {
		if c == 0 {
			s := r.b[:i:i]
			r.b = r.b[i+1:]
			return s
		}
	}
	r.fail()
	return nil
}

// value reads an int32 length and that many bytes; -1 is NULL (nil).
func (r *reader) value() []byte {
	n := r.int32()
	if n == -1 && !r.bad {
		return nil
	}
	if n < 0 || int(n) > len(r.b) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// done reports whether the body was taken apart to its last byte.
func (r *reader) done() bool { return !r.bad && len(r.b) == 0 }

func body(msg []byte) reader { return reader{b: msg[headerBytes:]} }
