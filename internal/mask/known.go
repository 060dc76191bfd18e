package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

const (
	// minKnown is the shortest secret that is looked for, and minKnownBits the
	// least entropy: replacing "postgres" wherever it occurs would break
	// answers, and tell an agent that it guessed right.
	minKnown     = 8
	minKnownBits = 24

	shiftBits = 12 // of the matcher's table: 4 KiB stay in the cache
)

// Known is a secret and what the agent holds in its place.
type Known struct{ Secret, Placeholder []byte }

// Matcher finds known secrets, in plain and in the forms that echo them:
// base64 (standard and URL, at any offset), hex, URL-encoded, JSON-escaped. It
// may be used by any number of goroutines at once. It holds copies of the
// secrets.
//
// It works on whole values: a secret that is split over two of them it does not
// see; a Stream does.
type Matcher struct {
	patterns []pattern
	// Wu and Manber's shift table: by the hash of the two bytes that end a
	// window of min bytes, how far the window can move. min is the length of
	// the shortest pattern; of the others only the first min bytes count.
	shift [1 << shiftBits]uint8
	min   int
	max   int           // the length of the longest
	begin [256][]uint16 // by their first byte, the patterns
}

type pattern struct {
	text    []byte // what to find
	replace []byte // by what
	// For base64, the characters beside the text share bits with the secret:
	// these are the bits of it that the placeholder has there.
	before, after sixBits
	alphabet      *base64Alphabet
}

type sixBits struct{ mask, value byte }

// NewKnown returns a matcher, and the indexes of the secrets that it does not
// look for because they are too short or too simple; their owner should say so.
// A secret that equals its placeholder is no secret and is passed over.
func NewKnown(list []Known) (m *Matcher, weak []int) {
	m = &Matcher{}
	seen := map[string]bool{}
	for i, k := range list {
		if bytes.Equal(k.Secret, k.Placeholder) {
			continue
		}
		if len(k.Secret) < minKnown || entropy(k.Secret)*float64(len(k.Secret)) < minKnownBits {
			weak = append(weak, i)
			continue
		}
		for _, p := range append(forms(k), lineForms(k.Secret)...) {
			if !seen[string(p.text)] {
				seen[string(p.text)] = true
				m.patterns = append(m.patterns, p)
			}
		}
	}
	m.index()
	return m, weak
}

func (m *Matcher) index() {
	if len(m.patterns) == 0 {
		return
	}
	m.min = 1 << 7
	for i, p := range m.patterns {
		m.min, m.max = min(m.min, len(p.text)), max(m.max, len(p.text))
		m.begin[p.text[0]] = append(m.begin[p.text[0]], uint16(i))
	}
	for i := range m.shift {
		m.shift[i] = uint8(m.min - 1)
	}
	for _, p := range m.patterns {
		for j := 0; j+1 < m.min; j++ {
			h := hash2(p.text[j], p.text[j+1])
			m.shift[h] = min(m.shift[h], uint8(m.min-2-j))
		}
	}
}

func hash2(a, b byte) uint16 { return (uint16(a)<<5 ^ uint16(b)) & (1<<shiftBits - 1) }

// find returns the first match at or behind i.
func (m *Matcher) find(v []byte, i int) (at int, p *pattern) {
	if m.min == 0 {
		return len(v), nil
	}
	for end := i + m.min; end <= len(v); {
		s := m.shift[hash2(v[end-2], v[end-1])]
		if s > 0 {
			end += int(s)
			continue
		}
		start := end - m.min
		for k := range m.patterns {
			if p := &m.patterns[k]; v[start] == p.text[0] && bytes.HasPrefix(v[start:], p.text) {
				return start, p
			}
		}
		end++
	}
	return len(v), nil
}

// Mask replaces known secrets by their placeholders. The result is value itself
// when there are none, else it is appended to dst; n says how many there were.
func (m *Matcher) Mask(dst, value []byte) (out []byte, n int) {
	at, p := m.find(value, 0)
	if p == nil {
		return value, 0
	}
	done := 0
	for p != nil {
		dst = append(dst, value[done:at]...)
		if p.alphabet != nil && at > done {
			last := &dst[len(dst)-1]
			*last = p.alphabet.with(*last, p.before)
		}
		dst = append(dst, p.replace...)
		done = at + len(p.text)
		if p.alphabet != nil && done < len(value) {
			if b := p.alphabet.with(value[done], p.after); b != value[done] {
				dst = append(dst, b)
				done++
			}
		}
		n++
		at, p = m.find(value, done)
	}
	return append(dst, value[done:]...), n
}

// forms lists what a secret may look like. The placeholder takes the same form.
func forms(k Known) []pattern {
	list := []pattern{{text: bytes.Clone(k.Secret), replace: bytes.Clone(k.Placeholder)}}
	for _, encode := range encoders {
		list = append(list, pattern{text: encode(k.Secret), replace: encode(k.Placeholder)})
	}
	// In base64 the length must stay as it is, or what follows would shift.
	fill := make([]byte, len(k.Secret))
	for i := range fill {
		fill[i] = 'x'
		if len(k.Placeholder) > 0 {
			fill[i] = k.Placeholder[i%len(k.Placeholder)]
		}
	}
	for _, a := range []*base64Alphabet{standard, urlSafe} {
		for offset := range 3 {
			list = append(list, a.pattern(k.Secret, fill, offset))
		}
	}
	return list
}

// lineForms are the long lines of a secret of several, such as a key in PEM,
// each of which is one by itself: a terminal ends lines in its own way.
func lineForms(secret []byte) (list []pattern) {
	const long = 24
	if bytes.IndexByte(bytes.TrimSpace(secret), '\n') < 0 {
		return nil
	}
	for line := range bytes.Lines(secret) {
		if line = bytes.TrimSpace(line); len(line) >= long && !bytes.HasPrefix(line, []byte("-----")) {
			list = append(list, pattern{text: bytes.Clone(line), replace: []byte("redacted")})
		}
	}
	return list
}

var encoders = []func([]byte) []byte{
	func(b []byte) []byte { return hex.AppendEncode(nil, b) },
	func(b []byte) []byte { return bytes.ToUpper(hex.AppendEncode(nil, b)) },
	func(b []byte) []byte { return []byte(url.QueryEscape(string(b))) },
	func(b []byte) []byte { return []byte(url.PathEscape(string(b))) },
	func(b []byte) []byte { return percent(b, "-_.~", "%02X") },
	func(b []byte) []byte { return percent(b, "-_.~", "%02x") },
	func(b []byte) []byte { return percent(b, "-_.~!*'()", "%02X") }, // encodeURIComponent
	func(b []byte) []byte { return percent(b, "", "%02X") },
	func(b []byte) []byte { return percent(b, "", "%02x") },
	func(b []byte) []byte { return jsonEscape(b, true) },
	func(b []byte) []byte { return jsonEscape(b, false) },
	func(b []byte) []byte { return bytes.ReplaceAll(jsonEscape(b, false), []byte("/"), []byte(`\/`)) },
}

// percent encodes all but letters, digits and the bytes in keep; with nothing
// in keep it encodes everything.
func percent(b []byte, keep, format string) []byte {
	var out []byte
	for _, c := range b {
		if keep != "" && (class[c]&isAlnum != 0 || strings.IndexByte(keep, c) >= 0) {
			out = append(out, c)
		} else {
			out = fmt.Appendf(out, "%%"+format, c)
		}
	}
	return out
}

func jsonEscape(b []byte, html bool) []byte {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(html)
	if e.Encode(string(b)) != nil {
		return b // a string always encodes
	}
	return bytes.TrimSuffix(bytes.TrimPrefix(bytes.TrimSuffix(out.Bytes(), []byte("\n")), []byte(`"`)), []byte(`"`))
}

// base64Alphabet encodes, and knows the bits of a character.
type base64Alphabet struct {
	enc    *base64.Encoding
	encode string
	bits   [256]byte // 0xff: not in the alphabet
}

func newAlphabet(enc *base64.Encoding, last string) *base64Alphabet {
	a := &base64Alphabet{enc: enc, encode: "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789" + last}
	for i := range a.bits {
		a.bits[i] = 0xff
	}
	for i := range len(a.encode) {
		a.bits[a.encode[i]] = byte(i)
	}
	return a
}

var (
	standard = newAlphabet(base64.RawStdEncoding, "+/")
	urlSafe  = newAlphabet(base64.RawURLEncoding, "-_")
)

// with returns the character c with some of its bits replaced.
func (a *base64Alphabet) with(c byte, s sixBits) byte {
	if v := a.bits[c]; v != 0xff && s.mask != 0 {
		return a.encode[v&^s.mask|s.value]
	}
	return c
}

// pattern encodes secret as it looks when offset bytes of something else come
// before it in its group of three. Only characters that are the secret's alone
// are text; the bits of the others are before and after.
func (a *base64Alphabet) pattern(secret, fill []byte, offset int) pattern {
	head := make([]byte, offset)
	s := a.enc.EncodeToString(append(head[:offset:offset], secret...))
	f := a.enc.EncodeToString(append(head[:offset:offset], fill...))
	first := (8*offset + 5) / 6
	last := 8 * (offset + len(secret)) / 6
	p := pattern{text: []byte(s[first:last]), replace: []byte(f[first:last]), alphabet: a}
	if used := 8 * offset % 6; used > 0 { // bits of the character before that are not the secret's
		m := byte(0x3f) >> used
		p.before = sixBits{m, a.bits[f[first-1]] & m}
	}
	if left := 8 * (offset + len(secret)) % 6; left > 0 { // bits of the character after that are
		m := byte(0x3f) << (6 - left) & 0x3f
		p.after = sixBits{m, a.bits[f[last]] & m}
	}
	return p
}
