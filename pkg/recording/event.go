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
	KindContainer: "container",
	KindStarted:   "started", KindSessionOpened: "session-opened", KindSessionClosed: "session-closed",
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

func parseBody(k Kind, payload []byte) (Body, error) {
	var p parser
	switch k {
	case KindOpened:
		p = new(Opened)
	case KindIntent:
		p = new(Intent)
	case KindUpstream:
		p = new(Upstream)
	case KindRequest:
		p = new(Request)
	case KindVerdict:
		p = new(Verdict)
	case KindApproval:
		p = new(Approval)
	case KindFields:
		p = new(Fields)
	case KindRows:
		p = new(Rows)
	case KindData:
		p = new(Data)
	case KindDenial:
		p = new(Denial)
	case KindOutcome:
		p = new(Outcome)
	case KindEnd:
		p = new(End)
	case KindContainer:
		p = new(Container)
	case KindStarted:
		p = new(Started)
	case KindSessionOpened:
		p = new(SessionOpened)
	case KindSessionClosed:
		p = new(SessionClosed)
	case KindSessionRemoved:
		p = new(SessionRemoved)
	case KindStopped:
		p = new(Stopped)
	default:
		return &Unknown{Of: k, Payload: payload}, nil
	}
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
