// Package approval is where requests wait for people.
//
// A Store keeps approvals in memory, from pending over approved to consumed, or
// to denied, expired or withdrawn. An approval is bound to a fingerprint of what
// was asked, not to the connection that asked: it outlives a client that gave
// up waiting, and an identical retry finds it again.
//
// The package decides nothing itself and tells nobody: who may approve is
// checked at the control socket, what needs approval is the policy's, and
// notifying and recording hang on Options.OnChange. Start with Store.Submit,
// which a request goes through, then Store.Approve.
package approval

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/internal/engine"
)

const (
	// DefaultPerAgent is how many approvals of one agent may be pending. More
	// than that nobody reads with care.
	DefaultPerAgent = 16
	// DefaultTotal is how many may be pending on the host.
	DefaultTotal = 256
	// DefaultTextBytes bounds the text, parameters and context of one Ask: more
	// than a person can read is not approved by a person.
	DefaultTextBytes = 64 << 10
	// DefaultExecute is how long an approval that nobody waits for any more can
	// be used by a retry.
	DefaultExecute = 10 * time.Minute
	// DefaultDenials within DefaultDenialWindow begin a cool-down of
	// DefaultCoolDown, in which the agent's requests are refused without
	// bothering anyone.
	DefaultDenials      = 5
	DefaultDenialWindow = 10 * time.Minute
	DefaultCoolDown     = 5 * time.Minute

	// maxParams bounds the number of parameters kept for people to look at.
	maxParams = 1024
	// keptDone is how many ended approvals List still shows.
	keptDone = 256
)

// State of an approval.
type State string

const (
	Pending   State = "pending"
	Approved  State = "approved"
	Consumed  State = "consumed"  // approved and used: a request went ahead
	Denied    State = "denied"    // a person said no
	Expired   State = "expired"   // nobody decided, or nobody used it, in time
	Withdrawn State = "withdrawn" // the client took it back
)

// Done reports whether the state is final.
func (s State) Done() bool { return s != Pending && s != Approved }

// ErrWithdrawn is the cause with which a protocol cancels the context of Submit
// when the client took its request back: the approval ends, unless another
// identical request waits for it. With any other cause the client is gone, and
// the approval lives on.
var ErrWithdrawn = engine.ErrWithdrawn

// Errors of Submit, Approve and Deny, matched with errors.Is.
var (
	ErrDenied     = errors.New("a person denied it")
	ErrExpired    = errors.New("nobody decided in time")
	ErrConsumed   = errors.New("an identical request used the approval")
	ErrTooMany    = errors.New("too many requests wait for approval")
	ErrTooLarge   = errors.New("too large to be read by a person")
	ErrCoolDown   = errors.New("several requests were denied just now")
	ErrUnknown    = errors.New("there is no such approval")
	ErrDecided    = errors.New("it is decided already")
	ErrNoReason   = errors.New("a reason is required")
	ErrNotAsked   = errors.New("not one of the approvers that are asked")
	ErrNoApprover = errors.New("an approver has a name")
	ErrSelf       = errors.New("it is your own request: somebody else approves it")
)

// Param is one bound parameter.
type Param struct {
	Value  []byte
	Null   bool
	Binary bool
}

// Ask is what is to be approved. All of it that decides what would happen is in
// the fingerprint; the rest is for the people who decide.
type Ask struct {
	Run     string // of the agent; empty when it was not launched by postern run
	Agent   string
	Target  string
	Form    string // the protocol's word for the request: "query", "execute"
	Text    string // exact bytes, untrusted
	Params  []Param
	Context string // what else decides its meaning

	Session        string   // for people: where it was asked
	Request        uint64   // for people: its number in the session's recording
	Rule           string   // the rule that asks
	Approvers      []string // groups; each has to approve once. Empty: anyone
	Effects        []string // what it would do, "delete public.orders"
	ReasonRequired bool
	Within         time.Duration    // to decide
	ExecuteWithin  time.Duration    // to be used by a retry once approved; 0 is DefaultExecute
	Preview        *Preview         // nil: it was not to be run first
	Behalf         *engine.Identity // for whom the run is; nil: nobody was told
	UIDs           []uint32         // of who asks and of who launched the run, but for root's
	SelfAllowed    bool             // those may approve, and who answers for the run
	// Notify is called, once and before Submit blocks, with the approval that
	// this request waits for.
	Notify func(Approval)
}

// Preview is what a request has done that was run first and waits to be kept or
// undone.
type Preview struct {
	Ran     bool
	Why     string // it was not run: why
	Rows    int64
	Error   string
	Columns []string
	Sample  [][]string // masked
}

// Fingerprint identifies what was asked.
type Fingerprint [sha256.Size]byte

// Fingerprint is SHA-256 over run, agent, target, form, text, parameters, context,
// for whom it is and whose it is, each with its length before it, so that nothing can move from one
// into the next.
func (a *Ask) Fingerprint() Fingerprint {
	h := sha256.New()
	var size [8]byte
	put := func(s string) {
		binary.BigEndian.PutUint64(size[:], uint64(len(s)))
		h.Write(size[:])
		h.Write([]byte(s))
	}
	put("postern approval 1")
	put(a.Run)
	put(a.Agent)
	put(a.Target)
	put(a.Form)
	put(a.Text)
	binary.BigEndian.PutUint64(size[:], uint64(len(a.Params)))
	h.Write(size[:])
	for _, p := range a.Params {
		flags := [2]byte{}
		if p.Null {
			flags[0] = 1
		}
		if p.Binary {
			flags[1] = 1
		}
		h.Write(flags[:])
		put(string(p.Value))
	}
	put(a.Context)
	put(a.Behalf.Key())
	put(fmt.Sprint(a.UIDs))
	var f Fingerprint
	h.Sum(f[:0])
	return f
}

func (a *Ask) check(limit int) error {
	size := len(a.Text) + len(a.Context)
	for _, p := range a.Params {
		size += len(p.Value)
	}
	if size > limit || len(a.Params) > maxParams {
		return fmt.Errorf("%w: %d bytes, %d parameters", ErrTooLarge, size, len(a.Params))
	}
	return nil
}

// Vote is one approver's yes or no.
type Vote struct {
	Group  string             `json:"group,omitempty"` // the approver group it counts for
	UID    uint32             `json:"-"`               // of By on this host
	Who    []*engine.Identity `json:"-"`               // all that By has logged in as; none: root
	By     string             `json:"by"`
	Reason string             `json:"reason,omitempty"`
	At     time.Time          `json:"at"`
}

// Approval is what people see. Text, Params and Context come from the agent and
// are shown as such.
type Approval struct {
	ID             string
	Fingerprint    Fingerprint
	State          State
	Session        string // of the latest request that asked for it
	Request        uint64
	Run            string
	Agent          string
	Target         string
	Rule           string
	Form           string
	Text           string
	Params         []Param
	Context        string
	Effects        []string
	Approvers      []string
	ReasonRequired bool
	Votes          []Vote // the yeses, or the one no
	Preview        *Preview
	Behalf         *engine.Identity
	UIDs           []uint32
	SelfAllowed    bool
	Waiting        int // requests that wait for it now
	Created        time.Time
	DecideBy       time.Time
	ExecuteBy      time.Time // set once approved
	Ended          time.Time // set once the state is final
}

// Missing returns the approver groups that have not approved yet.
func (a *Approval) Missing() []string {
	var missing []string
	for _, g := range a.Approvers {
		voted := false
		for _, v := range a.Votes {
			voted = voted || v.Group == g
		}
		if !voted {
			missing = append(missing, g)
		}
	}
	return missing
}

// own says whether a request is made by or for who votes, or by what they answer
// for. Whatever else they are logged in as changes nothing about it. Root is
// nobody's other name.
func (a *Approval) own(v Vote) bool {
	if v.UID != 0 && slices.Contains(a.UIDs, v.UID) {
		return true
	}
	return a.Behalf != nil && slices.ContainsFunc(v.Who, func(who *engine.Identity) bool {
		b := a.Behalf
		owner := b.Owner != "" && (b.Owner == who.Subject || strings.EqualFold(b.Owner, who.Email) || b.Owner == who.Name)
		return b.Key() == who.Key() || owner
	})
}

// Decision is what Submit returns for a request that may go ahead.
type Decision struct {
	ID    string
	Votes []Vote
}

// Refusal is the error of Submit when a person said no or nobody decided. Is
// matches ErrDenied or ErrExpired.
type Refusal struct {
	ID     string
	By     string // who denied it
	Reason string // why, in that person's words
	Err    error
}

func (r *Refusal) Error() string {
	s := "approval " + r.ID + ": " + r.Err.Error()
	if r.By != "" {
		s += ": " + r.By
	}
	if r.Reason != "" {
		s += ": " + r.Reason
	}
	return s
}

func (r *Refusal) Unwrap() error { return r.Err }

// newID returns eight characters that can be read out and typed: 40 random
// bits, and a guess is worth nothing without the right to approve.
func newID() string {
	var b [5]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program first
	return idEncoding.EncodeToString(b[:])
}

// idEncoding has no i, l, o and u, which are misread or make words.
var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)
