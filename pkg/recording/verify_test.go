package recording

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Whatever is done to the directory of a daemon that has stopped, Verify says
// so, and what it is.
func TestVerify(t *testing.T) {
	other := newChain(JournalFile, 9).add(&Started{Sequence: 1, Host: "h", PID: 3})
	forked := directory{}
	other.session(forked, "s3", 9)
	for name, c := range map[string]struct {
		change func(directory)
		want   []What
	}{
		"nothing":                         {func(directory) {}, nil},
		"a session is gone":               {func(d directory) { delete(d, file1) }, []What{Missing}},
		"a session is cut":                {func(d directory) { d[file1] = lastEventCut(d[file1]) }, []What{Cut}},
		"a session has one event more":    {func(d directory) { d[file1] = oneMore(d[file1]) }, []What{Grown}},
		"zeros follow a session":          {func(d directory) { d[file1] = append(d[file1], 0) }, []What{Grown}},
		"sessions are exchanged":          {func(d directory) { d[file1], d[file2] = d[file2], d[file1] }, []What{Exchanged, Exchanged}},
		"a session was made up":           {func(d directory) { d[file1] = madeUp() }, []What{Cut, Exchanged}},
		"a session has another's place":   {func(d directory) { d[file1] = d[file2] }, []What{Exchanged}},
		"a session moved":                 {func(d directory) { d["2026/03/15/s1.rec"] = d[file1]; delete(d, file1) }, []What{Missing, Stray}},
		"a session was added":             {func(d directory) { d["2026/03/14/s3.rec"] = madeUp() }, []What{Stray}},
		"an empty file was left":          {func(d directory) { d["2026/03/14/s3.rec"] = nil }, nil},
		"room without a header was left":  {func(d directory) { d["2026/03/14/s3.rec"] = make([]byte, 100_000) }, nil},
		"a header was left":               {func(d directory) { d["2026/03/14/s3.rec"] = append(newChain(SessionFile, 5).b, 0, 0) }, nil},
		"noise was added":                 {func(d directory) { d["2026/03/14/s3.rec"] = []byte("noise") }, []What{Stray}},
		"the journal is gone":             {func(d directory) { delete(d, journal1) }, []What{Missing, Stray, Stray}},
		"the journal is another's":        {func(d directory) { d[journal1] = other.b }, []What{Missing, Stray, Stray}},
		"the journal is a session's file": {func(d directory) { d[journal1] = d[file1] }, []What{Altered, Exchanged, Stray, Stray}},
		"the journal is cut to its start": {func(d directory) {
			d[journal1] = newChain(JournalFile, 0).add(&Started{Sequence: 1, Host: "h", PID: 2}).b
		}, []What{Stray, Stray}},
		"the journal has another number": {func(d directory) { d[JournalName(2)] = d[journal1]; delete(d, journal1) }, []What{Missing}},
	} {
		t.Run(name, func(t *testing.T) {
			d, dir := newDirectory(), t.TempDir()
			c.change(d)
			d.write(t, dir)
			found(t, verified(t, dir), c.want)
		})
	}
}

func found(t *testing.T, r *Report, want []What) {
	t.Helper()
	var got []What
	for _, p := range r.Problems {
		got = append(got, p.What)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) || r.OK() != (len(want) == 0) {
		t.Errorf("found %v, want %v: %v", got, want, r.Problems)
	}
}

func lastEventCut(b []byte) []byte {
	return b[:len(b)-frameSize(frameHead+len((&End{Error: "relay: reset", Requests: 1, Denied: 2, Rows: 3, Up: 4, Down: 1<<64 - 1}).AppendTo(nil)))]
}

func oneMore(b []byte) []byte {
	c := &chain{b: bytes.Clone(b)}
	copy(c.head[:], b[len(b)-hashSize:])
	return c.add(&Verdict{}).b
}

func madeUp() []byte { return newChain(SessionFile, 1).add(sessionKinds()[1:]...).b }

// A changed byte anywhere, in a session or in the journal, is a problem or, at
// the end of the journal, another head than the one that was kept elsewhere.
func TestVerifyEveryByte(t *testing.T) {
	d, dir := newDirectory(), t.TempDir()
	d.write(t, dir)
	kept := verified(t, dir).Head
	for _, path := range []string{file1, journal1} {
		b := d[path]
		for i := range b {
			for _, change := range []byte{0x01, 0xff, b[i]} {
				if change == 0 {
					continue
				}
				bad := bytes.Clone(b)
				bad[i] ^= change
				must(t, os.WriteFile(filepath.Join(dir, path), bad, 0o600))
				report := verified(t, dir)
				if report.OK() && (path == file1 || report.Head == kept) {
					t.Fatalf("%s: byte %d changed by %#x is not noticed", path, i, change)
				}
			}
		}
		must(t, os.WriteFile(filepath.Join(dir, path), b, 0o600))
	}
}

// The same for a cut at any place.
func TestVerifyEveryCut(t *testing.T) {
	d, dir := newDirectory(), t.TempDir()
	d.write(t, dir)
	kept := verified(t, dir).Head
	for _, path := range []string{file1, journal1} {
		b := d[path]
		for n := range b {
			must(t, os.WriteFile(filepath.Join(dir, path), b[:n], 0o600))
			if report := verified(t, dir); report.OK() && (path == file1 || report.Head == kept) {
				t.Fatalf("%s: cut to %d bytes is not noticed", path, n)
			}
		}
		must(t, os.WriteFile(filepath.Join(dir, path), b, 0o600))
	}
}

// A journal continues the one before it where that one ends, and no other.
func TestVerifyForks(t *testing.T) {
	first := newChain(JournalFile, 0).add(&Started{Sequence: 1, Host: "h", PID: 2})
	longer := newChain(JournalFile, 0).add(&Started{Sequence: 1, Host: "h", PID: 2}, &Stopped{})
	next := func(c *chain) []byte {
		return newChain(JournalFile, 1).add(&Started{Sequence: 2, Previous: c.head, PreviousLength: uint64(len(c.b)), Note: "n"}).b
	}
	zeroed := bytes.Clone(longer.b)
	clear(zeroed[len(first.b):][:4]) // the length of the last event: it looks as if it was never finished
	for name, c := range map[string]struct {
		files directory
		want  []What
	}{
		"a chain":                     {directory{journal1: first.b, JournalName(2): next(first)}, nil},
		"an older first":              {directory{journal1: first.b, JournalName(2): next(longer)}, []What{Forked}},
		"a newer first":               {directory{journal1: longer.b, JournalName(2): next(first)}, []What{Forked}},
		"no first":                    {directory{JournalName(2): next(first)}, []What{Missing}},
		"an event hidden before":      {directory{journal1: zeroed, JournalName(2): next(first)}, []What{Altered}},
		"a second that is no journal": {directory{journal1: first.b, JournalName(2): []byte("noise")}, []What{Altered}},
		"one between is gone":         {directory{journal1: first.b, JournalName(3): next(first)}, []What{Missing}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c.files.write(t, dir)
			found(t, verified(t, dir), c.want)
		})
	}
}

// What retention removed on record is not missing.
func TestVerifyRemoved(t *testing.T) {
	d := directory{}
	journal := newChain(JournalFile, 0).add(&Started{Sequence: 1})
	journal.session(d, "s1", 1)
	journal.add(&SessionRemoved{Session: "s1", Reason: "old"})
	d = directory{journal1: journal.b}
	dir := t.TempDir()
	d.write(t, dir)
	report := verified(t, dir)
	found(t, report, nil)
	if report.Removed != 1 {
		t.Errorf("%+v", report)
	}
}

// A session that lives, or whose daemon was killed, is no problem.
func TestVerifyOpenSession(t *testing.T) {
	d := directory{}
	journal := newChain(JournalFile, 0).add(&Started{Sequence: 1})
	file := newChain(SessionFile, 1)
	journal.add(&SessionOpened{Session: "s1", Path: file1, Genesis: file.head})
	file.add(&Opened{Session: "s1", Journal: journal.head}, &Verdict{Request: 1})
	d[journal1], d[file1] = append(journal.b, make([]byte, 999)...), append(file.b, make([]byte, 999)...)
	dir := t.TempDir()
	d.write(t, dir)
	report := verified(t, dir)
	found(t, report, nil)
	if !slices.Equal(report.NotClosed, []string{"s1"}) || report.Events != 4 {
		t.Errorf("%+v", report)
	}
}

func TestSessions(t *testing.T) {
	d, dir := newDirectory(), t.TempDir()
	d.write(t, dir)
	list := func(f Filter) (ids []string) {
		for s, err := range Sessions(dir, f) {
			must(t, err)
			if _, ok := d[s.Path[len(dir)+1:]]; !ok || s.How != HowClosed || s.Events != 12 {
				t.Errorf("%+v", s)
			}
			ids = append(ids, s.Session)
		}
		return ids
	}
	opened := moment.Add(3e9) // of s2
	for _, c := range []struct {
		filter Filter
		want   string
	}{
		{Filter{}, "[s2 s1]"},
		{Filter{Agent: "planner", Target: "orders"}, "[s2 s1]"},
		{Filter{Agent: "coder"}, "[]"},
		{Filter{Target: "x"}, "[]"},
		{Filter{Since: opened}, "[s2]"},
		{Filter{Until: opened}, "[s1]"},
	} {
		if got := fmt.Sprint(list(c.filter)); got != c.want {
			t.Errorf("%+v: %s", c.filter, got)
		}
	}
	// What a broken journal still tells comes before its error.
	bad := maps.Clone(d)
	bad[journal1] = bytes.Clone(d[journal1])
	bad[journal1][len(bad[journal1])-1] ^= 1
	bad.write(t, dir)
	n, failed := 0, error(nil)
	for _, err := range Sessions(dir, Filter{}) {
		if err != nil {
			failed = err
		} else {
			n++
		}
	}
	if n != 2 || failed == nil {
		t.Errorf("%d sessions, %v", n, failed)
	}
}
