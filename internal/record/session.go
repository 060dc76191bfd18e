package record

import (
	"errors"
	"slices"
	"sync"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/pkg/recording"
)

// Session is the recording of one session. Its methods may be called from any
// goroutine. An event is on record, for the death of the daemon, when its
// method has returned nil.
type Session struct {
	store *Store
	id    string

	mu       sync.Mutex
	log      *log
	err      error // why nothing more can be appended
	named    bool  // the file's name survives a power failure
	requests uint64
	denied   uint64
	rows     uint64
	params   []recording.Param  // scratch
	effects  []recording.Effect // scratch
}

// ID returns the id of the session.
func (s *Session) ID() string { return s.id }

// Path returns where the file is.
func (s *Session) Path() string { return s.log.f.Name() }

// begin starts an event; s.mu is held.
func (s *Session) begin(k recording.Kind) *frame {
	f := takeFrame()
	f.b = recording.BeginFrame(f.b, s.log.head, k, s.store.opts.Now())
	return f
}

// commitFrame writes the event; s.mu is held.
func (s *Session) commitFrame(f *frame) error {
	defer f.release()
	if s.err != nil {
		return s.err
	}
	if err := s.log.put(f); err != nil {
		return s.poison(err)
	}
	return nil
}

// poison makes every later append fail; s.mu is held.
func (s *Session) poison(err error) error {
	if s.err == nil {
		s.err = err
	}
	return s.err
}

// Err returns why nothing more can be appended, or nil.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *Session) append(b recording.Body) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.begin(b.Kind())
	f.b = b.AppendTo(f.b)
	return s.commitFrame(f)
}

func (s *Session) open(m Meta, journal recording.Hash) error {
	f := &m.Flow
	err := s.append(&recording.Opened{
		Session: f.Session, Agent: f.Agent, Run: f.Run, Cgroup: f.Cgroup, CgroupID: f.CgroupID, Netns: f.Netns,
		PID: f.PID, TID: f.TID, UID: f.UID, GID: f.GID, Comm: f.Comm, Exe: f.Exe, Started: f.Started,
		Original: f.Original, Name: f.Name, Target: m.Target, Protocol: m.Protocol,
		Generation: m.Generation, ConfigHash: m.ConfigHash, Journal: journal,
	})
	if c := f.Container; err == nil && c.Engine != "" {
		err = s.append(&recording.Container{Engine: c.Engine, ID: c.ID, Name: c.Name})
	}
	if err == nil && (f.Identity != nil || f.Only != nil) {
		err = s.append(identityOf(f))
	}
	return err
}

func identityOf(f *engine.Flow) *recording.Identity {
	body := &recording.Identity{Narrowed: f.Only != nil}
	if i := f.Identity; i != nil {
		body.Issuer, body.Subject, body.Name, body.Email, body.Owner = i.Issuer, i.Subject, i.Name, i.Email, i.Owner
		body.Groups, body.Roles, body.Expires = i.Groups, i.Roles, i.Expires
	}
	for _, n := range f.Only {
		body.Allowed = append(body.Allowed, n.String())
	}
	return body
}

// Intent records what the client wants before its first request.
func (s *Session) Intent(in *engine.Intent) error {
	body := recording.Intent{Purpose: in.Purpose, User: in.User, Database: in.Database}
	for name, value := range in.Parameters {
		body.Parameters = append(body.Parameters, recording.Pair{Name: name, Value: value})
	}
	slices.SortFunc(body.Parameters, func(a, b recording.Pair) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return s.append(&body)
}

// Upstream records that the target was reached and logged in to.
func (s *Session) Upstream(u recording.Upstream) error { return s.append(&u) }

// Request records a request and returns its number in the session. What the
// detectors find in its text and parameters, the caller has masked.
func (s *Session) Request(r *engine.Request) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.params, s.effects = s.params[:0], s.effects[:0]
	for _, p := range r.Params {
		s.params = append(s.params, recording.Param(p))
	}
	for _, e := range r.Effects {
		s.effects = append(s.effects, recording.Effect(e))
	}
	body := recording.Request{
		ID: s.requests + 1, Form: r.Kind, Text: r.Text, Params: s.params, Effects: s.effects, Context: r.Context,
	}
	f := s.begin(recording.KindRequest)
	f.b = body.AppendTo(f.b)
	clear(s.params) // what they point to is the caller's
	clear(s.effects)
	if err := s.commitFrame(f); err != nil {
		return 0, err
	}
	s.requests++
	return s.requests, nil
}

// Verdict records what the policy made of a request.
func (s *Session) Verdict(v recording.Verdict) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.begin(recording.KindVerdict)
	f.b = v.AppendTo(f.b)
	return s.commitFrame(f)
}

// Approval records a change of an approval.
func (s *Session) Approval(a recording.Approval) error { return s.append(&a) }

// Fields records the beginning of a result set.
func (s *Session) Fields(request uint64, fields []engine.Field) error {
	body := recording.Fields{Request: request, Fields: make([]recording.Field, len(fields))}
	for i, f := range fields {
		body.Fields[i] = recording.Field{Name: f.Name, Relation: f.Relation(), Column: f.Column, Type: f.Type, Binary: f.Binary}
	}
	return s.append(&body)
}

// Row records one row, in the form of engine.Exchange.Row, as it goes to the
// client.
func (s *Session) Row(request uint64, row []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var size [4]byte
	f := s.begin(recording.KindRows)
	f.b = recording.AppendRowsHead(f.b, request, len(row)+len(size))
	f.b = recording.AppendRow(f.b, row)
	s.rows++
	return s.commitFrame(f)
}

// Rows records several rows at once, for less than Row takes for each: body was
// made with recording.AppendRow.
func (s *Session) Rows(request uint64, body []byte, count int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.begin(recording.KindRows)
	f.b = recording.AppendRowsHead(f.b, request, len(body))
	f.b = append(f.b, body...)
	s.rows += uint64(count)
	return s.commitFrame(f)
}

// Data records a piece of a stream.
func (s *Session) Data(request uint64, dir engine.Direction, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	body := recording.Data{Request: request, Direction: "up", Bytes: b}
	if dir == engine.Downward {
		body.Direction = "down"
	}
	f := s.begin(recording.KindData)
	f.b = body.AppendTo(f.b)
	return s.commitFrame(f)
}

// Stream records a piece of what a request reads or writes, after masking.
func (s *Session) Stream(request uint64, stream string, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	body := recording.Stream{Request: request, Stream: stream, Bytes: b}
	f := s.begin(recording.KindStream)
	f.b = body.AppendTo(f.b)
	return s.commitFrame(f)
}

// Terminal records on what a request's streams are shown from here on.
func (s *Session) Terminal(t recording.Terminal) error { return s.append(&t) }

// Exit records how a request's program ended.
func (s *Session) Exit(e recording.Exit) error { return s.append(&e) }

// File records something that was done to a file.
func (s *Session) File(f recording.File) error { return s.append(&f) }

// Denial records what the client is told instead of an answer; request 0 means
// that the whole session is refused.
func (s *Session) Denial(request uint64, d *engine.Denial) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	body := recording.Denial{Request: request, Code: d.Code.String(), Rule: d.Rule, Reason: d.Reason, Help: d.Help}
	f := s.begin(recording.KindDenial)
	f.b = body.AppendTo(f.b)
	s.denied++
	return s.commitFrame(f)
}

// Outcome records how an allowed request ended.
func (s *Session) Outcome(request uint64, o engine.Outcome) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	body := recording.Outcome{Request: request, Status: o.Status.String(), Tag: o.Tag, Rows: o.Rows, Bytes: o.Bytes, Took: o.Duration}
	f := s.begin(recording.KindOutcome)
	f.b = body.AppendTo(f.b)
	return s.commitFrame(f)
}

// End is what only the caller knows of a session's end.
type End struct {
	Error    string // for people, with the detail that clients are not told
	Up, Down uint64 // bytes from the client, and to it
}

// Close records the end, makes the file as long as its events and puts the end
// into the journal. It must be called once whatever happened before.
func (s *Session) Close(e End) error {
	s.mu.Lock()
	body := recording.End{Error: e.Error, Requests: s.requests, Denied: s.denied, Rows: s.rows, Up: e.Up, Down: e.Down}
	s.mu.Unlock()
	err := s.append(&body)
	if errors.Is(err, ErrClosed) {
		return err
	}
	if err == nil {
		err = s.Commit(Process) // which is more when the store says so
	}
	s.mu.Lock()
	closed := recording.SessionClosed{
		Session: s.id, How: recording.HowClosed, Length: uint64(s.log.pos), Events: s.log.events, Hash: s.log.head,
	}
	if s.err != nil {
		closed.How, closed.Note = recording.HowPoisoned, s.err.Error()
	}
	s.err = ErrClosed
	err = errors.Join(err, s.log.close())
	s.mu.Unlock()
	return errors.Join(err, s.store.dismiss(closed))
}
