package mask

import (
	"bytes"
	"slices"
	"time"
)

// HoldBack is how long a stream may be kept waiting for what was held back of
// it: when nothing has followed for so long, Flush is to be called. It is about
// what a person does not notice.
const HoldBack = 20 * time.Millisecond

const (
	maxLine   = 32 << 10 // the longest line that is held back
	patience  = 25       // how often Flush is called before it gives out what may be the beginning of a find
	sureKnown = 4        // how much of a known secret is no coincidence
	maxAside  = 4 << 10  // where a longer one is cut, at a separator
	// behind is how much of what was given out detectors may look back on: of
	// earlier lines as far as the secret key that belongs to an AWS access key may
	// be, of the same line as far as the longest token is.
	behind     = awsNearby + 56
	behindLine = 4 << 10
)

// StreamOptions are what is looked for in a stream.
type StreamOptions struct {
	Scanner  *Scanner // nil: no detectors
	Known    *Matcher // nil: no known secrets
	Terminal bool     // it is shown on a terminal, which obeys control sequences
	Found    func(detector string)
}

// Stream masks a stream of bytes that comes in pieces of any size: the same
// stream gives the same result, however it is cut. It is for one goroutine.
//
// Where there are detectors, or the stream is a terminal's, it works line by
// line. A line goes on when it is whole, or longer than 32 KiB, or when Flush is
// called, which gives out what does not look like the beginning of a find, and
// what does after half a second. What then turns out to be a find is masked from
// there on. Colours and the like do not
// hide a find, nor do backspaces; a cursor that is moved, a carriage return or a
// line's end within one does. Lines of binary data are searched for known
// secrets only.
//
// Elsewhere only that is held back which a known secret may begin with.
type Stream struct {
	StreamOptions
	held    []byte   // what has not been given out
	before  []byte   // text of what was, for detectors to look back on
	started bool     // part of the line was given out
	masked  bool     // and ended with a find
	flushed int      // how often Flush was called since something came
	key     int      // of a private key whose lines are being left out, how many bytes; 0: of none
	after   *pattern // of a known secret in base64 that was found: what its bits in the next byte become

	v    view
	hits []Hit
	out  []byte
}

// NewStream returns a stream that masks as the options say.
func NewStream(o StreamOptions) *Stream {
	if o.Known != nil && o.Known.min == 0 {
		o.Known = nil
	}
	if o.Found == nil {
		o.Found = func(string) {}
	}
	return &Stream{StreamOptions: o}
}

// Write takes a piece and returns what may go on. The slice lives until the next
// call, and may be p.
func (s *Stream) Write(p []byte) []byte {
	s.flushed = 0
	s.out = s.out[:0]
	switch {
	case s.Scanner == nil && s.Known == nil:
		return p
	case s.Scanner == nil && !s.Terminal:
		return s.plain(p)
	}
	if len(s.held) > 0 {
		s.held = append(s.held, p...)
		p = s.held
	}
	s.held = append(s.held[:0], s.lines(p)...)
	return s.out
}

// Held says that something is held back, so that Flush is to be called when
// nothing follows.
func (s *Stream) Held() bool { return len(s.held) > 0 }

// Flush returns what was held back but for what may be the beginning of a find,
// and after half a second of calls that too.
func (s *Stream) Flush() []byte {
	s.flushed++
	s.out = s.out[:0]
	all := s.flushed >= patience
	switch {
	case len(s.held) == 0:
	case s.Scanner != nil || s.Terminal:
		s.held = append(s.held[:0], s.partial(s.held, all)...)
	case all || len(s.held) < sureKnown:
		s.out, s.held = append(s.out, s.held...), s.held[:0]
	}
	return s.out
}

// Close returns all that is held back: the stream has ended.
func (s *Stream) Close() []byte {
	s.flushed = patience
	return s.Flush()
}

// lines gives out whole lines, and what is too long to be held, and returns the
// rest. It decides by the place in the line, never by the place in the piece.
func (s *Stream) lines(p []byte) []byte {
	for {
		window := p[:min(len(p), maxLine)]
		end := bytes.LastIndexByte(window, '\n') + 1
		switch {
		case end > 0:
			for done := 0; done < end; {
				done += s.whole(p[done:end])
			}
		case len(p) >= maxLine:
			end = s.cut(window)
			s.give(window[:end])
		default:
			return p
		}
		p = p[end:]
	}
}

// cut is where a long line is cut: behind a separator, before what may be a
// known secret.
func (s *Stream) cut(line []byte) int {
	end := len(line)
	if i := bytes.LastIndexAny(line[end-maxAside:], " \t,;\"'`<>{}[]()|&"); i >= 0 {
		end += i + 1 - maxAside
	}
	if s.Known != nil {
		if i := s.Known.mayBegin(line[:end], 0); i > maxLine/2 {
			end = i
		}
	}
	if i := unfinished(line[:end]); i > 0 {
		end = i
	}
	return end
}

// whole gives out lines that are whole, up to the first that begins a private
// key, and returns how many bytes that was.
func (s *Stream) whole(lines []byte) int {
	if s.key > 0 {
		return s.ofKey(lines[:bytes.IndexByte(lines, '\n')+1])
	}
	n, open := s.give(lines)
	s.started, s.masked = false, false
	s.before = s.before[max(0, len(s.before)-behind):]
	if open {
		s.key = 1
	}
	return n
}

// partial gives out what may be of the beginning of a line, and returns the rest.
func (s *Stream) partial(p []byte, all bool) []byte {
	end := len(p)
	if !all {
		end = unfinished(p)
		s.v.read(s.lineBefore(), p[:end], s.Terminal)
		if t := s.mayGrow(); t < len(s.v.text) {
			end = 0
			if t > s.v.base {
				end = s.v.where(t)
			}
		}
	}
	if s.key > 0 && end > 0 {
		if n := s.ofKey(p[:end]); n == len(p) || n > 0 && !all {
			return p[n:]
		} else if n > 0 {
			return s.partial(p[n:], all)
		}
	}
	if end > 0 {
		s.give(p[:end])
	}
	return p[end:]
}

// lineBefore is what was given out of the line that goes on.
func (s *Stream) lineBefore() []byte {
	if !s.started {
		return s.before[max(0, len(s.before)-behind):]
	}
	return s.before
}

// give masks lines, or a part of one, and gives them out. A private key that has
// no end in its line ends the lines that are given: how many bytes they are is
// returned.
func (s *Stream) give(p []byte) (n int, open bool) {
	v := &s.v
	v.read(s.lineBefore(), p, s.Terminal)
	hits := s.find()
	for i, h := range hits {
		if !openKey(v.text[h.Start:h.End]) || h.End >= len(v.text) || h.End < v.base {
			continue
		}
		if end := bytes.IndexByte(v.text[h.End:], '\n'); end >= 0 && end <= 1 {
			hits, open = hits[:i+1], true
			p = p[:v.where(h.End+end)+1]
			v.text = v.text[:h.End+end+1]
			break
		}
	}
	last := 0
	if n := len(hits); n > 0 {
		last = hits[n-1].End
	}
	s.apply(p, hits)
	s.started, s.masked = true, last == len(v.text)
	s.before = append(s.before[:0], v.text[max(0, len(v.text)-behindLine):]...)
	return len(p), open
}

// find returns what is to be masked of the view, in order and without overlaps,
// with what is in the text before.
func (s *Stream) find() []Hit {
	v := &s.v
	hits := s.hits[:0]
	if s.Scanner != nil {
		hits = s.Scanner.scanLines(hits, v.text)
		hits = slices.DeleteFunc(hits, func(h Hit) bool { return noText(lineAround(v.text, h)) })
	}
	if s.Known != nil {
		from := v.base
		if s.started {
			from = bytes.LastIndexByte(v.text[:v.base], '\n') + 1
			from = max(from, v.base-s.Known.longest())
		}
		if found := s.Known.finds(v.text, from); found != nil {
			hits = joinHits(append(hits, found...))
		}
	}
	s.hits = hits
	return hits
}

// joinHits puts finds in order, and makes one of those that overlap: what
// detectors found hides more than what was known.
func joinHits(hits []Hit) []Hit {
	slices.SortStableFunc(hits, func(a, b Hit) int { return a.Start - b.Start })
	out := hits[:0]
	for _, h := range hits {
		n := len(out)
		if n == 0 || h.Start >= out[n-1].End {
			out = append(out, h)
			continue
		}
		last := &out[n-1]
		if last.known != nil {
			last.Detector = h.Detector
		}
		last.End, last.known, last.custom = max(last.End, h.End), nil, nil
	}
	return out
}

// apply gives out a piece with its finds replaced. The control sequences within
// a find come behind its replacement.
func (s *Stream) apply(p []byte, hits []Hit) {
	v := &s.v
	done, c := 0, 0
	for _, h := range hits {
		if h.End <= v.base {
			continue
		}
		goesOn := h.Start < v.base
		from, to := v.where(max(h.Start, v.base)), v.where(h.End-1)+1
		s.out = append(s.out, p[done:from]...)
		if !goesOn || !s.masked {
			s.out = s.replaced(s.out, v.text, h)
			s.Found(h.Detector)
		}
		for ; c < len(v.controls) && v.controls[c].from < to; c++ {
			if v.controls[c].from >= from {
				s.out = append(s.out, p[v.controls[c].from:v.controls[c].to]...)
			}
		}
		done = to
	}
	s.out = append(s.out, p[done:]...)
}

func (s *Stream) replaced(dst, text []byte, h Hit) []byte {
	switch {
	case h.known != nil:
		return append(dst, h.known...)
	case h.custom != nil:
		return s.Scanner.custom.appendMasked(dst, text[h.Start:h.End], h.custom)
	}
	return append(append(dst, replacement...), h.Detector...)
}

// lineAround is the line that a find is in.
func lineAround(text []byte, h Hit) []byte {
	from := bytes.LastIndexByte(text[:h.Start], '\n') + 1
	to := bytes.IndexByte(text[h.End:], '\n')
	if to < 0 {
		return text[from:]
	}
	return text[from : h.End+to]
}
