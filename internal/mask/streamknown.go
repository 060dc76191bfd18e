package mask

import "bytes"

// mayBegin is where, at or behind from, something begins that is the beginning
// of a known secret and goes to the end; the length of v when there is nothing.
func (m *Matcher) mayBegin(v []byte, from int) int {
	for i := max(from, len(v)-m.longest()+1, 0); i < len(v); i++ {
		for _, k := range m.begin[v[i]] {
			if t := m.patterns[k].text; len(t) > len(v)-i && bytes.HasPrefix(t, v[i:]) {
				return i
			}
		}
	}
	return len(v)
}

// longest is the length of the longest form of a secret.
func (m *Matcher) longest() int { return m.max }

// finds returns the known secrets in text at or behind from. Those in base64
// include what of the characters beside them is theirs.
func (m *Matcher) finds(text []byte, from int) (hits []Hit) {
	at, p := m.find(text, from)
	for p != nil {
		h := Hit{Start: at, End: at + len(p.text), Detector: "secret", known: p.replace}
		if p.alphabet != nil {
			h = p.beside(text, from, h)
		}
		hits = append(hits, h)
		from = h.End
		at, p = m.find(text, from)
	}
	return hits
}

func (p *pattern) beside(text []byte, from int, h Hit) Hit {
	known := bytes.Clone(h.known)
	if h.Start > from && p.before.mask != 0 {
		h.Start--
		known = append([]byte{p.alphabet.with(text[h.Start], p.before)}, known...)
	}
	if h.End < len(text) {
		if b := p.alphabet.with(text[h.End], p.after); b != text[h.End] {
			h.End++
			known = append(known, b)
		}
	}
	h.known = known
	return h
}

// plain masks known secrets only, wherever they are, and holds back what one may
// begin with. Of the character before one in base64, which may have been given
// out, it leaves the secret's two or four bits.
func (s *Stream) plain(p []byte) []byte {
	if len(s.held) > 0 {
		s.held = append(s.held, p...)
		p = s.held
	}
	done := 0
	for {
		if s.after != nil && done < len(p) {
			if b := s.after.alphabet.with(p[done], s.after.after); b != p[done] {
				s.out = append(s.out, b)
				done++
			}
			s.after = nil
		}
		at, found := s.Known.find(p, done)
		hold := s.Known.mayBegin(p, done)
		if found == nil || at >= hold {
			s.out = append(s.out, p[done:hold]...)
			s.held = append(s.held[:0], p[hold:]...)
			return s.out
		}
		s.out = append(append(s.out, p[done:at]...), found.replace...)
		s.Found("secret")
		done = at + len(found.text)
		if found.alphabet != nil {
			s.after = found
		}
	}
}
