package channels

import "bytes"

// Margin is how far around a piece of a file is looked for what is to be masked,
// so that it is found wherever a client or a packet cuts. It is longer than keys
// and tokens, but for some private keys, which are found by their first line.
const Margin = 4 << 10

// Preserve masks and keeps every byte where it is, since clients ask for files in
// pieces by their offsets and compare sizes: what is found becomes stars. What
// scrub would put there instead has another length. It does not change what it is
// given.
func Preserve(b []byte, scrub func([]byte) []byte) []byte {
	if bytes.Equal(scrub(b), b) {
		return b
	}
	out := bytes.Clone(b)
	for from := 0; from < len(out); {
		end := len(out)
		if at := bytes.IndexByte(out[from:], '\n'); at >= 0 {
			end = from + at + 1
		}
		blank(out[from:end], scrub(out[from:end]))
		from = end
	}
	// What is found only over several lines, such as a private key.
	blank(out, scrub(out))
	return out
}

// blank writes stars over all words that scrubbing changed, first to last.
func blank(b, scrubbed []byte) {
	if bytes.Equal(b, scrubbed) {
		return
	}
	short := min(len(b), len(scrubbed))
	from := 0
	for from < short && b[from] == scrubbed[from] {
		from++
	}
	to := len(b)
	for left := len(scrubbed); to > from && left > from && b[to-1] == scrubbed[left-1]; left-- {
		to--
	}
	for from > 0 && b[from-1] > ' ' {
		from--
	}
	for to < len(b) && b[to] > ' ' {
		to++
	}
	for i := from; i < to; i++ {
		if b[i] != '\n' {
			b[i] = '*'
		}
	}
}

// Preserver is Preserve for a file that comes in pieces from its beginning. It
// holds back a margin.
type Preserver struct {
	held []byte // not given yet, behind lead bytes that were
	lead int
	past int // bytes before these, for which there is no use
}

// Write returns what may go on. The slice lives until the next call.
func (p *Preserver) Write(b []byte, scrub func([]byte) []byte) []byte {
	p.held = append(append(p.held[:0], p.held[p.past:]...), b...)
	p.past = 0
	if len(p.held) < p.lead+2*Margin {
		return nil
	}
	give := len(p.held) - Margin
	out := Preserve(p.held, scrub)[p.lead:give]
	p.lead, p.past = Margin, give-Margin
	return out
}

// Flush returns what is held back.
func (p *Preserver) Flush(scrub func([]byte) []byte) []byte {
	out := Preserve(p.held[p.past:], scrub)[p.lead:]
	*p = Preserver{}
	return out
}
