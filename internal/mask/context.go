package mask

import (
	"math/bits"
	"strings"
)

// context is what the name of a value, such as its column, tells of it.
type context struct {
	name   string
	secret string // a detector: the value is one if it looks like one
	key    keyword
	custom []int // configured detectors of which an anchor is in the name
}

// context reads a name. Several names may be in it, with spaces between.
func (s *Scanner) context(name string) *context {
	if name == "" {
		return nil
	}
	c := &context{name: name}
	for _, field := range strings.Fields(name) {
		word := strings.Map(func(r rune) rune {
			if r == '_' || r == '-' {
				return -1
			}
			return r
		}, strings.ToLower(field))
		if k, ok := matchKeyword([]byte(word)); ok && s.groups&Secrets != 0 {
			c.key, c.secret = k, "secret"
			if k.password {
				c.secret = "password"
			}
		}
	}
	if s.custom != nil {
		lower := strings.ToLower(name)
		for n, d := range s.custom.list {
			for _, a := range d.Anchors {
				if strings.Contains(lower, strings.ToLower(a)) {
					c.custom = append(c.custom, n)
					break
				}
			}
		}
	}
	return c
}

// scan is Scan for a value that has a name, which counts as if it stood before
// the value. The hits are appended to room.
func (s *Scanner) scan(named *context, room []Hit, value []byte) []Hit {
	first := s.triggersIn(value[:min(len(value), blockSize)])
	if first == 0 && len(value) <= blockSize && s.custom == nil && (named == nil || named.secret == "") {
		return nil
	}
	c := cursor{v: value, groups: s.groups, hits: room}
	if s.custom != nil {
		c.custom = &search{customs: s.custom}
	}
	if named != nil {
		c.name = named.name
		if named.holds(value) {
			return append(room, Hit{End: len(value), Detector: named.secret})
		}
		for _, n := range named.custom {
			c.window(n, 0, min(len(value), s.custom.list[n].After))
		}
	}
	return s.run(&c, first)
}

// scanLines is Scan for lines of which each is to be searched as if the next had
// not come yet. The hits are appended to room.
func (s *Scanner) scanLines(room []Hit, lines []byte) []Hit {
	c := cursor{v: lines, groups: s.groups, hits: room, lines: true}
	if s.custom != nil {
		c.custom = &search{customs: s.custom}
	}
	return s.run(&c, s.triggersIn(lines[:min(len(lines), blockSize)]))
}

// run searches it all; first is what triggers there are in the first block.
func (s *Scanner) run(c *cursor, first uint64) []Hit {
	for at := s.block(c, 0, first); at < len(c.v); {
		at = s.block(c, at, s.triggersIn(c.v[at:min(len(c.v), at+blockSize)]))
	}
	if c.custom != nil {
		return c.joined()
	}
	return c.hits
}

// blockSize is how many bytes have their triggers in one word.
const blockSize = 64

// block looks at the triggers found in a block at at, and returns where to go
// on.
func (s *Scanner) block(c *cursor, at int, found uint64) int {
	for found != 0 {
		i := at + bits.TrailingZeros64(found)
		next := i + 1
		t := s.triggers[c.v[i]]
		if f := follows[t&^isCustom]; f == 0 || next < len(c.v) && class[c.v[next]]&f != 0 {
			next = max(next, c.at(i, t&^isCustom))
		}
		if c.custom != nil {
			for k := i; k < next; k++ { // what is skipped may have anchors
				if s.triggers[c.v[k]]&isCustom != 0 {
					c.anchor(k)
				}
			}
		}
		if next-at >= blockSize {
			return next
		}
		found = found >> (next - at) << (next - at)
	}
	return min(len(c.v), at+blockSize)
}

// holds reports whether all of a value is the secret that its name says.
func (c *context) holds(value []byte) bool {
	if c.secret == "" || len(value) > maxToken || len(value) == 0 || stated(value) || value[0] == '{' || value[0] == '[' {
		return false
	}
	if c.key.password {
		return likePassword(value)
	}
	return likeKey(value)
}
