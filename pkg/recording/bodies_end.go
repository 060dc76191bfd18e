package recording

import (
	"encoding/binary"
	"time"
)

// Data is a piece of a stream.
type Data struct {
	Request   uint64 `json:"request"`
	Direction string `json:"direction"` // "up", from the client, or "down"
	Bytes     Bytes  `json:"bytes"`
}

// Kind implements Body.
func (*Data) Kind() Kind { return KindData }

// AppendTo implements Body.
func (s *Data) AppendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, s.Request)
	dst = appendString(dst, s.Direction)
	return appendBytes(dst, s.Bytes)
}

func (s *Data) parse(d *decoder) { s.Request, s.Direction, s.Bytes = d.uint(), d.string(), d.bytes() }

// Denial is what the client was told instead of an answer.
type Denial struct {
	Request uint64 `json:"request"` // 0: the whole session was refused
	Code    string `json:"code"`
	Rule    string `json:"rule,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Help    string `json:"help,omitempty"`
}

// Kind implements Body.
func (*Denial) Kind() Kind { return KindDenial }

// AppendTo implements Body.
func (n *Denial) AppendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, n.Request)
	dst = appendString(dst, n.Code)
	dst = appendString(dst, n.Rule)
	dst = appendString(dst, n.Reason)
	return appendString(dst, n.Help)
}

func (n *Denial) parse(d *decoder) {
	n.Request, n.Code, n.Rule, n.Reason, n.Help = d.uint(), d.string(), d.string(), d.string(), d.string()
}

// Outcome is how an allowed request ended.
type Outcome struct {
	Request uint64        `json:"request"`
	Status  string        `json:"status"` // "ok", "failed", "broken"
	Tag     string        `json:"tag,omitempty"`
	Rows    int64         `json:"rows"`
	Bytes   int64         `json:"bytes"`
	Took    time.Duration `json:"took_ns"`
}

// Kind implements Body.
func (*Outcome) Kind() Kind { return KindOutcome }

// AppendTo implements Body.
func (o *Outcome) AppendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, o.Request)
	dst = appendString(dst, o.Status)
	dst = appendString(dst, o.Tag)
	dst = binary.AppendUvarint(dst, uint64(o.Rows))
	dst = binary.AppendUvarint(dst, uint64(o.Bytes))
	return binary.AppendUvarint(dst, uint64(o.Took))
}

func (o *Outcome) parse(d *decoder) {
	o.Request, o.Status, o.Tag = d.uint(), d.string(), d.string()
	o.Rows, o.Bytes, o.Took = int64(d.uint()), int64(d.uint()), time.Duration(d.uint())
}

// End is the last event of a session that was closed.
type End struct {
	Error    string `json:"error,omitempty"`
	Requests uint64 `json:"requests"`
	Denied   uint64 `json:"denied"`
	Rows     uint64 `json:"rows"`
	Up       uint64 `json:"bytes_up"`
	Down     uint64 `json:"bytes_down"`
}

// Kind implements Body.
func (*End) Kind() Kind { return KindEnd }

// AppendTo implements Body.
func (e *End) AppendTo(dst []byte) []byte {
	dst = appendString(dst, e.Error)
	for _, v := range [...]uint64{e.Requests, e.Denied, e.Rows, e.Up, e.Down} {
		dst = binary.AppendUvarint(dst, v)
	}
	return dst
}

func (e *End) parse(d *decoder) {
	e.Error = d.string()
	e.Requests, e.Denied, e.Rows, e.Up, e.Down = d.uint(), d.uint(), d.uint(), d.uint(), d.uint()
}
