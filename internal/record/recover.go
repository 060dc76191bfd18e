package record

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/postern/postern/pkg/recording"
	"golang.org/x/sys/unix"
)

// maxJournal is when a start begins a new journal file, so that no single one
// grows for years.
const maxJournal = 64 << 20

// found is what the journals say about one session.
type found struct {
	recording.SessionOpened
	closed, removed bool
}

// recover reads the journals, continues the last, and closes what was left open.
func (s *Store) recover() error {
	s.dir = filepath.Clean(s.dir)
	paths, err := recording.Journals(s.dir)
	if err != nil {
		return err
	}
	sessions := map[string]*found{}
	var order []*found
	var last *recording.Reader
	var lastErr error
	for _, path := range paths {
		if last != nil {
			last.Close()
		}
		last, lastErr = readJournal(path, func(ev recording.Event) {
			switch b := ev.Body.(type) {
			case *recording.SessionOpened:
				f := &found{SessionOpened: *b}
				sessions[b.Session] = f
				order = append(order, f)
			case *recording.SessionClosed:
				if f := sessions[b.Session]; f != nil {
					f.closed = true
				}
			case *recording.SessionRemoved:
				if f := sessions[b.Session]; f != nil {
					f.removed = true
				}
			}
		})
		if lastErr != nil && !errors.As(lastErr, new(*recording.BrokenError)) {
			return lastErr
		}
	}
	if last != nil {
		defer last.Close()
	}
	if err := s.continueJournal(paths, last, lastErr); err != nil {
		return err
	}
	for _, f := range order {
		if err := s.settle(f); err != nil {
			return errors.Join(err, s.journal.close())
		}
	}
	return nil
}

// readJournal returns the reader at the end of the file; it is nil when not
// even the header could be read.
func readJournal(path string, each func(recording.Event)) (*recording.Reader, error) {
	r, err := recording.Open(path)
	if err != nil {
		return nil, err
	}
	for {
		ev, err := r.Next()
		if err == io.EOF {
			return r, nil
		}
		if err != nil {
			return r, err
		}
		each(ev)
	}
}

// continueJournal opens the last journal behind its last event, or begins a new
// one that links to it.
func (s *Store) continueJournal(paths []string, last *recording.Reader, broken error) error {
	started := recording.Started{Sequence: newest(paths), Host: s.opts.Host, PID: uint32(os.Getpid())}
	if len(paths) > 0 && broken == nil && last.Offset() < s.opts.maxJournal {
		l, err := reopenLog(paths[len(paths)-1], last, free, journalExtent)
		if err != nil {
			return fmt.Errorf("continue the journal: %w", err)
		}
		s.journal = l
		_, err = s.say(&started)
		return err
	}
	if len(paths) > 0 {
		started.Sequence++
		started.Note = "the journal before was long enough"
	}
	if broken != nil {
		started.Note = "the journal before is damaged: " + broken.Error()
	} else if last != nil {
		// What a killed writer left behind the last event goes, as in reopenLog.
		if err := os.Truncate(paths[len(paths)-1], last.Offset()); err != nil {
			return fmt.Errorf("end a journal: %w", err)
		}
	}
	if last != nil {
		started.Previous, started.PreviousLength = last.Head(), uint64(last.Offset())
	}
	// Under another name until the first event is in it: a journal is never
	// seen without its link to the one before.
	path := filepath.Join(s.dir, recording.JournalName(started.Sequence))
	os.Remove(path + ".new")
	l, _, err := createLog(path+".new", recording.JournalFile, free, journalExtent)
	if err != nil {
		return fmt.Errorf("begin a journal: %w", err)
	}
	s.journal = l
	if _, err := s.say(&started); err != nil {
		return errors.Join(err, l.discard())
	}
	// Never in the place of another, whatever became of the journals' numbers.
	if err := unix.Renameat2(unix.AT_FDCWD, path+".new", unix.AT_FDCWD, path, unix.RENAME_NOREPLACE); err != nil {
		return errors.Join(fmt.Errorf("begin a journal: %w", err), l.discard())
	}
	return nil
}

// newest is the number of the last journal, 1 when there is none. It is taken
// from the names: should one have been deleted, a count of them would be the
// number of another.
func newest(paths []string) uint64 {
	number := uint64(max(len(paths), 1))
	for _, path := range paths {
		var n uint64
		if _, err := fmt.Sscanf(filepath.Base(path), "journal-%d.rec", &n); err == nil {
			number = max(number, n)
		}
	}
	return number
}

// free is the budget of journals: they are small, and without one there would
// be no recording at all.
func free(int64) error { return nil }

// settle counts the room of a session's file, and closes it in the journal when
// nobody has.
func (s *Store) settle(f *found) error {
	path := filepath.Join(s.dir, f.Path)
	if !f.closed && !f.removed {
		c := examine(path, f)
		if _, err := s.say(&c); err != nil {
			return err
		}
	}
	st, err := os.Lstat(path)
	if notExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	s.usage.add(f.Agent, blocks(st.Size()))
	return nil
}

// examine finds out what a session file holds whose daemon was killed. It cuts
// off the zero bytes that were made ahead and nothing else.
func examine(path string, f *found) recording.SessionClosed {
	c := recording.SessionClosed{Session: f.Session, How: recording.HowRecovered}
	r, err := recording.Open(path)
	if err != nil {
		c.How, c.Note = recording.HowBroken, err.Error()
		if notExist(err) {
			c.How, c.Note = recording.HowMissing, ""
		}
		return c
	}
	defer r.Close()
	for err == nil {
		_, err = r.Next()
	}
	if err != io.EOF {
		c.How, c.Note = recording.HowBroken, err.Error()
	}
	c.Length, c.Events, c.Hash = uint64(r.Offset()), r.Events(), r.Head()
	tail, err := r.Tail()
	if err == nil && tail.Used < tail.Bytes {
		err = os.Truncate(path, r.Offset()+tail.Used)
	}
	if tail.Used > 0 && c.Note == "" {
		c.Note = fmt.Sprintf("%d bytes of an event that was never finished", tail.Used)
	}
	if err != nil {
		c.Note += " (" + err.Error() + ")"
	}
	return c
}
