package recording

import (
	"encoding/binary"
	"encoding/json"
)

// Terminal says on what a request's streams are shown, from here on.
type Terminal struct {
	Request uint64 `json:"request"`
	Type    string `json:"type,omitempty"` // such as "xterm-256color"; empty when only the size changed
	Columns uint32 `json:"columns"`
	Rows    uint32 `json:"rows"`
}

// Kind implements Body.
func (*Terminal) Kind() Kind { return KindTerminal }

// AppendTo implements Body.
func (t *Terminal) AppendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, t.Request)
	dst = appendString(dst, t.Type)
	dst = binary.AppendUvarint(dst, uint64(t.Columns))
	return binary.AppendUvarint(dst, uint64(t.Rows))
}

func (t *Terminal) parse(d *decoder) {
	t.Request, t.Type, t.Columns, t.Rows = d.uint(), d.string(), d.uint32(), d.uint32()
}

// Names of streams.
const (
	Stdin  = "stdin"
	Stdout = "stdout"
	Stderr = "stderr"
)

// Stream is a piece of what a request reads or writes.
type Stream struct {
	Request uint64 `json:"request"`
	Stream  string `json:"stream"` // Stdin, Stdout or Stderr
	Bytes   Bytes  `json:"bytes"`
}

// Kind implements Body.
func (*Stream) Kind() Kind { return KindStream }

// AppendTo implements Body.
func (s *Stream) AppendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, s.Request)
	dst = appendString(dst, s.Stream)
	return appendBytes(dst, s.Bytes)
}

func (s *Stream) parse(d *decoder) { s.Request, s.Stream, s.Bytes = d.uint(), d.string(), d.bytes() }

// Exit is how a request's program ended: with a status, or by a signal.
type Exit struct {
	Request uint64 `json:"request"`
	Status  uint32 `json:"status"`
	Signal  string `json:"signal,omitempty"` // as SSH names it (RFC 4254, 6.10), such as "KILL"
}

// Kind implements Body.
func (*Exit) Kind() Kind { return KindExit }

// AppendTo implements Body.
func (e *Exit) AppendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, e.Request)
	dst = binary.AppendUvarint(dst, uint64(e.Status))
	return appendString(dst, e.Signal)
}

func (e *Exit) parse(d *decoder) { e.Request, e.Status, e.Signal = d.uint(), d.uint32(), d.string() }

// File is something that was done to a file, at its end.
type File struct {
	Request uint64 `json:"request"`
	Verb    string `json:"verb"` // of the protocol, such as "file-write"
	Path    string `json:"path"`
	To      string `json:"to,omitempty"` // the other path, of one that has two
	Bytes   uint64 `json:"bytes"`        // that were read or written
	SHA256  Hash   `json:"sha256"`       // of them, in order from the file's beginning; zero when they were not
	Error   string `json:"error,omitempty"`
}

// Kind implements Body.
func (*File) Kind() Kind { return KindFile }

// AppendTo implements Body.
func (f *File) AppendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, f.Request)
	dst = appendString(dst, f.Verb)
	dst = appendString(dst, f.Path)
	dst = appendString(dst, f.To)
	dst = binary.AppendUvarint(dst, f.Bytes)
	dst = append(dst, f.SHA256[:]...)
	return appendString(dst, f.Error)
}

func (f *File) parse(d *decoder) {
	f.Request, f.Verb, f.Path, f.To = d.uint(), d.string(), d.string(), d.string()
	f.Bytes, f.SHA256, f.Error = d.uint(), d.hash(), d.string()
}

// MarshalJSON leaves a hash out that is not known.
func (f *File) MarshalJSON() ([]byte, error) {
	type plain File
	out := struct {
		*plain
		SHA256 string `json:"sha256,omitempty"`
	}{plain: (*plain)(f)}
	if f.SHA256 != (Hash{}) {
		out.SHA256 = f.SHA256.String()
	}
	return json.Marshal(out)
}
