package channels

import (
	"io"
	"sync"
	"time"

	"github.com/postern/postern/internal/engine"
)

const (
	// smallPiece is what a stream that rests has for a buffer: what is typed, and
	// most lines. A thousand shells on which nothing happens cost little.
	smallPiece = 1 << 10
	// largePiece is what x/crypto/ssh takes for one packet.
	largePiece = 32 << 10
)

var pieces = sync.Pool{New: func() any { b := make([]byte, largePiece); return &b }}

// pump moves one stream of a channel.
type pump struct {
	to io.Writer

	mu     sync.Mutex    // held while it writes: what the gateway says comes between pieces
	stream engine.Stream // nil before it is known whose the stream is
	hangUp func() error  // ends the Read that run waits in
	quiet  *time.Timer
	over   bool // nothing more of the stream goes on
	shut   bool // nor anything else
	err    error
	denial *engine.Denial
}

// belongs says whose the stream is, and how to end it where it comes from.
func (p *pump) belongs(stream engine.Stream, hangUp func() error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stream, p.hangUp = stream, hangUp
}

// Write is for what does not come from the stream.
func (p *pump) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		return 0, io.EOF
	}
	return p.to.Write(b)
}

// run moves bytes until the stream ends, its other end takes no more, or it is
// denied. Its end is not passed on.
func (p *pump) run(from io.Reader) {
	var small [smallPiece]byte
	var large *[]byte
	b := small[:]
	defer func() {
		if large != nil {
			pieces.Put(large)
		}
	}()
	from = patient{from}
	for {
		n, err := from.Read(b)
		if n > 0 && !p.pass(b[:n]) {
			return
		}
		if err != nil {
			p.finish()
			return
		}
		switch {
		case n == len(b) && large == nil:
			large = pieces.Get().(*[]byte)
			b = *large
		case n < smallPiece && large != nil:
			pieces.Put(large)
			large, b = nil, small[:]
		}
	}
}

// pass moves one piece.
func (p *pump) pass(b []byte) (more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return false
	}
	out, d := p.stream.Write(b)
	if !p.forward(out, d) {
		return false
	}
	p.wait()
	return true
}

// wait has flush called when something is held back and nothing follows; p.mu is
// held.
func (p *pump) wait() {
	switch {
	case !p.stream.Held():
		if p.quiet != nil {
			p.quiet.Stop()
		}
	case p.quiet == nil:
		p.quiet = time.AfterFunc(engine.HoldBack, p.flush)
	default:
		p.quiet.Reset(engine.HoldBack)
	}
}

// forward writes with p.mu held: the pieces of a stream stay in order.
func (p *pump) forward(b []byte, d *engine.Denial) bool {
	if d == nil && len(b) > 0 {
		_, p.err = p.to.Write(b)
	}
	if p.denial = d; d != nil || p.err != nil {
		p.over = true
	}
	return !p.over
}

// flush moves what is held back. When that is denied, nothing but the end of the
// stream would tell run.
func (p *pump) flush() {
	if p.flushed() {
		return
	}
	p.hangUp() //nolint:errcheck // the channel is gone then
}

func (p *pump) flushed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over || !p.forward(p.stream.Flush()) {
		return p.over && p.denial == nil && p.err == nil
	}
	p.wait()
	return true
}

// finish moves what is held back; nothing goes on after it.
func (p *pump) finish() {
	p.mu.Lock()
	if !p.over {
		p.forward(p.stream.Close())
	}
	p.mu.Unlock()
	p.stop()
}

// stop ends the stream where it is. It may be called at any time.
func (p *pump) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	if p.quiet != nil {
		p.quiet.Stop()
	}
}

// close is stop for all that is written.
func (p *pump) close() {
	p.stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = true
}

// denied returns the denial that ended the stream, if one did.
func (p *pump) denied() *engine.Denial {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.denial
}
