// Package mask replaces values that an agent must not see.
//
// There are four ways, none of which has I/O or a clock. For masks
// whole values of columns that the policy names, keeping to the type of the
// column so that clients still decode them. A Scanner finds secrets and
// personal data inside any text (Detect wraps it for columns). A Matcher finds
// the very secrets that the gateway uses, should an upstream send them back. A
// Stream does both in bytes that come in pieces of any size, such as what a
// terminal shows.
//
// Which column is masked, and that nothing passes unmasked, is the caller's
// business. Masking is a display control: what an agent may compute from a column
// it learns. Start with For, Detect, NewKnown and NewStream.
package mask

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
)

// Kind is how a column is masked.
type Kind uint8

const (
	// Redact replaces a value by a constant of its type: "[redacted]" for text,
	// zero for numbers and dates, NULL where there is no such constant.
	Redact Kind = iota + 1
	// Partial keeps the last four characters of a text of twelve or more, the
	// last two of eight or more, and of an e-mail address the first character
	// and the domain. Other types are redacted.
	Partial
	// Null replaces every value by NULL.
	Null
	// Hash replaces a value by a keyed hash, cut to the type: equal values stay
	// equal. Types without room for one are redacted.
	Hash
	// Pseudonym does the same in a shape for people: an address of example.com
	// for an e-mail address, digits for digits, p_… for other texts. Restore
	// reads it back.
	Pseudonym
)

var kindNames = [...]string{Redact: "redact", Partial: "partial", Null: "null", Hash: "hash", Pseudonym: "pseudonym"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return ""
}

// ParseKind returns the kind with this name.
func ParseKind(name string) (Kind, bool) {
	for k, n := range kindNames {
		if n == name && n != "" {
			return Kind(k), true
		}
	}
	return 0, false
}

// Masker masks the values of one column. The slice returned may be value
// itself or live until the next call; null stands for NULL. A nil value is NULL
// and stays NULL, also under a detector. A Masker is for one goroutine.
type Masker interface {
	Mask(value []byte) (masked []byte, null bool)
}

// family is what types have in common when it comes to masking.
type family uint8

const (
	other    family = iota // no replacement but NULL
	text                   // any bytes without NUL, the same in both formats
	jsonText               // json
	jsonb                  // json, in binary with a version byte before it
	xmlText
	bytea
	number // integers; width and range in the table
	fixed  // zero bytes are a value
	uuid
	decimal
	network // inet and cidr
)

// pgType is how PostgreSQL writes the values of a type.
type pgType struct {
	family family
	width  int    // in binary
	zero   string // in text: what Redact writes
	digits int    // of a number, how many decimal digits always fit
}

// types are those of PostgreSQL by the name in pg_type. What is not in it has
// no replacement but NULL.
var types = map[string]pgType{
	"text": {family: text}, "varchar": {family: text}, "bpchar": {family: text}, "name": {family: text},
	"citext": {family: text}, "char": {family: other},
	"json": {family: jsonText}, "jsonb": {family: jsonb}, "xml": {family: xmlText}, "bytea": {family: bytea},
	"int2": {family: number, width: 2, zero: "0", digits: 4}, "int4": {family: number, width: 4, zero: "0", digits: 9},
	"int8":   {family: number, width: 8, zero: "0", digits: 18},
	"float4": {family: fixed, width: 4, zero: "0"}, "float8": {family: fixed, width: 8, zero: "0"},
	"numeric": {family: decimal, width: 8, zero: "0"},
	"uuid":    {family: uuid, width: 16, zero: "00000000-0000-0000-0000-000000000000"},
	"inet":    {family: network}, "cidr": {family: network},
	// PostgreSQL counts dates and times from 2000-01-01.
	"date":        {family: fixed, width: 4, zero: "2000-01-01"},
	"time":        {family: fixed, width: 8, zero: "00:00:00"},
	"timestamp":   {family: fixed, width: 8, zero: "2000-01-01 00:00:00"},
	"timestamptz": {family: fixed, width: 8, zero: "2000-01-01 00:00:00+00"},
	"interval":    {family: fixed, width: 16, zero: "00:00:00"},
}

// redacted is the constant for texts. It is no e-mail address, no key and no
// token, so that detectors pass over it.
const redacted = "[redacted]"

// For returns the masker of a column of PostgreSQL type typ (its name in
// pg_type; empty when unknown) whose values come in text or binary format. The
// key is for Hash and Pseudonym, one per agent and domain of equal values;
// without a key both are Redact, because a hash that anyone can compute hides
// nothing.
func For(kind Kind, typ string, binary bool, key []byte) Masker {
	t := types[typ]
	c := &column{kind: kind, typ: t, binary: binary}
	if len(key) == 0 && (kind == Hash || kind == Pseudonym) {
		c.kind = Redact
	}
	switch c.kind {
	case Hash:
		c.mac = hmac.New(sha256.New, key)
	case Pseudonym:
		c.mac = hmac.New(sha256.New, key)
		c.names = newPseudonyms(key)
	case Redact, Partial:
	default:
		c.kind = Null
	}
	if t.family == other || t.family == network {
		c.kind = Null
	}
	return c
}

// column masks the values of one column.
type column struct {
	kind   Kind
	typ    pgType
	binary bool
	mac    hash.Hash
	names  *pseudonyms // of Pseudonym
	sum    [sha256.Size]byte
	buf    []byte
}

func (c *column) Mask(value []byte) ([]byte, bool) {
	if value == nil || c.kind == Null {
		return nil, true
	}
	c.buf = c.buf[:0]
	ok := false
	switch c.typ.family {
	case text, jsonText, jsonb, xmlText:
		ok = c.texts(value)
	case bytea:
		ok = c.bytea(value)
	case number:
		ok = c.number(value)
	case uuid:
		ok = c.uuid(value)
	case fixed, decimal:
		ok = c.zero()
	}
	if !ok {
		return nil, true
	}
	return c.buf, false
}

// digest is the keyed hash of a value in its canonical form, so that both
// formats of a value, and columns of like types, give the same.
func (c *column) digest(canonical []byte) []byte {
	c.mac.Reset()
	c.mac.Write([]byte{byte(c.kind)})
	c.mac.Write(canonical)
	return c.mac.Sum(c.sum[:0])
}

func (c *column) zero() bool {
	if c.binary {
		for range c.typ.width {
			c.buf = append(c.buf, 0)
		}
		return true
	}
	c.buf = append(c.buf, c.typ.zero...)
	return true
}
