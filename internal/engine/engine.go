// Package engine is the contract between the gateway and the protocols: what a
// protocol is given, what it must do, and the only ways in which a request may
// go upstream and a response may come back.
//
// It holds types and no behaviour. Start with Protocol and Engine, which a
// protocol implements, then Gate and Exchange, which the gateway implements.
// The order inspect → decide → record → forward → mask is not here but in
// internal/relay, once per shape of protocol.
package engine

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wire"
)

// Protocol is one entry of the list in cmd/posternd.
type Protocol struct {
	Name  string   // policy keyword, metric label, record type
	Ports []uint16 // well-known ports, for messages to people
	Verbs []string // every verb of an Effect this protocol can produce
	Facts []Fact   // every fact its requests may carry, for the policy's type check
	// Pivots is examples of effects that act outside of the gateway, of every kind:
	// a policy that allows one is warned of.
	Pivots    []Effect
	PivotHelp string                    // what to do about such a rule
	New       func(Env) (Engine, error) // a fresh engine for one connection
	// TryLogin logs in to an upstream that was dialled, and takes its leave: for
	// operators, who are told its error. The caller closes the connection.
	TryLogin func(context.Context, *wire.Conn, Login, Limits) error
}

// Env is what the gateway hands to a fresh engine.
type Env struct {
	Flow        Flow
	Target      string
	Placeholder secret.Placeholder // what this agent holds for this target
	AgentAuth   string             // how the agent proves it, a word of the protocol; empty: the protocol's default
	ServerTLS   *tls.Config        // toward the agent: a leaf of the host CA for the name it dialled
	// HostKeys is the same for SSH: the gateway's keys for that name.
	HostKeys func() ([]HostKey, error)
	Limits   Limits
	Log      *slog.Logger
}

// Limits bound what one connection may take. All are set; none is zero.
type Limits struct {
	MessageBytes int           // the longest single message, both ways, that is held in memory
	HeldBytes    int           // what a client may send while its request waits for a person
	Handshake    time.Duration // accept to the end of Greet, and upstream dial to login done
	Statements   int           // named statements and portals an engine remembers
}

// Engine is one connection's protocol. Its methods run on the session's
// goroutine, one after the other: Greet, then Relay or Refuse.
type Engine interface {
	// Greet speaks with the client until it is known what the client wants,
	// and has proven to hold the placeholder. Nothing has been dialled. It may
	// upgrade the connection to TLS. An error is told to nobody but the log:
	// what the client should hear, Greet has said already.
	Greet(ctx context.Context, client *wire.Conn) (Intent, error)
	// Relay dials through up when first needed, logs in and relays until one
	// side ends. It returns after every goroutine of its own has ended. A
	// *Denial among its errors has been told to the client already.
	Relay(ctx context.Context, client *wire.Conn, up Upstream, gate Gate) error
	// Refuse tells the client why there is no session. The connection is
	// closed after it.
	Refuse(client *wire.Conn, d *Denial)
}

// Quiescer is what an Engine may be besides. Quiesce says whether nothing of its
// session is under way, no request and no transaction. Such a session takes no
// request from then on: it is ended next, and nothing is lost by that. Quiesce may
// be called by any goroutine, as long as Relay runs.
type Quiescer interface{ Quiesce() bool }

// Flow is what the kernel attests about one connection.
type Flow struct {
	Session  string         // the session's id, also shown to the agent for support
	Agent    string         // the configured agent whose cgroup the caller is in
	Run      string         // the run's cgroup name when launched by postern run
	Cgroup   string         // path of the caller's cgroup
	CgroupID uint64         // inode of that cgroup
	Netns    uint64         // cookie of the caller's network namespace
	PID      uint32         // process id (tgid) at connect
	TID      uint32         // thread id at connect
	UID, GID uint32         // at connect
	Comm     string         // the thread's name at connect, chosen by the agent
	Exe      string         // /proc/PID/exe, read at accept: racy, see docs/security.md
	Started  time.Time      // when connect was called
	Original netip.AddrPort // where the agent dialled
	Name     string         // the name the resolver had answered that address for
	Unclear  string         // such names, when they are of different targets and Name is empty

	Container Container

	Launcher uint32      // uid of who launched the run; 0: root, or it is not known
	Identity *Identity   // on whose behalf; nil: nobody was told
	Only     []Narrowing // what the run was launched with; nil: all that its policy allows
}

// Container is the container that the caller is in. Engine is empty when it is
// in none, Name when it is not known.
type Container struct{ Engine, ID, Name string }

// String is for logs: the name where it is known.
func (c Container) String() string {
	if c.Name == "" && len(c.ID) > 12 {
		return c.Engine + ":" + c.ID[:12]
	}
	return strings.TrimSuffix(c.Engine+":"+cmp.Or(c.Name, c.ID), ":")
}

// Intent is what a client wants from a target before its first request.
type Intent struct {
	Purpose    string            // PurposeSession, or a protocol's word for a connection of another kind, such as "cancel"
	User       string            // the placeholder's
	Database   string            // as the agent named it
	Parameters map[string]string // start-up parameters that are decisions
}

// ErrCredential is what errors of Upstream.Conn match when it is the credential
// that could not be had, which is no fault of the upstream's.
var ErrCredential = errors.New("the credential cannot be fetched")

// PurposeSession is the purpose of what logs in to the upstream.
const PurposeSession = "session"

// Upstream reaches the target. It is the gateway's; the engine calls it when
// the protocol first needs the other end.
type Upstream interface {
	// Conn dials the target by its configured name, checks the address, and
	// fetches the credential, which is wiped at the next Conn and when the session
	// ends. The caller closes the connection. Errors name neither address nor
	// credential.
	Conn(ctx context.Context) (*wire.Conn, Login, error)
	// Refused tells that the upstream did not take the credential of the last Conn,
	// which may have been changed where it comes from. It says whether there is
	// another one now, so that Conn is worth one more try: the first time only.
	Refused(ctx context.Context) bool
}

// Login is how to log in to the upstream that was dialled.
type Login struct {
	Credential secret.Credential
	TLS        *tls.Config // nil: the target is configured without TLS
	Hidden     []string    // names of the upstream that the agent is not to see: host, address
	Verified   bool        // TLS verifies chain and name, so that a cleartext password may be sent
	Known      KnownHosts  // what its SSH host key is verified by
}

// Gate is the only way upstream. Its methods are called from one goroutine at a
// time.
type Gate interface {
	// Submit decides the request, waits for people where the policy asks for
	// them, and puts it on record. When it returns an Exchange the request may
	// be forwarded, once. Otherwise the error is a *Denial, which is on record
	// too and is told to the client. Cancelling ctx ends the wait.
	Submit(ctx context.Context, r *Request) (Exchange, error)
	// SubmitNow is Submit for a caller that cannot wait. When Submit might, for a
	// person or for the disk, now is false and nothing has happened.
	SubmitNow(r *Request) (x Exchange, now bool, err error)
	// Would decides as Submit does but neither waits, nor records, nor opens an
	// exchange: nil, or the *Denial that Submit is sure to return. For requests
	// that only prepare others.
	Would(r *Request) *Denial
	// Names says whether a rule for the target names the verb, rather than by "*":
	// for what is asked only where the policy wants it asked.
	Names(verb string) bool
	// Scrub replaces real secrets and what detectors find in text that the
	// upstream wrote outside any exchange. The slice returned may be b.
	Scrub(b []byte) []byte
	// Scrubs says whether the policy has detectors for the target, so that Scrub
	// may change more than the session's own secret.
	Scrubs() bool
	// Masked returns the patterns of the columns that the policy masks for this
	// target, such as "customers.email" or "*.ssn"; empty when there are none.
	Masked() []string
	// Restore returns the value that the agent knows by a pseudonym, of a column
	// that is masked with pseudonyms. It is sure when nothing but a pseudonym has
	// the form of v: digits may be one, or what they say.
	Restore(f Field, v []byte) (real []byte, sure, ok bool)
	// Beside returns another gate of the same session, for requests that are
	// decided while one of this gate waits: a channel has one of its own.
	Beside() Gate
	// Reenter finds the target that an agent would reach by dialling this host and
	// port. A denial says that there is none; what the policy says of the target
	// the client learns on the connection itself.
	Reenter(host string, port uint16) (Reentry, *Denial)
}

// Causes with which the context of Submit is cancelled while a request waits
// for a person. An approval outlives a client that is gone, so that its retry
// finds it; it does not outlive a client that took its request back.
var (
	ErrWithdrawn = errors.New("the client took its request back")
	ErrGone      = errors.New("the client is gone")
)

// Exchange is one allowed request and its answer. Its methods are called from
// one goroutine at a time, but for its streams.
type Exchange interface {
	// Result begins a result set and returns one Masker per field, nil where
	// values pass as they are. The slice is the caller's.
	Result(fields []Field) []Masker
	// Row puts one row on record, as it goes to the client: a big-endian int16
	// count, then per value an int32 length (-1 is NULL) and the bytes. It is
	// PostgreSQL's DataRow body and the row form of pkg/recording. A denial means
	// that the agent may not have it, nor anything after it of this answer; it is
	// on record.
	Row(body []byte) *Denial
	// Data puts a piece of a stream on record, as it goes to the client or, for
	// Upward, as it came from it; Downward it may be denied as Row is, rows being
	// how many rows the piece is.
	Data(dir Direction, b []byte, rows int) *Denial
	// Stream begins a stream of the exchange. Streams end before End is called.
	Stream(kind StreamKind) Stream
	// Terminal notes what the streams are shown on, before they begin, and that its
	// size changed.
	Terminal(t Terminal)
	// File puts on record what was done to a file, at its end.
	File(f File)
	// Charge counts bytes that go to the client without being on record, as those
	// of files do. It may be denied as Row is.
	Charge(bytes int) *Denial
	// Text masks free text that belongs to the answer, such as an error. The
	// slice returned may be b.
	Text(b []byte) []byte
	// Held says that people have not decided yet: the request may be run only so
	// that all of it can be undone, and nothing of its answer may reach the client
	// before Settle has returned nil. Only requests with Holds are held.
	Held() bool
	// Settle asks people, once, after a held request has run or when it turned out
	// that it cannot be run first. Nil: what was done stays, or it may be run now.
	// Otherwise what was done is undone and the denial, which is on record, told.
	// pending is called when it starts to wait.
	Settle(ctx context.Context, p Preview, pending func(Pending)) *Denial
	// End closes the exchange, exactly once.
	End(Outcome)
}

// Direction of bytes in a session.
type Direction uint8

const (
	Upward   Direction = iota // client to upstream
	Downward                  // upstream to client
)

// Masker masks the values of one field. The slice returned may be value itself
// or live until the next call; null stands for NULL and is returned for it.
type Masker interface {
	Mask(value []byte) (masked []byte, null bool)
}

// Field describes one column of a result for masking.
type Field struct {
	Name    string   // as the client sees it
	Schema  string   // of the table it comes from
	Table   string   // empty when computed
	Column  string   // the column's own name there, empty when no mask can name it
	Type    string   // "text", "json", "jsonb", "int4", … ; empty when unknown
	Binary  bool     // the value is in binary format
	Derived []string // for a computed field: the masked columns ("schema.table.column") it may have been computed from
}

// Request is one thing that a client asks for.
type Request struct {
	Kind    string         // the protocol's word: "query", "execute", "call"
	Text    string         // as the client wrote it, for rules, people and the record
	Params  []Param        // bound parameters, part of what an approval is bound to
	Effects []Effect       // all it would do; empty means unknown, never nothing
	Facts   map[string]any // by Fact.Name; a fact that is missing is unknown
	Context string         // what else decides its meaning, bound into approvals: role, search_path, open transaction
	Memo    any            // comparable; equal Memo promises equal Effects and Facts, nil promises nothing
	Passing map[string]any // facts of this moment (Fact.Passing), about which Memo promises nothing
	Count   int            // statements that it is charged as; 0 counts as one
	Writes  int            // of them, those that may change something
	Holds   bool           // it can be run so that it is undone unless its exchange settles
	Unheld  string         // why it cannot, where a rule may ask for that
	Upkeep  bool           // it only keeps the session going, and is charged to no budget
	Raw     bool           // what it reads and writes, but for standard error, is no text: detectors would break it
	Pending func(Pending)  // called when it starts to wait for a person; may be nil
	Refused *Denial        // set by whoever could not understand it: it is recorded and denied with these words
}

// Param is one bound parameter.
type Param struct {
	Value  []byte
	Null   bool
	Binary bool
}

// Effect is one thing a request would do.
type Effect struct {
	Verb   string // a word of Protocol.Verbs
	Object string // "schema.table", a function, a parameter; empty when unknown
}

// The verbs that are matched by rules that name them and by nothing else.
const (
	Unknown = "unknown" // an effect that could not be determined
	Filter  = "filter"  // a masked column decides what comes back. The object is the column
	Derive  = "derive"  // a masked column is written elsewhere. The object is the column
)

// Fact declares a fact for the type check of policies.
type Fact struct {
	Name string // below "request", such as "sql.by_key"
	Type FactType
	Help string

	Passing bool // it is among Request.Passing
}

// FactType is the type of a fact's value.
type FactType uint8

const (
	Bool    FactType = iota // bool
	Int                     // int64
	Text                    // string
	TextSet                 // []string
)

// Pending tells a client that its request waits.
type Pending struct {
	ID       string // of the approval
	Rule     string
	DecideBy time.Time
	Help     string // what the client should know besides, such as how much of a budget is left
}

// Preview is what a held request has done, for the people who decide whether it
// stays.
type Preview struct {
	Ran    bool
	Why    string     // where it was not run: why
	Rows   int64      // that it changed
	Error  string     // it failed with this
	Fields []Field    // of Sample
	Sample [][][]byte // some of the rows, as the upstream sent them; nil is NULL
}

// Outcome is how an exchange ended.
type Outcome struct {
	Status   Status
	Tag      string // the protocol's own word for what was done, such as "DELETE 3"
	Rows     int64
	Bytes    int64 // of the answer; 0: those of its streams, and those charged
	Exit     *Exit // of a program; nil: none was told
	Duration time.Duration
}

// Exit is how a program ended.
type Exit struct {
	Status uint32
	Signal string // that ended it, as SSH names them, such as "TERM"; empty: it ended with Status
}

// Status of an outcome.
type Status uint8

const (
	OK     Status = iota
	Failed        // the upstream said no
	Broken        // the connection ended before the answer
)

func (s Status) String() string { return [...]string{"ok", "failed", "broken"}[s] }

// Denial is the only error that a client is told.
type Denial struct {
	Code   Code
	Rule   string // the rule that decided, empty when none did
	Reason string // why, in a sentence without the final stop
	Help   string // what to do instead
}

// Code says what kind of denial it is, so that a protocol can pick its own.
type Code uint8

const (
	ByPolicy    Code = iota // a rule, or no rule, decided
	ByPerson                // a person said no
	Expired                 // nobody decided in time
	Cancelled               // the client took it back
	Limit                   // a limit was reached
	Unavailable             // it cannot be decided, recorded or reached now
	Malformed               // the request does not follow the protocol
	Misuse                  // a placeholder where it does not belong
	Ended                   // an operator ended the session: a reload, a restart, idleness
	Exhausted               // a budget is used up
)

func (c Code) String() string {
	return [...]string{"policy", "person", "expired", "cancelled", "limit", "unavailable", "malformed", "misuse", "ended", "budget"}[c]
}

func (d *Denial) Error() string {
	s := d.Reason
	if d.Rule != "" {
		s = "rule " + d.Rule + ": " + s
	}
	return s
}
