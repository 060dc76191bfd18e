package policy

import "strings"

// object is a pattern of objects that are no relations: a word, a path, an
// address. "*" stands for any characters but a slash, "**" for any at all.
type object struct {
	parts []objectPart
	all   bool // "**": every object, unknown ones too
}

// objectPart is text, with what may stand before it.
type objectPart struct {
	star int // 0: nothing, 1: no slash, 2: anything
	text string
}

func parseObject(s string) object {
	if s == "**" {
		return object{all: true}
	}
	var o object
	for first := true; first || s != ""; first = false {
		part := objectPart{}
		for strings.HasPrefix(s, "*") {
			part.star, s = min(part.star+1, 2), s[1:]
		}
		end := strings.IndexByte(s, '*')
		if end < 0 {
			end = len(s)
		}
		part.text, s = s[:end], s[end:]
		o.parts = append(o.parts, part)
	}
	return o
}

// matchObjects matches against any of the patterns; no patterns match
// everything. What is not known may be any; case counts for sure only.
func matchObjects(patterns []object, s string) (sure, possible bool) {
	if len(patterns) == 0 {
		return true, true
	}
	for _, p := range patterns {
		if p.all {
			return true, true
		}
		sure = sure || s != "" && matchParts(p.parts, s, false)
		possible = possible || s == "" || sure || matchParts(p.parts, s, true)
	}
	return sure, possible
}

// matchParts takes time in proportion to the product of both lengths, whatever
// the pattern.
func matchParts(parts []objectPart, s string, fold bool) bool {
	// reach[i] says whether what is left of s at i can be met by the parts that
	// are left.
	reach := make([]bool, len(s)+1)
	reach[len(s)] = true
	for i := len(parts) - 1; i >= 0; i-- {
		p := parts[i]
		next := make([]bool, len(s)+1)
		for at := len(s); at >= 0; at-- {
			here := at+len(p.text) <= len(s) && equal(s[at:at+len(p.text)], p.text, fold) && reach[at+len(p.text)]
			more := p.star > 0 && at < len(s) && (p.star > 1 || s[at] != '/') && next[at+1]
			next[at] = here || more
		}
		reach = next
	}
	return reach[0]
}
