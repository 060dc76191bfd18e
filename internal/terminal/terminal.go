// Package terminal makes what a program has written to its terminal harmless to
// another's: a recording of an agent's session, shown to a person. Terminals obey
// what they are shown: they answer questions into what is typed, set the
// clipboard and the title, turn on reports of the mouse.
//
// Filter lets through what draws, by a list of what is allowed: characters, the
// cursor, colours, erasing, scrolling, the alternate screen. Text makes lines of
// plain text. Both take a stream in pieces of any size and give the same
// result, however it is cut. They take the control sequences of ECMA-48 as xterm
// does (https://invisible-island.net/xterm/ctlseqs/ctlseqs.html), in UTF-8.
//
// It does no I/O. Start with Filter.Write.
package terminal

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

const (
	// maxSequence is the longest control sequence that is taken for one. The
	// longest that programs send set both colours and some attributes.
	maxSequence = 64
	// maxString is how long a string, such as a title, is passed over. One without
	// an end must not hide what comes after it.
	maxString = 4 << 10
)

const (
	escape     = 0x1b
	bell       = 0x07
	backspace  = 0x08
	cancel     = 0x18
	substitute = 0x1a
	erase      = 0x7f
)

// sink is told what is in a stream.
type sink interface {
	char(r rune)                                               // that is shown; U+FFFD for what is no UTF-8
	control(b byte)                                            // below 0x20, but those that sequences are made of
	escaped(between []byte, final byte)                        // ESC, intermediates, final
	sequence(private byte, params, between []byte, final byte) // CSI; private is 0 or one of <=>?
}

type state uint8

const (
	ground state = iota
	afterEscape
	inSequence
	inString
	endsString // ESC was seen in a string
)

// parser takes a stream apart.
type parser struct {
	state state
	seq   []byte // of a sequence, without what begins it
	char  []byte // the beginning of a character
	size  int    // of a string
}

func (p *parser) parse(b []byte, to sink) {
	for _, c := range b {
		p.step(c, to)
	}
}

func (p *parser) step(c byte, to sink) {
	switch p.state {
	case ground:
		p.plain(c, to)
	case afterEscape:
		p.escape(c, to)
	case inSequence:
		p.sequence(c, to)
	case inString:
		p.size++
		switch {
		case c == escape:
			p.state = endsString
		case c == bell, c == cancel, c == substitute, p.size > maxString:
			p.state = ground
		}
	case endsString:
		p.state = ground
		if c != '\\' {
			p.begin()
			p.escape(c, to)
		}
	}
}

// begin begins a sequence.
func (p *parser) begin() { p.state, p.seq = afterEscape, p.seq[:0] }

func (p *parser) plain(c byte, to sink) {
	if c < 0x20 || c == erase {
		p.broken(to)
		switch c {
		case escape:
			p.begin()
		case erase:
		default:
			to.control(c)
		}
		return
	}
	p.char = append(p.char, c)
	for len(p.char) > 0 && utf8.FullRune(p.char) {
		r, n := utf8.DecodeRune(p.char)
		p.char = append(p.char[:0], p.char[n:]...)
		if !unicode.IsControl(r) { // of these, some begin sequences
			to.char(r)
		}
	}
}

// broken gives up a character that another byte cut off.
func (p *parser) broken(to sink) {
	if len(p.char) > 0 {
		to.char(utf8.RuneError)
		p.char = p.char[:0]
	}
}

// inside takes what does not belong into a sequence; done says that it was such.
func (p *parser) inside(c byte, to sink) (done bool) {
	switch {
	case c == escape:
		p.begin()
	case c == cancel, c == substitute:
		p.state = ground
	case c < 0x20:
		to.control(c) // terminals obey it and go on with the sequence
	case c >= erase:
		p.state = ground
		p.plain(c, to)
	default:
		return false
	}
	return true
}

func (p *parser) escape(c byte, to sink) {
	switch {
	case p.inside(c, to):
	case len(p.seq) == 0 && c == '[':
		p.state = inSequence
	case len(p.seq) == 0 && bytes.IndexByte([]byte("]PX^_"), c) >= 0:
		p.state, p.size = inString, 0
	case c < 0x30:
		p.keep(c)
	default:
		p.state = ground
		if len(p.seq) <= maxSequence {
			to.escaped(p.seq, c)
		}
	}
}

func (p *parser) keep(c byte) {
	if len(p.seq) <= maxSequence {
		p.seq = append(p.seq, c)
	}
}

func (p *parser) sequence(c byte, to sink) {
	switch {
	case p.inside(c, to):
	case c < 0x40:
		p.keep(c)
	default:
		p.state = ground
		if len(p.seq) > maxSequence {
			return
		}
		var private byte
		params := p.seq
		if len(params) > 0 && params[0] >= '<' && params[0] <= '?' {
			private, params = params[0], params[1:]
		}
		end := len(params)
		for end > 0 && params[end-1] < 0x30 {
			end--
		}
		to.sequence(private, params[:end], params[end:], c)
	}
}
