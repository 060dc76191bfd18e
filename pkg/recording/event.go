package recording

import (
	"fmt"
	"time"
)

// Kind says what an event is about.
type Kind uint8

// Kinds of session files, then those of the journal.
const (
	KindOpened Kind = iota + 1
	KindIntent
	KindUpstream
	KindRequest
	KindVerdict
	KindApproval
	KindFields
	KindRows
	KindData
	KindDenial
	KindOutcome
	KindEnd
	KindContainer
	KindTerminal
	KindStream
	KindExit
	KindFile
	KindIdentity

	KindStarted        Kind = 64
	KindSessionOpened  Kind = 65
	KindSessionClosed  Kind = 66
	KindSessionRemoved Kind = 67
	KindStopped        Kind = 68
)

var kindNames = map[Kind]string{
	KindOpened: "opened", KindIntent: "intent", KindUpstream: "upstream", KindRequest: "request",
	KindVerdict: "verdict", KindApproval: "approval", KindFields: "fields", KindRows: "rows",
	KindData: "data", KindDenial: "denial", KindOutcome: "outcome", KindEnd: "end",
	KindContainer: "container", KindTerminal: "terminal", KindStream: "stream", KindExit: "exit", KindFile: "file",
	KindIdentity: "identity",
	KindStarted:  "started", KindSessionOpened: "session-opened", KindSessionClosed: "session-closed",
	KindSessionRemoved: "session-removed", KindStopped: "stopped",
}

func (k Kind) String() string {
	if s, ok := kindNames[k]; ok {
		return s
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// Event is one frame of a file.
type Event struct {
	Seq    uint64 // from 1, in file order
	Offset int64  // of the frame in the file
	Time   time.Time
	Body   Body
	Hash   Hash // of this frame; it covers the file up to here
}

// Body is the payload of an event: *Opened, *Request, … The slices in a body
// belong to whoever got the event.
type Body interface {
	Kind() Kind
	// AppendTo appends the payload as the format has it.
	AppendTo(dst []byte) []byte
}

type parser interface {
	Body
	parse(d *decoder)
}

// bodies makes an empty body of each kind.
var bodies = map[Kind]func() parser{
	KindOpened:         func() parser { return new(Opened) },
	KindIntent:         func() parser { return new(Intent) },
	KindUpstream:       func() parser { return new(Upstream) },
	KindRequest:        func() parser { return new(Request) },
	KindVerdict:        func() parser { return new(Verdict) },
	KindApproval:       func() parser { return new(Approval) },
	KindFields:         func() parser { return new(Fields) },
	KindRows:           func() parser { return new(Rows) },
	KindData:           func() parser { return new(Data) },
	KindDenial:         func() parser { return new(Denial) },
	KindOutcome:        func() parser { return new(Outcome) },
	KindEnd:            func() parser { return new(End) },
	KindContainer:      func() parser { return new(Container) },
	KindTerminal:       func() parser { return new(Terminal) },
	KindStream:         func() parser { return new(Stream) },
	KindExit:           func() parser { return new(Exit) },
	KindFile:           func() parser { return new(File) },
	KindIdentity:       func() parser { return new(Identity) },
	KindStarted:        func() parser { return new(Started) },
	KindSessionOpened:  func() parser { return new(SessionOpened) },
	KindSessionClosed:  func() parser { return new(SessionClosed) },
	KindSessionRemoved: func() parser { return new(SessionRemoved) },
	KindStopped:        func() parser { return new(Stopped) },
}

func parseBody(k Kind, payload []byte) (Body, error) {
	empty, ok := bodies[k]
	if !ok {
		return &Unknown{Of: k, Payload: payload}, nil
	}
	p := empty()
	d := decoder{b: payload}
	p.parse(&d)
	if d.bad || len(d.b) != 0 {
		return nil, fmt.Errorf("event of kind %s: %w", k, errPayload)
	}
	return p, nil
}

// Unknown is an event of a kind that a later version of Postern may have
// written.
type Unknown struct {
	Of      Kind  `json:"of"`
	Payload Bytes `json:"payload"`
}

// Kind implements Body.
func (u *Unknown) Kind() Kind { return u.Of }

// AppendTo implements Body.
func (u *Unknown) AppendTo(dst []byte) []byte { return append(dst, u.Payload...) }
