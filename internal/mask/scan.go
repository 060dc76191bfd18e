package mask

import "slices"

// Group of detectors.
type Group uint8

const (
	Secrets Group = 1 << iota // keys, tokens, passwords
	PII                       // e-mail addresses, phone, card and account numbers
)

// Hit is a find: value[Start:End].
type Hit struct {
	Start, End int
	Detector   string // such as "github-token"

	custom *Custom // nil for those that are built in
	known  []byte  // of a known secret in a stream: what it becomes
}

// A detector looks at one byte that may belong to a find, the trigger, and
// around it. It looks no further than a bound, so that a scan is linear in the
// length of the value whatever is in it.
type trigger uint8

const (
	none     trigger = iota
	onAt             // @: e-mail address
	onColon          // : before a value, in the :// of a URL, in an address
	onEquals         // = before a value
	onDash           // - in a token's prefix, or in the -----BEGIN of a key
	onAnchor         // what else stands in a token's prefix
	onUpper          // the first letter of AKIA… and the like
	onJ              // J of a JWT's eyJ
	onX              // X of ZXlK, which is eyJ in base64
	onDigit          // numbers
	onPlus           // + of a phone number
	triggerKinds
)

// follows are the classes of which the byte behind a trigger must be for it to
// be worth a look; 0: of any. In most texts a dot ends a sentence.
var follows = [triggerKinds]uint16{
	onAt: isLocal, onDash: isTokenish, onAnchor: isDotted | isBase64, onUpper: isUpper | isDigit, onJ: isAlnum, onX: isUpper | isLower, onPlus: isDigit,
}

// Scanner finds secrets and personal data. It may be used by any number of
// goroutines at once.
type Scanner struct {
	triggers  [256]trigger
	isTrigger [256]uint8 // 1 for those
	groups    Group
	custom    *customs // nil when none are configured
}

// NewScanner returns a Scanner with the detectors of these groups.
func NewScanner(groups Group) *Scanner {
	s := &Scanner{groups: groups}
	if groups != 0 {
		s.triggers[':'] = onColon
		for b := '0'; b <= '9'; b++ {
			s.triggers[b] = onDigit
		}
	}
	if groups&Secrets != 0 {
		for b, t := range map[byte]trigger{
			'=': onEquals, '-': onDash, '_': onAnchor, '.': onAnchor, '~': onAnchor, 'J': onJ, 'X': onX,
		} {
			s.triggers[b] = t
		}
		for b := 'A'; b <= 'Z'; b++ {
			if beginning[b] != nil {
				s.triggers[b] = onUpper
			}
		}
	}
	if groups&PII != 0 {
		s.triggers['@'], s.triggers['+'] = onAt, onPlus
	}
	return s.indexed()
}

func (s *Scanner) indexed() *Scanner {
	for b, t := range s.triggers {
		if t != none {
			s.isTrigger[b] = 1
		}
	}
	return s
}

// Scan returns what it finds, in order and without overlaps; nil when there is
// nothing.
func (s *Scanner) Scan(value []byte) []Hit { return s.scan(nil, nil, value) }

// triggersIn has a bit for each of at most 64 bytes that is a trigger. Most
// bytes of most texts are none, so this is where the time goes; it does not
// branch on what it sees.
func (s *Scanner) triggersIn(v []byte) (found uint64) {
	t := &s.isTrigger
	i := 0
	for ; i+8 <= len(v); i += 8 {
		w := v[i : i+8 : i+8]
		found |= (uint64(t[w[0]]) | uint64(t[w[1]])<<1 | uint64(t[w[2]])<<2 | uint64(t[w[3]])<<3 |
			uint64(t[w[4]])<<4 | uint64(t[w[5]])<<5 | uint64(t[w[6]])<<6 | uint64(t[w[7]])<<7) << i
	}
	for ; i < len(v); i++ {
		found |= uint64(t[v[i]]) << i
	}
	return found
}

// cursor is the state of one scan.
type cursor struct {
	v          []byte
	name       string // of the value
	groups     Group
	hits       []Hit
	runEnd     int     // end of the run of token characters that was looked at last
	dottedEnd  int     // the same with dots
	dottedLast int     // the same without those at its end
	custom     *search // nil when no detectors are configured
	lines      bool    // nothing that is found goes on behind its line, nor depends on what comes there
}

// at looks at a trigger and returns where to go on.
func (c *cursor) at(i int, t trigger) int {
	switch t {
	case onAt:
		return c.email(i)
	case onColon:
		return c.colon(i)
	case onEquals:
		return c.keyed(i)
	case onDash:
		return c.dash(i)
	case onAnchor:
		return c.anchored(i)
	case onUpper:
		return c.word(i)
	case onJ:
		return c.jwt(i)
	case onX:
		return c.wrappedJWT(i)
	case onDigit:
		return c.number(i)
	case onPlus:
		return c.phone(i)
	}
	return i + 1
}

func (c *cursor) dash(i int) int {
	if c.hasPrefix(i, pemBegin) {
		return c.pem(i)
	}
	if end := c.uuid(i); end > 0 {
		return end
	}
	return c.token(i)
}

// uuid looks at the first dash of a UUID and returns its end, or 0. There are
// none in it for other detectors, and many digits to look at.
func (c *cursor) uuid(i int) int {
	end := i + 28
	if i < 8 || end > len(c.v) || c.v[i+5] != '-' || c.v[i+10] != '-' || c.v[i+15] != '-' || c.is(end, isAlnum) {
		return 0
	}
	for k := i - 8; k < end; k++ {
		if c.v[k] != '-' && class[c.v[k]]&isHexLower == 0 {
			return 0
		}
	}
	return end
}

func (c *cursor) colon(i int) int {
	if c.groups&PII != 0 {
		if end := c.ipv6(i); end > 0 {
			return end
		}
	}
	switch {
	case c.groups&Secrets == 0 || c.is(i-1, isDigit) && c.is(i+1, isDigit): // a time
		return i + 1
	case i+2 < len(c.v) && c.v[i+1] == '/' && c.v[i+2] == '/':
		return c.url(i)
	case i+2 < len(c.v) && c.v[i+1] == 'A' && c.is(i-1, isDigit):
		if end := c.telegram(i); end > 0 {
			return end
		}
	}
	return c.keyed(i)
}

// hit notes a find and returns its end. One that overlaps others is joined with
// them: the longer text is replaced as one. Nearly always it is the last.
func (c *cursor) hit(start, end int, detector string) int {
	to := len(c.hits)
	for to > 0 && c.hits[to-1].Start >= end {
		to--
	}
	from, last := to, end
	for from > 0 && c.hits[from-1].End > start {
		from--
		start, last = min(start, c.hits[from].Start), max(last, c.hits[from].End)
		detector = c.hits[from].Detector
	}
	c.hits = slices.Replace(c.hits, from, to, Hit{Start: start, End: last, Detector: detector})
	return last
}

// Classes of bytes.
const (
	isDigit = 1 << iota
	isUpper
	isLower
	isHexLower // 0-9 a-f
	isTokenish // also _ and -
	isLocal    // of the local part of an e-mail address
	isBase64   // also + and /
	isDotted   // isTokenish, and . = ~
	isHex      // 0-9 A-F a-f
)

var class = func() (t [256]uint16) {
	for b := range 256 {
		switch c := byte(b); {
		case c >= '0' && c <= '9':
			t[b] = isDigit | isHexLower | isTokenish | isLocal | isBase64 | isDotted | isHex
		case c >= 'A' && c <= 'Z':
			t[b] = isUpper | isTokenish | isLocal | isBase64 | isDotted
			if c <= 'F' {
				t[b] |= isHex
			}
		case c >= 'a' && c <= 'z':
			t[b] = isLower | isTokenish | isLocal | isBase64 | isDotted
			if c <= 'f' {
				t[b] |= isHexLower | isHex
			}
		case c == '_' || c == '-':
			t[b] = isTokenish | isLocal | isDotted
		case c == '+' || c == '/':
			t[b] = isBase64
			if c == '+' {
				t[b] |= isLocal
			}
		case c == '.' || c == '%' || c >= 0x80:
			t[b] = isLocal
			if c == '.' {
				t[b] |= isDotted
			}
		case c == '=' || c == '~':
			t[b] = isDotted
		}
	}
	return t
}()

const isAlnum = isDigit | isUpper | isLower

// is reports whether the byte at i is of one of the classes; there is nothing
// before the beginning and behind the end.
func (c *cursor) is(i int, classes uint16) bool {
	return i >= 0 && i < len(c.v) && class[c.v[i]]&classes != 0
}

// run returns the end of the row of bytes of these classes, at most limit long.
func (c *cursor) run(i int, classes uint16, limit int) int {
	end := min(len(c.v), i+limit)
	for i < end && class[c.v[i]]&classes != 0 {
		i++
	}
	return i
}

func (c *cursor) hasPrefix(i int, prefix string) bool {
	return len(c.v)-i >= len(prefix) && string(c.v[i:i+len(prefix)]) == prefix
}

// maxRounds bounds Mask's repetitions.
const maxRounds = 4

// replacement is what a find becomes. It is made of letters and dashes, so that
// it fits into a JSON string and into an array or composite literal as well as
// into plain text, and no detector takes it for a find.
const replacement = "redacted-"

// Mask replaces what Scan finds. The result is value itself when there is
// nothing, else it is appended to dst. The hits are those of value.
func (s *Scanner) Mask(dst, value []byte) ([]byte, []Hit) { return s.mask(nil, nil, dst, value) }

// mask is Mask with what is known of the value, and room for hits.
func (s *Scanner) mask(named *context, room []Hit, dst, value []byte) ([]byte, []Hit) {
	hits := s.scan(named, room, value)
	if len(hits) == 0 {
		return value, nil
	}
	start := len(dst)
	dst = s.replace(dst, value, hits)
	// What stands beside a replacement may be a find now. A few rounds settle
	// that; what has not settled by then was made not to. A configured pattern
	// may well match what it leaves of a find, and is not asked again.
	plain := s
	if s.custom != nil {
		plain = s.custom.plain
	}
	for range maxRounds {
		again := plain.Scan(dst[start:])
		if len(again) == 0 {
			return dst, hits
		}
		once := append([]byte(nil), dst[start:]...)
		dst = plain.replace(dst[:start], once, again)
	}
	if plain.Scan(dst[start:]) != nil {
		dst = append(dst[:start], "redacted"...)
	}
	return dst, hits
}

func (s *Scanner) replace(dst, value []byte, hits []Hit) []byte {
	at := 0
	for _, h := range hits {
		dst = append(dst, value[at:h.Start]...)
		if h.custom != nil {
			dst = s.custom.appendMasked(dst, value[h.Start:h.End], h.custom)
		} else {
			dst = append(dst, replacement...)
			dst = append(dst, h.Detector...)
		}
		at = h.End
	}
	return append(dst, value[at:]...)
}
