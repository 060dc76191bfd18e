package gateway

import (
	"bytes"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/mask"
	"github.com/postern/postern/pkg/recording"
)

// stream implements engine.Stream: what goes on of a stream of bytes is masked,
// charged and on record first. What goes up is the agent's own and goes on as it
// is; it is masked on record.
type stream struct {
	exchange *exchange
	kind     engine.StreamKind
	masker   *mask.Stream
	recorded bool
	rests    int // how often Flush was called since something came
	denial   *engine.Denial
}

const (
	// patience is how often Flush is called before the beginning of a line of
	// input is put on record: for half a second.
	patience = 25
	// lineEnds are what a terminal sends for Enter, and for what ends a line
	// otherwise: Ctrl-C, Ctrl-D, Ctrl-Z, Ctrl-\.
	lineEnds = "\r\n\x03\x04\x1a\x1c"
)

// Stream implements engine.Exchange. A stream that is no text is searched for
// the session's own secret only. It is not on record, where it would be with all
// that nobody has masked in it.
func (x *exchange) Stream(kind engine.StreamKind) engine.Stream {
	g := x.gate
	raw := x.raw && kind != engine.Stderr
	o := mask.StreamOptions{Known: g.known.Load(), Terminal: x.terminal && !raw}
	if !raw && g.masks != nil {
		o.Scanner = g.masks.Scanner
	}
	if kind != engine.Stdin {
		o.Found = x.found
	}
	s := &stream{exchange: x, kind: kind, masker: mask.NewStream(o), recorded: !raw && x.records(kind)}
	x.streams = append(x.streams, s)
	return s
}

// records says whether a stream is put on record. Who types at a terminal types
// passwords.
func (x *exchange) records(kind engine.StreamKind) bool {
	switch {
	case kind != engine.Stdin:
		return x.setup.Results
	case x.terminal:
		return x.setup.Typed
	}
	return x.setup.Input
}

// found counts what was masked.
func (x *exchange) found(detector string) {
	kind := "detected"
	if detector == "secret" {
		kind = detector
	}
	x.gate.gateway.Metrics.masked(kind)()
}

// Write implements engine.Stream.
func (s *stream) Write(p []byte) ([]byte, *engine.Denial) {
	if s.kind == engine.Stdin {
		return s.up(p)
	}
	return s.down(s.masker.Write(p))
}

// up goes on at once. It is on record before when its line is whole, since it is
// masked line by line.
func (s *stream) up(p []byte) ([]byte, *engine.Denial) {
	if !s.recorded {
		return p, nil
	}
	s.rests = 0
	rest := p
	if s.masker.Terminal {
		if i := bytes.LastIndexAny(p, lineEnds) + 1; i > 0 {
			s.put(s.masker.Write(p[:i]))
			s.put(s.masker.Close())
			rest = p[i:]
		}
	}
	s.put(s.masker.Write(rest))
	if s.denial != nil {
		return nil, s.denial
	}
	return p, nil
}

func (s *stream) down(masked []byte) ([]byte, *engine.Denial) {
	x := s.exchange
	if len(masked) == 0 || s.denial != nil {
		return nil, s.denial
	}
	if s.denial = x.charge(0, len(masked)); s.denial == nil {
		s.put(masked)
	}
	if s.denial != nil {
		return nil, s.denial
	}
	x.bytes.Add(int64(len(masked)))
	return masked, nil
}

// put puts a piece on record. What cannot be is denied, and the session ends.
func (s *stream) put(masked []byte) {
	x := s.exchange
	if !s.recorded || len(masked) == 0 || s.denial != nil {
		return
	}
	if err := x.gate.log.Stream(x.number, s.kind.String(), masked); err != nil {
		s.denial = x.gate.unrecorded(err)
		x.gate.cancel(s.denial)
		return
	}
	x.room(int64(len(masked)))
}

// Held implements engine.Stream.
func (s *stream) Held() bool { return s.denial == nil && s.masker.Held() }

// Flush implements engine.Stream. Of a line that somebody types slowly no part is
// put on record that would be masked in the whole.
func (s *stream) Flush() ([]byte, *engine.Denial) {
	if s.kind != engine.Stdin {
		return s.down(s.masker.Flush())
	}
	if s.rests++; s.rests < patience {
		return nil, s.denial
	}
	return s.Close()
}

// Close implements engine.Stream.
func (s *stream) Close() ([]byte, *engine.Denial) {
	if s.kind != engine.Stdin {
		return s.down(s.masker.Close())
	}
	s.put(s.masker.Close())
	return nil, s.denial
}

// closeStreams puts on record what of the streams to the upstream has gone on
// and was held back here. What was held back of the others the agent never got.
func (x *exchange) closeStreams() {
	for _, s := range x.streams {
		if s.kind == engine.Stdin {
			s.Close() //nolint:errcheck // a denial here has ended the session
		}
	}
	x.streams = nil
}

// File implements engine.Exchange. Paths are the agent's and the upstream's words.
func (x *exchange) File(f engine.File) {
	x.check(x.gate.log.File(recording.File{
		Request: x.number, Verb: f.Verb, Path: x.masked(f.Path), To: x.masked(f.To),
		Bytes: uint64(f.Bytes), SHA256: f.SHA256, Error: x.masked(f.Error),
	}))
}

// Charge implements engine.Exchange.
func (x *exchange) Charge(bytes int) *engine.Denial {
	d := x.charge(0, bytes)
	if d == nil {
		x.bytes.Add(int64(bytes))
	}
	return d
}

// Terminal implements engine.Exchange.
func (x *exchange) Terminal(t engine.Terminal) {
	x.terminal = true
	x.check(x.gate.log.Terminal(recording.Terminal{
		Request: x.number, Type: x.masked(t.Type), Columns: t.Columns, Rows: t.Rows,
	}))
}

func (x *exchange) masked(s string) string { return string(x.gate.mask([]byte(s))) }
