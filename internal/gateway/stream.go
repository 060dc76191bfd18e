package gateway

import (
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/pkg/recording"
)

// streamMasker masks a stream in the pieces that it comes in. What may be the
// beginning of something to mask it holds back.
type streamMasker interface {
	Write(p []byte) []byte // the slice lives until the next call, and may be p
	Flush() []byte
}

// stream implements engine.Stream: what goes on of a stream of bytes is masked,
// charged and on record first. What goes up is the agent's own and goes on as it
// is; it is masked on record.
type stream struct {
	exchange *exchange
	kind     engine.StreamKind
	masker   streamMasker
}

// Stream implements engine.Exchange.
func (x *exchange) Stream(kind engine.StreamKind) engine.Stream {
	return &stream{exchange: x, kind: kind, masker: pieces{x.gate}}
}

// Write implements engine.Stream.
func (s *stream) Write(p []byte) ([]byte, *engine.Denial) {
	return s.pass(p, s.masker.Write(p))
}

// Flush implements engine.Stream.
func (s *stream) Flush() ([]byte, *engine.Denial) {
	return s.pass(nil, s.masker.Flush())
}

func (s *stream) pass(p, masked []byte) ([]byte, *engine.Denial) {
	if s.kind == engine.Stdin {
		s.note(engine.Upward, masked) //nolint:errcheck // what goes up is charged to no budget, so it is never denied
		return p, nil
	}
	if len(masked) == 0 {
		return nil, nil
	}
	return masked, s.note(engine.Downward, masked)
}

func (s *stream) note(dir engine.Direction, b []byte) *engine.Denial {
	if len(b) == 0 {
		return nil
	}
	return s.exchange.Data(dir, b, 0)
}

// File implements engine.Exchange. Paths are the agent's and the upstream's words.
func (x *exchange) File(f engine.File) {
	x.check(x.gate.log.File(recording.File{
		Request: x.number, Verb: f.Verb, Path: string(x.gate.mask([]byte(f.Path))), To: string(x.gate.mask([]byte(f.To))),
		Bytes: uint64(f.Bytes), SHA256: f.SHA256, Error: f.Error,
	}))
}

// Charge implements engine.Exchange.
func (x *exchange) Charge(bytes int) *engine.Denial { return x.charge(0, bytes) }

// Terminal implements engine.Exchange.
func (x *exchange) Terminal(engine.Terminal) {}

// pieces masks each piece by itself: what is split over two it does not see.
type pieces struct{ gate *gate }

func (p pieces) Write(b []byte) []byte { return p.gate.mask(b) }
func (pieces) Flush() []byte           { return nil }
