package mask

import "strings"

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

// scan is Scan for a value that has a name: it counts as if it stood before
// the value.
func (s *Scanner) scan(named *context, value []byte) []Hit {
	c := cursor{v: value, groups: s.groups, custom: s.custom}
	if named != nil {
		c.name = named.name
		if named.holds(value) {
			return []Hit{{0, len(value), named.secret, nil}}
		}
		for _, n := range named.custom {
			c.window(n, 0, min(len(value), s.custom.list[n].After))
		}
	}
	for i := s.next(value, 0); i < len(value); i = s.next(value, i) {
		t := s.triggers[value[i]]
		next := max(c.at(i, t&^isCustom), i+1)
		if s.custom != nil {
			for k := i; k < next; k++ { // what is skipped may have anchors
				if s.triggers[value[k]]&isCustom != 0 {
					c.anchor(k)
				}
			}
		}
		i = next
	}
	if s.custom != nil {
		return c.joined()
	}
	return c.hits
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
