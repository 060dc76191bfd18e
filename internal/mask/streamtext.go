package mask

import (
	"bytes"
	"unicode/utf8"
)

// noText reports whether a line is no text: there are control characters in it
// that no terminal knows, and it is not UTF-8. Detectors would find in it what is
// not there, and break it.
func noText(line []byte) bool {
	odd := false
	for _, b := range line {
		if b < 7 && b > 0 || b > 15 && b < 32 && b != escape || b == 0x7f {
			odd = true
			break
		}
	}
	return odd && !utf8.Valid(line)
}

const pemEnd = "-----END "

// openKey reports whether a find is a private key that its line does not end.
func openKey(found []byte) bool {
	i := bytes.Index(found, []byte(pemBegin))
	return i >= 0 && bytes.Contains(found[i:], []byte("PRIVATE KEY")) && !bytes.Contains(found[i:], []byte(pemEnd))
}

// ofKey leaves out what belongs to a private key that an earlier line began, and
// returns how much of p that is. A line that cannot be of one ends it, so that a
// terminal on which only a key's first line was shown is not dark after it.
func (s *Stream) ofKey(p []byte) int {
	v := &s.v
	v.read(nil, p, s.Terminal)
	s.key += len(p)
	n := len(p)
	if i := bytes.Index(v.text, []byte(pemEnd)); i >= 0 {
		s.key = 0
		i += len(pemEnd)
		if k := bytes.Index(v.text[i:min(len(v.text), i+64)], []byte("-----")); k >= 0 {
			i += k + len("-----")
		}
		if len(bytes.TrimSpace(v.text[i:])) > 0 {
			n = v.where(i-1) + 1
		}
	} else if !keyLine(v.text) || s.key > maxPEM {
		s.key = 0
		return 0
	}
	for _, c := range v.controls {
		if c.from < n {
			s.out = append(s.out, p[c.from:c.to]...)
		}
	}
	return n
}

// keyLine reports whether a line may be between the first and the last of a key
// in PEM (RFC 7468, and the headers of RFC 1421).
func keyLine(line []byte) bool {
	line = bytes.TrimSpace(line)
	if name, _, ok := bytes.Cut(line, []byte(": ")); ok {
		line = name
	}
	for _, b := range line {
		if class[b]&(isBase64|isTokenish) == 0 && b != '=' {
			return false
		}
	}
	return true
}

// mayGrow is where in the text of the view something begins that may become a
// find when more comes; the text's length when there is nothing of the kind. It
// is about what is likely: what is let through here and becomes a find after all
// is masked from there on.
func (s *Stream) mayGrow() int {
	v := &s.v
	start := len(v.text)
	if s.Known != nil {
		from := max(bytes.LastIndexByte(v.text, '\n')+1, len(v.text)-s.Known.longest(), 0)
		if i := s.Known.mayBegin(v.text, from); len(v.text)-i >= sureKnown {
			start = i
		}
	}
	if s.Scanner == nil || s.Scanner.groups == 0 {
		return start
	}
	c := cursor{v: v.text, groups: s.Scanner.groups, lines: true}
	word := len(v.text)
	for word > 0 && len(v.text)-word < maxToken && bytes.IndexByte([]byte("\"'`,;()<>[]{}|"), v.text[word-1]) < 0 && v.text[word-1] > ' ' {
		word--
	}
	if c.groups&Secrets != 0 {
		start = min(start, c.tokenBegins(word), c.keyBegins(), c.valueBegins())
	}
	if c.groups&PII != 0 {
		start = min(start, c.addressBegins(word), c.numberBegins())
	}
	return start
}

// tokenBegins looks for what an issuer puts before a token in the last word.
func (c *cursor) tokenBegins(word int) int {
	n := len(c.v)
	for i := word; i < n; i++ {
		if !c.is(i-1, isAlnum) {
			if c.hasPrefix(i, "eyJ") {
				return i
			}
			for _, k := range beginning[c.v[i]] {
				if c.may(i, k) {
					return i
				}
			}
		}
		if i < 2 {
			continue
		}
		for _, k := range anchoredKinds[bucket[hash3(c.v[i-2], c.v[i-1], c.v[i])]] {
			if i-k.at >= word && c.may(i-k.at, k.tokenKind) {
				return i - k.at
			}
		}
	}
	return n
}

// may reports whether a token of a kind may begin at i and go on behind the end.
func (c *cursor) may(i int, k *tokenKind) bool {
	from := i + len(k.prefix)
	return c.hasPrefix(i, k.prefix) && !c.is(i-1, isAlnum) && len(c.v)-from <= k.max && c.run(from, k.classes, k.max+1) == len(c.v)
}

// keyBegins looks for the first line of a private key.
func (c *cursor) keyBegins() int {
	const longest = 64
	n := len(c.v)
	from := max(0, n-longest)
	from += bytes.LastIndexByte(c.v[from:], '\n') + 1
	if i := bytes.Index(c.v[from:], []byte(pemBegin)); i >= 0 {
		return from + i
	}
	for i := min(len(pemBegin)-1, n-from); i >= 5; i-- {
		if string(c.v[n-i:]) == pemBegin[:i] {
			return n - i
		}
	}
	return n
}

// valueBegins looks for a value of which the name says that it is a secret.
func (c *cursor) valueBegins() int {
	n := len(c.v)
	for i := n - 1; i >= 0 && i >= n-maxToken && c.v[i] != '\n'; i-- {
		if c.v[i] != '=' && c.v[i] != ':' {
			continue
		}
		if last := c.nameEnd(i); last >= 0 {
			var room [maxKeyWord]byte
			if _, ok := matchKeyword(c.keyBefore(i, last, &room)); ok {
				if from, to := c.valueAfter(i + 1); to == n {
					return from
				}
			}
		}
		if c.v[i] == ':' && c.hasPrefix(i, "://") {
			user := i + 3
			if colon := bytes.IndexByte(c.v[user:], ':'); colon >= 0 && !bytes.ContainsAny(c.v[user:], "/?#\"'\\<> @") {
				return user + colon + 1
			}
			return n
		}
	}
	return n
}

// addressBegins looks for an e-mail address in the last word.
func (c *cursor) addressBegins(word int) int {
	at := bytes.LastIndexByte(c.v[word:], '@')
	if at <= 0 {
		return len(c.v)
	}
	return word
}

// numberBegins looks for six digits, with what may part them, at the end.
func (c *cursor) numberBegins() int {
	const least, most = 6, 2 * maxCard
	digits, first := 0, len(c.v)
	for i := len(c.v) - 1; i >= 0 && i >= len(c.v)-most; i-- {
		switch b := c.v[i]; {
		case class[b]&isDigit != 0:
			digits++
			first = i
		case b == '+':
			first = i
		case b != ' ' && b != '-' && b != '.' && b != '/':
			i = 0
		}
	}
	if digits < least {
		return len(c.v)
	}
	return first
}
