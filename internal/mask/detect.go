package mask

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

// redactedJSON is what a JSON document becomes that cannot be masked in place.
const redactedJSON = `"` + redacted + `"`

// Detect returns the masker of a column that is searched by s. Finds are
// replaced within the value where the type allows it, so that the rest stays
// readable; where it does not, the value becomes NULL, or for JSON a string.
// The name tells what its values may be: several with spaces between, or none.
func Detect(s *Scanner, name, typ string, binary bool) *Detector {
	d := &Detector{scanner: s, named: s.context(name), binary: binary, typ: types[typ]}
	if element, ok := strings.CutPrefix(typ, "_"); ok {
		d.strict = types[element].family != text && types[element].family != jsonText && types[element].family != jsonb
	}
	return d
}

// Detector is a Masker that says what it found.
type Detector struct {
	scanner *Scanner
	named   *context
	typ     pgType
	binary  bool
	strict  bool // an array whose elements have no room for a replacement
	buf     []byte
	hits    []Hit
	room    [8]Hit // for hits, when there are not more
}

// Hits returns what was found in the last value. It lives until the next.
func (d *Detector) Hits() []Hit { return d.hits }

func (d *Detector) Mask(value []byte) ([]byte, bool) {
	d.hits = nil
	if value == nil {
		return nil, true
	}
	switch d.typ.family {
	case fixed, uuid:
		return value, false // no room for a find
	case number:
		return d.number(value)
	case jsonText, jsonb:
		return d.json(value)
	case bytea:
		return d.bytea(value)
	case decimal:
		if d.binary {
			return d.decimal(value)
		}
		return d.whole(value)
	case text, xmlText:
		return d.inPlace(value), false
	case network:
		return d.network(value)
	}
	if d.binary || d.strict { // an array, a composite, or who knows: lengths are part of it
		return d.whole(value)
	}
	return d.inPlace(value), false
}

func (d *Detector) inPlace(value []byte) []byte {
	out, hits := d.scanner.mask(d.named, d.room[:0], d.buf[:0], value)
	if d.hits = hits; hits != nil {
		d.buf = out
	}
	return out
}

// whole makes a value with a find in it NULL.
func (d *Detector) whole(value []byte) ([]byte, bool) {
	if d.hits = d.scanner.scan(d.named, nil, value); d.hits != nil {
		return nil, true
	}
	return value, false
}

// number finds card numbers in integers.
func (d *Detector) number(value []byte) ([]byte, bool) {
	if !d.binary {
		return d.whole(value)
	}
	if n, ok := binaryInt(value); ok {
		var digits [20]byte
		if d.hits = d.scanner.scan(d.named, nil, strconv.AppendInt(digits[:0], n, 10)); d.hits != nil {
			return nil, true
		}
	}
	return value, false
}

// decimal finds card numbers in a binary numeric: int16 groups, weight, sign
// and scale, then groups of four decimal digits. One with a fraction is none.
func (d *Detector) decimal(value []byte) ([]byte, bool) {
	const head = 8
	if len(value) < head {
		return value, false
	}
	groups, weight := int(binary.BigEndian.Uint16(value)), int(int16(binary.BigEndian.Uint16(value[2:])))
	if groups > 8 || weight < 0 || weight > 8 || len(value) != head+2*groups || groups > weight+1 {
		return value, false
	}
	digits := make([]byte, 0, 40)
	for i := range weight + 1 {
		group := 0
		if i < groups {
			group = int(binary.BigEndian.Uint16(value[head+2*i:]))
		}
		if i > 0 {
			for _, limit := range [...]int{1000, 100, 10} {
				if group < limit {
					digits = append(digits, '0')
				}
			}
		}
		digits = strconv.AppendInt(digits, int64(group), 10)
	}
	if d.hits = d.scanner.scan(d.named, nil, digits); d.hits != nil {
		return nil, true
	}
	return value, false
}

// json masks within the strings of a document. Escapes could hide a find, so a
// document with escapes is also looked at without them; then, and when masking
// has broken it (a card number that was a JSON number), it goes as a whole.
func (d *Detector) json(value []byte) ([]byte, bool) {
	doc, head := value, 0
	if d.typ.family == jsonb && d.binary {
		if len(value) == 0 || value[0] != 1 {
			return nil, true // a version that nobody knows
		}
		doc, head = value[1:], 1
	}
	out, hits := d.scanner.mask(d.named, d.room[:0], append(d.buf[:0], value[:head]...), doc)
	if d.hits = hits; hits == nil {
		if found := d.unescaped(doc); found != nil {
			d.hits = found
			d.buf = append(append(d.buf[:0], value[:head]...), redactedJSON...)
			return d.buf, false
		}
		return value, false
	}
	d.buf = out
	if !json.Valid(out[head:]) || d.unescaped(out[head:]) != nil {
		d.buf = append(out[:head], redactedJSON...)
	}
	return d.buf, false
}

// unescaped returns the finds in a document with its escapes taken back.
func (d *Detector) unescaped(doc []byte) []Hit {
	if bytes.IndexByte(doc, '\\') < 0 {
		return nil
	}
	return d.scanner.scan(d.named, nil, appendUnescaped(nil, doc))
}

// appendUnescaped takes back what can hide a find: \/ and \u…; a quote stays
// escaped, so that strings still end where they did, and other escapes too.
func appendUnescaped(dst, doc []byte) []byte {
	for i := 0; i < len(doc); i++ {
		if doc[i] != '\\' || i+1 >= len(doc) {
			dst = append(dst, doc[i])
			continue
		}
		i++
		switch doc[i] {
		case '/':
			dst = append(dst, '/')
		case 'n':
			dst = append(dst, '\n')
		case 'u':
			if i+5 <= len(doc) {
				if r, err := strconv.ParseUint(string(doc[i+1:i+5]), 16, 16); err == nil {
					dst = utf8.AppendRune(dst, rune(r))
					i += 4
					continue
				}
			}
			dst = append(dst, '\\', 'u')
		default:
			dst = append(dst, '\\', doc[i])
		}
	}
	return dst
}

// bytea looks at the bytes, whatever they are written with.
func (d *Detector) bytea(value []byte) ([]byte, bool) {
	if d.binary {
		return d.inPlace(value), false
	}
	raw := byteaBytes(value)
	masked, hits := d.scanner.mask(d.named, d.room[:0], nil, raw)
	if d.hits = hits; hits == nil {
		return value, false
	}
	d.buf = append(d.buf[:0], `\x`...)
	d.buf = hex.AppendEncode(d.buf, masked)
	return d.buf, false
}

// network looks at inet and cidr, whose binary form is family, bits, whether it
// is a cidr, and length, then the address. One with a mask that is found with
// its mask is NULL too.
func (d *Detector) network(value []byte) ([]byte, bool) {
	const head = 4
	if !d.binary {
		return d.whole(value)
	}
	if len(value) < head {
		return value, false
	}
	if a, ok := netip.AddrFromSlice(value[head:]); ok {
		if d.hits = d.scanner.scan(d.named, nil, []byte(a.String())); d.hits != nil {
			return nil, true
		}
	}
	return value, false
}
