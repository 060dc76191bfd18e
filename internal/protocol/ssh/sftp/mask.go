package sftp

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/postern/postern/internal/relay/channels"
)

// maxMaskedRead is the longest piece that is masked; clients ask for the rest, or,
// by what they are told of limits, for no more. With its margins it is less than
// the 255 KiB that OpenSSH's server reads at once.
const maxMaskedRead = 240 << 10

// dataHeader is how much of a packet stands before the data.
const dataHeader = 13

// window is a READ that was widened by what stands around it.
type window struct {
	lead int // bytes before what the client asked for
	want int
	got  []byte // where an answer was short: what came before it
}

// whole is all that was asked for.
func (w *window) whole() int { return w.lead + w.want + channels.Margin }

// reading sends a READ on. Where the policy masks, more is read than was asked.
func (r *relay) reading(p *pending, sent frame) error {
	if p.file.dir {
		return r.refuse(p.id, StatusFailure, "postern: this is a directory")
	}
	if !r.masks {
		return r.pass(p, sent)
	}
	p.window = &window{lead: int(min(p.request.Offset, channels.Margin)), want: int(min(p.request.Length, maxMaskedRead))}
	return r.readOn(p)
}

// readOn asks for what is missing of a window, unless the file was closed meanwhile:
// the upstream may have given its handle away again.
func (r *relay) readOn(p *pending) error {
	r.upstreamMu.Lock()
	defer r.upstreamMu.Unlock()
	if r.file(p.request.Handle) != p.file {
		return r.refuse(p.id, StatusFailure, "postern: the file is not open any more")
	}
	id, ok := r.enter(p)
	if !ok {
		return errOver
	}
	q, w := *p.request, p.window
	q.ID = id
	q.Offset += uint64(len(w.got)) - uint64(w.lead)
	q.Length = uint32(w.whole() - len(w.got))
	_, err := r.Upstream.Write(q.encode())
	return err
}

// rests asks for what answers were short of. Who takes the answers does not: an
// upstream that reads nothing until these are taken would wait for it for ever.
func (r *relay) rests(ctx context.Context) {
	for {
		select {
		case p := <-r.rest:
			if err := r.readOn(p); err != nil {
				r.cancel(fmt.Errorf("the upstream's side: %w", err))
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// short says whether an answer is less than the window, and more is asked for:
// upstreams give less at once than they are asked for, and what stands behind a
// piece decides what is masked in it. A file's end is an answer of its own.
func (r *relay) short(p *pending, f frame) (more bool) {
	w := p.window
	if w == nil || f.kind() != typeData {
		return false
	}
	d := decoder{rest: f.body()[4:]}
	piece := d.bytes(maxPacket)
	if d.bad || len(piece) == 0 || len(w.got)+len(piece) >= w.whole() {
		return false
	}
	w.got = append(w.got, piece...)
	r.rest <- p // has room for all that may be unanswered
	return true
}

// read is what was read. It returns the packet for the agent where that is not the
// upstream's.
func (r *relay) read(p *pending, f frame) ([]byte, error) {
	d := decoder{rest: f.body()[4:]}
	w := p.window
	if f.kind() == typeStatus {
		if w == nil || len(w.got) == 0 || Status(d.uint32()) != StatusEOF {
			return r.plainStatus(p, f)
		}
		f = newPacket(typeData, p.id).text("").done() // the file ends with what came before
		d = decoder{rest: f.body()[4:]}
	}
	piece := d.bytes(maxPacket)
	most := int(min(p.request.Length, maxPacket))
	if w != nil {
		if len(w.got) > 0 {
			piece = append(w.got, piece...)
		}
		most = w.whole()
	}
	if f.kind() != typeData || d.bad || len(d.rest) > 0 || len(piece) > most {
		return nil, malformed("an answer of type %d to read", f.kind())
	}
	if w != nil {
		if len(piece) <= w.lead {
			return statusPacket(p.id, StatusEOF, StatusEOF.String()), nil
		}
		piece = channels.Preserve(piece, r.scrubber.Scrub)[w.lead:min(len(piece), w.lead+w.want)]
	}
	if denial := p.file.charge(len(piece)); denial != nil {
		r.sayDenial(denial)
		return statusPacket(p.id, StatusPermissionDenied, r.line(denial)), nil
	}
	p.file.piece(p.request.Offset, piece)
	if w == nil {
		return nil, nil
	}
	if len(f) < w.lead+dataHeader+len(piece) { // it came in several
		return newPacket(typeData, p.id).uint32(uint32(len(piece))).raw(piece).done(), nil
	}
	// In its place, there is room before it for what a packet begins with.
	out := f[w.lead : w.lead+dataHeader+len(piece)]
	copy(out[dataHeader:], piece)
	binary.BigEndian.PutUint32(out[9:], uint32(len(piece)))
	binary.BigEndian.PutUint32(out[5:], p.id)
	out[4] = typeData
	return packet(out).done(), nil
}

// limits tells a client to ask for no more than is masked at once.
func (r *relay) limits(f frame) {
	const read = 4 + 8 // behind the id and the longest packet
	if body := f.body(); r.masks && f.kind() == typeReply && len(body) >= read+8 {
		if most := binary.BigEndian.Uint64(body[read:]); most == 0 || most > maxMaskedRead {
			binary.BigEndian.PutUint64(body[read:], maxMaskedRead)
		}
	}
}
