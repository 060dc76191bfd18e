package recording

import "encoding/binary"

// Started is the journal's event for a start of the daemon. The first event of
// a journal file is one, and links to the journal before it.
type Started struct {
	Sequence       uint64 `json:"sequence"` // of the journal file, from 1
	Host           string `json:"host"`
	PID            uint32 `json:"pid"`
	Previous       Hash   `json:"previous"`        // last hash of the journal before; zero in the first, and within a file
	PreviousLength uint64 `json:"previous_length"` // how much of that journal counts
	Note           string `json:"note,omitempty"`  // why a new journal was begun
}

// Kind implements Body.
func (*Started) Kind() Kind { return KindStarted }

// AppendTo implements Body.
func (s *Started) AppendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, s.Sequence)
	dst = appendString(dst, s.Host)
	dst = binary.AppendUvarint(dst, uint64(s.PID))
	dst = append(dst, s.Previous[:]...)
	dst = binary.AppendUvarint(dst, s.PreviousLength)
	return appendString(dst, s.Note)
}

func (s *Started) parse(d *decoder) {
	s.Sequence, s.Host, s.PID = d.uint(), d.string(), d.uint32()
	s.Previous, s.PreviousLength, s.Note = d.hash(), d.uint(), d.string()
}

// SessionOpened announces a session file before its first event.
type SessionOpened struct {
	Session  string `json:"session"`
	Path     string `json:"path"` // below the directory
	Agent    string `json:"agent"`
	Target   string `json:"target"`
	Protocol string `json:"protocol"`
	Genesis  Hash   `json:"genesis"` // of the session file
}

// Kind implements Body.
func (*SessionOpened) Kind() Kind { return KindSessionOpened }

// AppendTo implements Body.
func (s *SessionOpened) AppendTo(dst []byte) []byte {
	dst = appendString(dst, s.Session)
	dst = appendString(dst, s.Path)
	dst = appendString(dst, s.Agent)
	dst = appendString(dst, s.Target)
	dst = appendString(dst, s.Protocol)
	return append(dst, s.Genesis[:]...)
}

func (s *SessionOpened) parse(d *decoder) {
	s.Session, s.Path, s.Agent = d.string(), d.string(), d.string()
	s.Target, s.Protocol, s.Genesis = d.string(), d.string(), d.hash()
}

// How a session file was closed.
const (
	HowClosed    = "closed"    // in order: its last event is End
	HowPoisoned  = "poisoned"  // after an event could not be written
	HowRecovered = "recovered" // by the next start, after the daemon was killed
	HowBroken    = "broken"    // by the next start, and the file does not follow the chain
	HowMissing   = "missing"   // by the next start, and the file was gone
)

// SessionClosed says what a session file holds from here on for ever.
type SessionClosed struct {
	Session string `json:"session"`
	How     string `json:"how"`
	Length  uint64 `json:"length"` // of header and whole frames
	Events  uint64 `json:"events"`
	Hash    Hash   `json:"hash"` // of the last frame
	Note    string `json:"note,omitempty"`
}

// Kind implements Body.
func (*SessionClosed) Kind() Kind { return KindSessionClosed }

// AppendTo implements Body.
func (s *SessionClosed) AppendTo(dst []byte) []byte {
	dst = appendString(dst, s.Session)
	dst = appendString(dst, s.How)
	dst = binary.AppendUvarint(dst, s.Length)
	dst = binary.AppendUvarint(dst, s.Events)
	dst = append(dst, s.Hash[:]...)
	return appendString(dst, s.Note)
}

func (s *SessionClosed) parse(d *decoder) {
	s.Session, s.How, s.Length, s.Events = d.string(), d.string(), d.uint(), d.uint()
	s.Hash, s.Note = d.hash(), d.string()
}

// SessionRemoved says that a session file was deleted in order, by retention.
type SessionRemoved struct {
	Session string `json:"session"`
	Reason  string `json:"reason"`
}

// Kind implements Body.
func (*SessionRemoved) Kind() Kind { return KindSessionRemoved }

// AppendTo implements Body.
func (s *SessionRemoved) AppendTo(dst []byte) []byte {
	return appendString(appendString(dst, s.Session), s.Reason)
}

func (s *SessionRemoved) parse(d *decoder) { s.Session, s.Reason = d.string(), d.string() }

// Stopped is the journal's event for an orderly stop of the daemon.
type Stopped struct{}

// Kind implements Body.
func (*Stopped) Kind() Kind { return KindStopped }

// AppendTo implements Body.
func (*Stopped) AppendTo(dst []byte) []byte { return dst }
func (*Stopped) parse(*decoder)             {}
