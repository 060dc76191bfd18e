package sftp

import "github.com/postern/postern/internal/relay/channels"

// maxMaskedRead is the longest piece that is masked; clients ask for the rest.
const maxMaskedRead = 128 << 10

// window is a READ that was widened by what stands around it.
type window struct {
	lead int // bytes before what the client asked for
	want int
}

// reading sends a READ on. Where the policy masks, more is read than was asked.
func (r *relay) reading(p *pending, sent frame) error {
	if p.file.dir {
		return r.refuse(p.id, StatusFailure, "postern: this is a directory")
	}
	if !r.masks {
		return r.pass(p, sent)
	}
	q := *p.request
	lead := min(q.Offset, channels.Margin)
	p.window = &window{lead: int(lead), want: int(min(q.Length, maxMaskedRead))}
	q.Offset -= lead
	q.Length = uint32(p.window.lead + p.window.want + channels.Margin)
	id, ok := r.enter(p)
	if !ok {
		return errOver
	}
	q.ID = id
	return r.toUpstream(q.encode())
}

// read is what was read.
func (r *relay) read(p *pending, kind byte, d *decoder) ([]byte, error) {
	piece := d.bytes(maxPacket)
	most := int(min(p.request.Length, maxPacket))
	if p.window != nil {
		most = p.window.lead + p.window.want + channels.Margin
	}
	if kind != typeData || d.bad || len(d.rest) > 0 || len(piece) > most {
		return nil, malformed("an answer of type %d to read", kind)
	}
	if p.window != nil {
		if len(piece) <= p.window.lead {
			return statusPacket(p.id, StatusEOF, StatusEOF.String()), nil
		}
		piece = channels.Preserve(piece, r.scrubber.Scrub)[p.window.lead:min(len(piece), p.window.lead+p.window.want)]
	}
	if denial := p.file.charge(len(piece)); denial != nil {
		r.sayDenial(denial)
		return statusPacket(p.id, StatusPermissionDenied, r.line(denial)), nil
	}
	p.file.piece(p.request.Offset, piece)
	if p.window == nil {
		return nil, nil
	}
	return newPacket(typeData, p.id).text(string(piece)).done(), nil
}
