package recording

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Report is what Verify found in a directory.
type Report struct {
	Head      Hash      `json:"head"` // last hash of the journal: keep it elsewhere to notice a roll-back of everything
	Journals  int       `json:"journals"`
	Sessions  int       `json:"sessions"` // files that were checked
	Events    uint64    `json:"events"`
	Bytes     int64     `json:"bytes"`
	NotClosed []string  `json:"not_closed,omitempty"` // sessions that live, or whose daemon was killed; all their events are whole
	Removed   int       `json:"removed"`              // by retention, on record
	Problems  []Problem `json:"problems,omitempty"`
}

// OK reports whether everything is as it was written.
func (r *Report) OK() bool { return len(r.Problems) == 0 }

// Problem is one disagreement between a file and the chain.
type Problem struct {
	What    What   `json:"what"`
	Path    string `json:"path"`
	Session string `json:"session,omitempty"`
	Detail  string `json:"detail"`
}

// What kind of problem.
type What string

const (
	Altered   What = "altered"   // the content does not follow the chain
	Cut       What = "cut"       // events that were there are gone from the end
	Grown     What = "grown"     // events were added after the end
	Exchanged What = "exchanged" // the file is not the one that the journal announced
	Missing   What = "missing"   // the journal knows the session, the file is gone
	Stray     What = "stray"     // a file that the journal does not know
	Forked    What = "forked"    // a journal that does not continue the one before it
)

func (p Problem) String() string { return fmt.Sprintf("%s: %s: %s", p.Path, p.What, p.Detail) }

// entry is what the journal says about one session.
type entry struct {
	opened  SessionOpened
	hash    Hash // of the journal frame
	closed  *SessionClosed
	removed bool
	seen    bool
}

type verifier struct {
	dir      string
	report   Report
	sessions map[string]*entry // by path below dir
	byID     map[string]*entry
	last     *Reader // the newest journal, kept open to read what is added meanwhile
}

// Verify checks every file in dir against its own chain and against the
// journal. It may run beside a daemon that writes there. The error says that
// the check could not be made, for instance for want of permission; what the
// check found is in the report.
func Verify(dir string) (*Report, error) {
	v := &verifier{dir: dir, sessions: map[string]*entry{}, byID: map[string]*entry{}}
	if err := v.journals(); err != nil {
		return nil, err
	}
	if v.last != nil {
		defer v.last.Close()
	}
	if err := v.files(); err != nil {
		return nil, err
	}
	for path, e := range v.sessions {
		if !e.seen && !e.removed {
			// Nothing opens a session and removes its file in one breath, so a
			// file that came into being after the walk is there now.
			if _, err := os.Stat(filepath.Join(dir, path)); err == nil {
				continue
			}
			v.problem(Missing, path, e.opened.Session, "the journal knows this session, the file is gone")
		}
		if e.removed {
			v.report.Removed++
		}
	}
	if v.last != nil {
		v.report.Head = v.last.Head()
	}
	return &v.report, nil
}

func (v *verifier) problem(what What, path, session, format string, args ...any) {
	v.report.Problems = append(v.report.Problems, Problem{what, path, session, fmt.Sprintf(format, args...)})
}

func (v *verifier) journals() error {
	paths, err := Journals(v.dir)
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		v.problem(Missing, JournalName(1), "", "there is no journal")
	}
	for i, path := range paths {
		name := filepath.Base(path)
		if want := JournalName(uint64(i) + 1); name != want {
			v.problem(Missing, want, "", "the journals are not numbered without a gap")
		}
		previous := v.last
		r, err := Open(path)
		if err != nil {
			if !errors.As(err, new(*BrokenError)) {
				return err
			}
			v.problem(Altered, name, "", "%v", err)
			continue
		}
		v.last = r
		v.report.Journals++
		if r.Header().Type != JournalFile {
			v.problem(Exchanged, name, "", "not a journal")
		}
		if err := v.readOn(previous); err != nil {
			return err
		}
		if previous != nil {
			previous.Close()
		}
	}
	return nil
}

// readOn reads what the newest journal holds by now. previous is the journal
// before it, when the first event is still to be read.
func (v *verifier) readOn(previous *Reader) error {
	name := filepath.Base(v.last.path)
	for {
		ev, err := v.last.Next()
		if err == io.EOF {
			return nil
		}
		if errors.As(err, new(*BrokenError)) {
			v.problem(Altered, name, "", "%v", err)
			return nil
		}
		if err != nil {
			return err
		}
		v.report.Events++
		if ev.Seq == 1 {
			v.link(name, ev, previous)
		}
		switch b := ev.Body.(type) {
		case *SessionOpened:
			if v.sessions[b.Path] != nil || v.byID[b.Session] != nil {
				v.problem(Altered, name, b.Session, "the journal opens this session twice")
			}
			e := &entry{opened: *b, hash: ev.Hash}
			v.sessions[b.Path], v.byID[b.Session] = e, e
		case *SessionClosed:
			if e := v.byID[b.Session]; e == nil || e.closed != nil {
				v.problem(Altered, name, b.Session, "the journal closes a session that is not open")
			} else {
				e.closed = b
			}
		case *SessionRemoved:
			if e := v.byID[b.Session]; e != nil {
				e.removed = true
			}
		}
	}
}

// link checks that a journal continues the one before it.
func (v *verifier) link(name string, ev Event, previous *Reader) {
	s, ok := ev.Body.(*Started)
	if previous != nil {
		// A start cuts off what a killed daemon left before it begins another.
		if t, err := previous.Tail(); err == nil && t.Used > 0 && previous.broken == nil {
			v.problem(Altered, filepath.Base(previous.path), "", "%d bytes follow its end", t.Used)
		}
	}
	switch {
	case !ok:
		v.problem(Altered, name, "", "the journal does not begin with its start")
	case previous == nil && s.Sequence > 1 && len(v.report.Problems) == 0:
		v.problem(Missing, name, "", "the journal before this one is gone")
	case previous == nil:
	case s.Previous != previous.Head() || s.PreviousLength != uint64(previous.Offset()):
		v.problem(Forked, name, "", "it continues the journal before it at %d with hash %s, where there is %d with %s",
			s.PreviousLength, s.Previous, previous.Offset(), previous.Head())
	}
}

func (v *verifier) files() error {
	return filepath.WalkDir(v.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() || filepath.Dir(path) == filepath.Clean(v.dir) || !strings.HasSuffix(path, ".rec") {
			return err
		}
		rel, err := filepath.Rel(v.dir, path)
		if err != nil {
			return err
		}
		e := v.sessions[rel]
		if e == nil && v.last != nil { // opened since the journal was read?
			if err := v.readOn(nil); err != nil {
				return err
			}
			e = v.sessions[rel]
		}
		return v.file(path, rel, e)
	})
}

func (v *verifier) file(path, rel string, e *entry) error {
	r, err := Open(path)
	if e == nil {
		return v.stray(r, err, rel)
	}
	e.seen = true
	id := e.opened.Session
	if err != nil {
		if errors.As(err, new(*BrokenError)) {
			v.problem(Altered, rel, id, "%v", err)
			return nil
		}
		return err
	}
	defer r.Close()
	v.report.Sessions++
	if h := r.Header(); h.Type != SessionFile || h.Genesis != e.opened.Genesis {
		v.problem(Exchanged, rel, id, "it is not the file that the journal announced")
		return nil
	}
	closed := e.closed
	broken, err := v.events(r, rel, e)
	if err != nil {
		return err
	}
	v.report.Bytes += r.Offset()
	if closed == nil {
		if broken != nil {
			v.problem(Altered, rel, id, "%v", broken)
		} else {
			v.report.NotClosed = append(v.report.NotClosed, id)
		}
		return nil
	}
	v.ending(r, rel, closed, broken)
	return nil
}

// stray deals with a file that the journal does not know. One without events,
// or of zeros alone, is what a daemon leaves that is killed between making the
// file and announcing it.
func (v *verifier) stray(r *Reader, err error, rel string) error {
	if err == nil {
		defer r.Close()
		if _, err = r.Next(); err == io.EOF {
			if t, err := r.Tail(); err == nil && t.Used == 0 {
				return nil
			}
		}
	} else if blank(filepath.Join(v.dir, rel)) {
		return nil
	}
	v.problem(Stray, rel, "", "the journal does not know this file")
	return nil
}

// blank reports whether a file holds no byte but zeros.
func blank(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, readAhead)
	for {
		n, err := f.Read(b)
		for _, c := range b[:n] {
			if c != 0 {
				return false
			}
		}
		if err != nil {
			return err == io.EOF
		}
	}
}

// events reads all of them and returns the *BrokenError that it ended with, if any.
func (v *verifier) events(r *Reader, rel string, e *entry) (broken, err error) {
	for {
		ev, err := r.Next()
		if err == io.EOF {
			return nil, nil
		}
		if errors.As(err, new(*BrokenError)) {
			return err, nil
		}
		if err != nil {
			return nil, err
		}
		v.report.Events++
		if ev.Seq > 1 {
			continue
		}
		if o, ok := ev.Body.(*Opened); !ok || o.Session != e.opened.Session || o.Journal != e.hash {
			v.problem(Exchanged, rel, e.opened.Session, "its first event is not bound to the place in the journal that announced it")
		}
	}
}

// ending compares what was read with what the journal says the file holds.
func (v *verifier) ending(r *Reader, rel string, c *SessionClosed, broken error) {
	length := uint64(r.Offset())
	size, _ := r.size()
	switch {
	case broken != nil:
		v.problem(Altered, rel, c.Session, "%v", broken)
	case length < c.Length:
		v.problem(Cut, rel, c.Session, "%d of %d events are left", r.Events(), c.Events)
	case length > c.Length:
		v.problem(Grown, rel, c.Session, "%d events where the journal says %d", r.Events(), c.Events)
	case r.Head() != c.Hash || r.Events() != c.Events:
		v.problem(Altered, rel, c.Session, "last hash %s where the journal says %s", r.Head(), c.Hash)
	case c.How == HowClosed && uint64(size) != length:
		v.problem(Grown, rel, c.Session, "%d bytes follow its end", uint64(size)-length)
	case c.How == HowBroken || c.How == HowMissing:
		v.problem(Altered, rel, c.Session, "found %s when the daemon started: %s", c.How, c.Note)
	}
}
