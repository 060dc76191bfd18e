package mask

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Custom is a detector that somebody configured. Its pattern is only tried near
// one of its anchors, since regular expressions over every value would cost
// more than all other detectors together.
type Custom struct {
	Name          string
	Anchors       []string // compared without regard to the case of ASCII letters
	Pattern       *regexp.Regexp
	Before, After int               // how many bytes before and behind an anchor the pattern sees
	Check         func([]byte) bool // of what was found; nil: all of it counts
	CheckName     string            // to compare
	Kind          Kind              // Redact, Partial, Hash or Pseudonym
}

// ParseCheck returns the check with this name: "luhn" (ISO/IEC 7812),
// "mod97" (ISO 7064 MOD 97-10, which an LEI ends with) or "entropy >= 3.5"
// (Shannon's, in bits per byte).
func ParseCheck(name string) (func([]byte) bool, error) {
	var least float64
	switch name {
	case "":
		return nil, nil
	case "luhn":
		return func(b []byte) bool { d := digitsOf(b); return len(d) > 1 && luhn(d) }, nil
	case "mod97":
		return func(b []byte) bool { return mod97Plain(bytes.ToUpper(b)) }, nil
	}
	if n, err := fmt.Sscanf(name, "entropy >= %g", &least); n == 1 && err == nil {
		return func(b []byte) bool { return entropy(b) >= least }, nil
	}
	return nil, fmt.Errorf("check %q is not known; known are: luhn, mod97, entropy >= N", name)
}

func digitsOf(b []byte) []byte {
	var d []byte
	for _, x := range b {
		if class[x]&isDigit != 0 {
			d = append(d, x)
		}
	}
	return d
}

func mod97Plain(b []byte) bool {
	sum, n := 0, 0
	for _, x := range b {
		switch {
		case class[x]&isDigit != 0:
			sum = (sum*10 + int(x-'0')) % 97
		case class[x]&isUpper != 0:
			sum = (sum*100 + int(x-'A') + 10) % 97
		default:
			continue
		}
		n++
	}
	return n > 2 && sum == 1
}

// isCustom marks a trigger byte at which an anchor may stand, too.
const isCustom trigger = 0x80

// anchorAt is an anchor and which of its bytes is looked for.
type anchorAt struct {
	text   string // in lower case
	offset int
	custom int // index of its detector
}

// customs is what a scanner has of them.
type customs struct {
	list   []Custom
	key    []byte // of hashes and pseudonyms
	byByte [256][]anchorAt
	plain  *Scanner // the same without them
}

// rare orders bytes by how seldom they are in text; of an anchor the first that
// it has is looked for. Digits are looked at anyway.
const rare = "zqxjkvb#%&*!?^|~\\/$@+;<>{}[]()=wygpf_:-.mucdlhrsnioate0123456789,'\"\t\n "

// With adds configured detectors to a scanner that is not in use yet. The key is
// for Hash and Pseudonym.
func (s *Scanner) With(key []byte, list ...Custom) *Scanner {
	if len(list) == 0 {
		return s
	}
	plain := *s
	c := &customs{list: list, key: key, plain: &plain}
	for n, d := range list {
		for _, a := range d.Anchors {
			text := strings.ToLower(a)
			at := strings.IndexByte(text, rarest(text))
			b := text[at]
			c.byByte[b] = append(c.byByte[b], anchorAt{text, at, n})
			s.triggers[b] |= isCustom
			if class[b]&isLower != 0 {
				c.byByte[b-0x20] = append(c.byByte[b-0x20], anchorAt{text, at, n})
				s.triggers[b-0x20] |= isCustom
			}
		}
	}
	s.custom = c
	return s.indexed()
}

func rarest(text string) byte {
	for i := range len(rare) {
		if strings.IndexByte(text, rare[i]) >= 0 {
			return rare[i]
		}
	}
	return text[0]
}

// search is what one scan has of the configured detectors.
type search struct {
	*customs
	regions []region // by detector, where its pattern is to be tried
	found   []Hit
}

// region is a window, or several that overlap, in which a pattern is to be
// tried.
type region struct{ start, end int }

// anchor looks for configured anchors at i. Windows that overlap become one, so
// that no byte is tried twice by the same pattern.
func (c *cursor) anchor(i int) {
	for _, a := range c.custom.byByte[c.v[i]] {
		start := i - a.offset
		if start < 0 || !foldsTo(c.v[start:], a.text) {
			continue
		}
		d := &c.custom.list[a.custom]
		from, to := c.within(start, start+len(a.text), d.Before, d.After)
		c.window(a.custom, from, to)
	}
}

// within is what is around a place: so far before and behind it as it is said,
// and as the line goes.
func (c *cursor) within(start, end, before, behind int) (from, to int) {
	from, to = max(0, start-before), min(len(c.v), end+behind)
	if c.lines {
		from += bytes.LastIndexByte(c.v[from:start], '\n') + 1
		if n := bytes.IndexByte(c.v[end:to], '\n'); n >= 0 {
			to = end + n
		}
	}
	return from, to
}

func (c *cursor) window(custom, start, end int) {
	if c.custom.regions == nil {
		c.custom.regions = make([]region, len(c.custom.list))
	}
	r := &c.custom.regions[custom]
	if r.end > 0 && start <= r.end {
		r.start, r.end = min(r.start, start), max(r.end, end)
		return
	}
	c.search(custom)
	*r = region{start, end}
}

// search tries a pattern in its region. What is found is its first group, or
// all of it.
func (c *cursor) search(custom int) {
	d, r := &c.custom.list[custom], c.custom.regions[custom]
	if r.end == 0 {
		return
	}
	for _, m := range d.Pattern.FindAllSubmatchIndex(c.v[r.start:r.end], -1) {
		from, to := m[0], m[1]
		if len(m) > 2 && m[2] >= 0 {
			from, to = m[2], m[3]
		}
		from, to = r.start+from, r.start+to
		if from < to && !stated(c.v[from:to]) && (d.Check == nil || d.Check(c.v[from:to])) {
			c.custom.found = append(c.custom.found, Hit{Start: from, End: to, Detector: d.Name, custom: d})
		}
	}
}

// joined is what all detectors found, in order.
func (c *cursor) joined() []Hit {
	for n := range c.custom.regions {
		c.search(n)
	}
	if len(c.custom.found) == 0 {
		return c.hits
	}
	all := append(c.hits, c.custom.found...)
	slices.SortStableFunc(all, func(a, b Hit) int { return a.Start - b.Start })
	c.hits = make([]Hit, 0, len(all))
	for _, h := range all {
		if n := len(c.hits); n > 0 && h.Start < c.hits[n-1].End {
			last := &c.hits[n-1]
			last.End, last.custom = max(last.End, h.End), nil
			continue
		}
		c.hits = append(c.hits, h)
	}
	return c.hits
}

// foldsTo reports whether v begins with text, which is in lower case.
func foldsTo(v []byte, text string) bool {
	if len(v) < len(text) {
		return false
	}
	for i := range len(text) {
		b := v[i]
		if class[b]&isUpper != 0 {
			b |= 0x20
		}
		if b != text[i] {
			return false
		}
	}
	return true
}

// appendMasked writes what a find becomes.
func (c *customs) appendMasked(dst, found []byte, d *Custom) []byte {
	switch {
	case d.Kind == Partial:
		return appendPartial(dst, found)
	case (d.Kind == Hash || d.Kind == Pseudonym) && len(c.key) > 0:
		out, _ := For(d.Kind, "text", false, c.key).Mask(found)
		return append(dst, out...)
	}
	return append(append(dst, replacement...), d.Name...)
}
