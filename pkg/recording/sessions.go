package recording

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Journals returns the paths of the journal files in dir, oldest first.
func Journals(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, "journal-") && strings.HasSuffix(name, ".rec") {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths, nil // ReadDir sorts, and the numbers have leading zeros
}

// JournalName is the file name of the journal with this sequence number.
func JournalName(sequence uint64) string { return fmt.Sprintf("journal-%06d.rec", sequence) }

// SessionPath is where the file of a session lies below the directory.
func SessionPath(id string, began time.Time) string {
	return filepath.Join(began.UTC().Format("2006/01/02"), id+".rec")
}

// ValidSession reports whether id can be the id of a session.
func ValidSession(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for _, c := range []byte(id) {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// Filter selects sessions; a zero field selects all.
type Filter struct {
	Agent  string
	Target string
	Since  time.Time // opened then or later
	Until  time.Time // opened before
}

func (f Filter) match(s *Summary) bool {
	return (f.Agent == "" || f.Agent == s.Agent) && (f.Target == "" || f.Target == s.Target) &&
		(f.Since.IsZero() || !s.Opened.Before(f.Since)) && (f.Until.IsZero() || s.Opened.Before(f.Until))
}

// Summary is what the journal knows of a session.
type Summary struct {
	Session  string    `json:"session"`
	Path     string    `json:"path"`
	Agent    string    `json:"agent"`
	Target   string    `json:"target"`
	Protocol string    `json:"protocol"`
	Opened   time.Time `json:"opened"`
	Closed   time.Time `json:"closed,omitzero"`
	How      string    `json:"how,omitempty"` // empty while it is open
	Length   uint64    `json:"length,omitempty"`
	Events   uint64    `json:"events,omitempty"`
	Removed  bool      `json:"removed,omitempty"`
}

// Sessions yields the sessions that the journal of dir knows, newest first. It
// opens no session file; see Open for that and Verify for whether the files are
// what the journal says. A broken journal ends the sequence with its error,
// behind the sessions that could be read.
func Sessions(dir string, f Filter) iter.Seq2[Summary, error] {
	return func(yield func(Summary, error) bool) {
		all, err := readSummaries(dir)
		for _, s := range slices.Backward(all) {
			if f.match(&s) && !yield(s, nil) {
				return
			}
		}
		if err != nil {
			yield(Summary{}, err)
		}
	}
}

func readSummaries(dir string) ([]Summary, error) {
	paths, err := Journals(dir)
	if err != nil {
		return nil, err
	}
	var all []Summary
	index := map[string]int{}
	var errs []error
	for _, path := range paths {
		errs = append(errs, readJournal(path, func(ev Event) {
			switch b := ev.Body.(type) {
			case *SessionOpened:
				index[b.Session] = len(all)
				all = append(all, Summary{
					Session: b.Session, Path: filepath.Join(dir, b.Path), Agent: b.Agent,
					Target: b.Target, Protocol: b.Protocol, Opened: ev.Time,
				})
			case *SessionClosed:
				if i, ok := index[b.Session]; ok {
					all[i].Closed, all[i].How, all[i].Length, all[i].Events = ev.Time, b.How, b.Length, b.Events
				}
			case *SessionRemoved:
				if i, ok := index[b.Session]; ok {
					all[i].Removed = true
				}
			}
		}))
	}
	return all, errors.Join(errs...)
}

func readJournal(path string, each func(Event)) error {
	r, err := Open(path)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		ev, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		each(ev)
	}
}
