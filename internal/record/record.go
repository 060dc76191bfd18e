// Package record writes recordings: one append-only, hash-chained file per
// session and one journal per host, in the format of pkg/recording.
//
// Its promise is record before forward: when an append returns without an
// error, the event survives the death of the daemon, and after Commit(Host)
// also a power failure. When an append returns an error, the event is not on
// record, so what it is about must not happen; the session is then poisoned and
// every later append fails with the same error, so that no event is ever left
// out of the middle.
//
// It leaves to others: reading (pkg/recording), masking what is handed to it
// (the caller's detectors), retention, encryption. Start with Store.Session and
// Session.Request, then log.go, which is where bytes become durable.
package record

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/pkg/recording"
	"golang.org/x/sys/unix"
)

const (
	// DefaultTotalBytes is the quota of all recordings together when Options
	// names none: a week of a busy agent, and no surprise on a small disk.
	DefaultTotalBytes = 10 << 30
	// DefaultAgentBytes is the quota of one agent, so that a single one cannot
	// make every other's requests be denied.
	DefaultAgentBytes = 4 << 30
)

// ErrQuota is wrapped by the errors of appends that would exceed a quota.
var ErrQuota = errors.New("the quota for recordings is used up")

// ErrClosed is returned by appends to a session that was closed.
var ErrClosed = errors.New("the recording is closed")

// Durability is what an event on record survives.
type Durability uint8

const (
	Process Durability = iota // the death of the daemon, kill -9 included
	Host                      // power failure
)

// Options of a Store.
type Options struct {
	Durability Durability // the least of any Commit
	TotalBytes int64      // quota; 0 is DefaultTotalBytes
	AgentBytes int64      // quota per agent; 0 is DefaultAgentBytes
	Host       string     // the host's name, for the journal
	Now        func() time.Time
	maxJournal int64 // 0 is the constant; for tests
}

// Store is a directory of recordings. One process at a time has it open.
type Store struct {
	dir     string
	opts    Options
	lock    *os.File
	usage   usage
	commits commits

	mu      sync.Mutex
	journal *log
	unsaid  []recording.SessionClosed // closes that the journal had no room for yet
	closed  bool
}

// Meta is what a session is opened with.
type Meta struct {
	Flow       engine.Flow
	Target     string
	Protocol   string
	Generation uint64         // of the policy
	ConfigHash recording.Hash // of the configuration as loaded
}

// Open opens dir, making it if need be, and closes in the journal what an
// earlier daemon left open. A journal that was damaged is kept and continued in
// a new file that says so.
func Open(dir string, o Options) (*Store, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.TotalBytes == 0 {
		o.TotalBytes = DefaultTotalBytes
	}
	if o.AgentBytes == 0 {
		o.AgentBytes = DefaultAgentBytes
	}
	if o.maxJournal == 0 {
		o.maxJournal = maxJournal
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("recordings in %s are in use by another process: %w", dir, err)
	}
	s := &Store{dir: dir, opts: o, lock: lock}
	s.usage = usage{total: o.TotalBytes, perAgent: o.AgentBytes, agents: map[string]int64{}}
	if err := s.recover(); err != nil {
		lock.Close()
		return nil, err
	}
	return s, nil
}

// Close ends the journal. Sessions that are still open stay so, and are closed
// by the next Open.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	_, err := s.say(&recording.Stopped{})
	if s.opts.Durability == Host {
		err = errors.Join(err, s.journal.sync())
	}
	return errors.Join(err, s.journal.close(), s.lock.Close())
}

// Session opens the recording of a session. The id is Meta.Flow.Session.
func (s *Store) Session(m Meta) (*Session, error) {
	id := m.Flow.Session
	if !recording.ValidSession(id) {
		return nil, fmt.Errorf("%q cannot be the id of a session", id)
	}
	now := s.opts.Now()
	path := recording.SessionPath(id, now)
	if err := os.MkdirAll(filepath.Join(s.dir, filepath.Dir(path)), 0o700); err != nil {
		return nil, fmt.Errorf("record session: %w", err)
	}
	budget := s.usage.of(m.Flow.Agent)
	l, genesis, err := createLog(filepath.Join(s.dir, path), recording.SessionFile, budget, sessionExtent)
	if err != nil {
		return nil, fmt.Errorf("record session: %w", err)
	}
	said, err := s.announce(&recording.SessionOpened{
		Session: id, Path: path, Agent: m.Flow.Agent, Target: m.Target, Protocol: m.Protocol, Genesis: genesis,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("record session: %w", err), l.discard())
	}
	c := &Session{store: s, id: id, log: l}
	if err := c.open(m, said); err != nil {
		return nil, errors.Join(fmt.Errorf("record session: %w", err), c.Close(End{Error: "the recording could not be begun"}))
	}
	return c, nil
}

// announce puts a session into the journal and returns the hash of that frame.
func (s *Store) announce(o *recording.SessionOpened) (recording.Hash, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return recording.Hash{}, ErrClosed
	}
	if err := s.sayUnsaid(); err != nil {
		return recording.Hash{}, err
	}
	return s.say(o)
}

// dismiss puts the end of a session into the journal, or keeps it for when the
// journal has room again: the disk may be full just now.
func (s *Store) dismiss(c recording.SessionClosed) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.unsaid = append(s.unsaid, c)
	return s.sayUnsaid()
}

func (s *Store) sayUnsaid() error {
	for len(s.unsaid) > 0 {
		if _, err := s.say(&s.unsaid[0]); err != nil {
			return err
		}
		s.unsaid = s.unsaid[1:]
	}
	s.unsaid = nil
	return nil
}

// say appends to the journal, with s.mu held or before there is anyone else. It
// is not a log's append because a full journal is not poisoned: nothing was
// written, and what the event is about does not happen.
func (s *Store) say(b recording.Body) (recording.Hash, error) {
	frame := takeFrame()
	defer frame.release()
	frame.b = b.AppendTo(recording.BeginFrame(frame.b, s.journal.head, b.Kind(), s.opts.Now()))
	if err := s.journal.put(frame); err != nil {
		return recording.Hash{}, fmt.Errorf("journal: %w", err)
	}
	return s.journal.head, nil
}

func random() (r [16]byte) {
	rand.Read(r[:]) // never fails: crypto/rand ends the program first
	return r
}

func notExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
