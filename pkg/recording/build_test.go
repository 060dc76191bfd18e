package recording

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata/v1 anew: only for a version of the format that nobody has written yet")

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// moment is when everything in these tests happens, a second apart.
var moment = time.Date(2026, 3, 14, 9, 0, 0, 5, time.UTC)

// chain is a file in the making.
type chain struct {
	b      []byte
	head   Hash
	events uint64
}

func newChain(t FileType, random byte) *chain {
	c := &chain{b: AppendHeader(nil, t, [16]byte{random, 1, 2, 3})}
	copy(c.head[:], c.b[32:])
	return c
}

func (c *chain) add(bodies ...Body) *chain {
	for _, b := range bodies {
		at := moment.Add(time.Duration(c.events) * time.Second)
		frame, head := EndFrame(b.AppendTo(BeginFrame(nil, c.head, b.Kind(), at)))
		c.b, c.head = append(c.b, frame[hashSize:]...), head
		c.events++
	}
	return c
}

// everyKind has every kind of event, with nothing left out that it can hold.
func everyKind() []Body {
	later := append([]Body{
		&Container{Engine: "docker", ID: "0123456789ab", Name: "eager_ada"},
		&Identity{
			Issuer: "corp", Subject: "00u1", Name: "ada", Email: "ada@example.test", Owner: "grace", Groups: []string{"dba", "sre"}, Roles: []string{"writer"},
			Expires: moment, Narrowed: true, Allowed: []string{"orders:select", "web"},
		},
		&Identity{Issuer: "static"},
	}, shellKinds()...)
	return append(append(later, sessionKinds()...), journalKinds()...)
}

func sessionKinds() []Body {
	row := []byte{0, 2, 0, 0, 0, 1, 'a', 0xff, 0xff, 0xff, 0xff}
	return []Body{
		&Opened{
			Session: "s1", Agent: "planner", Run: "run-3", Cgroup: "/agents.slice/planner", CgroupID: 1 << 60, Netns: 3, PID: 4, TID: 5,
			UID: 1<<32 - 1, GID: 7, Comm: "py\xffthon", Exe: "/usr/bin/python3", Started: moment, Name: "orders-db",
			Original: netip.MustParseAddrPort("[fe80::1%eth0]:5432"), Target: "orders", Protocol: "postgres", Generation: 9,
			ConfigHash: Hash{1}, Journal: Hash{2},
		},
		&Intent{Purpose: "session", User: "app", Database: "orders", Parameters: []Pair{{"application_name", "psql"}, {"", ""}}},
		&Upstream{Address: "10.0.0.7:5432", TLS: "TLS 1.3", Verified: true, Took: 3 * time.Millisecond},
		&Request{
			ID: 1, Form: "query", Text: "SELECT 'ä' \x00\xff", Params: []Param{{Value: []byte{0, 0xff}, Binary: true}, {Null: true, Value: []byte{}}},
			Effects: []Effect{{"select", "public.orders"}, {"unknown", ""}}, Context: "role=app",
		},
		&Verdict{Request: 1, Action: "ask", Rule: "writes", Reason: "a person decides", Observed: true},
		&Approval{Request: 1, ID: "abcd2345", State: "approved", Approver: "ada", Reason: "as agreed"},
		&Fields{Request: 1, Fields: []Field{{Name: "a", Relation: "public.orders", Column: "a", Type: "text", Binary: true}, {}}},
		&Rows{Request: 1, Body: AppendRow(AppendRow(nil, row), row)},
		&Data{Request: 1, Direction: "down", Bytes: []byte("\x1b[2J")},
		&Denial{Request: 1, Code: "policy", Rule: "no-ddl", Reason: "no", Help: "ask"},
		&Outcome{Request: 1, Status: "ok", Tag: "SELECT 2", Rows: 2, Bytes: -1, Took: time.Second},
		&End{Error: "relay: reset", Requests: 1, Denied: 2, Rows: 3, Up: 4, Down: 1<<64 - 1},
	}
}

// shellKinds is what a shell leaves behind its request.
func shellKinds() []Body {
	return []Body{
		&Terminal{Request: 2, Type: "xterm-256color", Columns: 80, Rows: 24},
		&Stream{Request: 2, Stream: Stdout, Bytes: []byte("$ ")},
		&Stream{Request: 2, Stream: Stdin, Bytes: []byte("ls\xc3")},
		&Terminal{Request: 2, Columns: 1<<32 - 1, Rows: 50},
		&Stream{Request: 2, Stream: Stderr, Bytes: []byte("\x1b[31mno\x1b[m\r\n")},
		&File{Request: 3, Verb: "file-write", Path: "/srv/a\xff", Bytes: 7, SHA256: Hash{9}},
		&File{Request: 4, Verb: "file-rename", Path: "/a", To: "/b", Error: "permission denied"},
		&Exit{Request: 2, Status: 3},
		&Exit{Request: 5, Signal: "KILL"},
	}
}

func journalKinds() []Body {
	return []Body{
		&Started{Sequence: 1, Host: "h", PID: 2, Previous: Hash{3}, PreviousLength: 4, Note: "n"},
		&SessionOpened{Session: "s1", Path: "2026/03/14/s1.rec", Agent: "planner", Target: "orders", Protocol: "postgres", Genesis: Hash{5}},
		&SessionClosed{Session: "s1", How: HowClosed, Length: 640, Events: 3, Hash: Hash{6}, Note: "n"},
		&SessionRemoved{Session: "s1", Reason: "older than a year"},
		&Stopped{},
	}
}

// reader reads a file from memory.
func reader(t testing.TB, b []byte) *Reader {
	t.Helper()
	r, err := NewReader("memory", bytes.NewReader(b), int64(len(b)))
	must(t, err)
	return r
}

// directory is what a daemon that had two sessions and stopped leaves behind.
type directory map[string][]byte

const (
	journal1 = "journal-000001.rec"
	file1    = "2026/03/14/s1.rec"
	file2    = "2026/03/14/s2.rec"
)

func newDirectory() directory {
	journal := newChain(JournalFile, 0).add(&Started{Sequence: 1, Host: "h", PID: 2})
	d := directory{}
	for i, id := range []string{"s1", "s2"} {
		journal.session(d, id, byte(i+1))
	}
	d[journal1] = journal.add(&Stopped{}).b
	return d
}

// session adds a whole session to the journal and to d, with more before its end.
func (c *chain) session(d directory, id string, random byte, more ...Body) {
	path := SessionPath(id, moment)
	f := newChain(SessionFile, random)
	c.add(&SessionOpened{Session: id, Path: path, Agent: "planner", Target: "orders", Protocol: "postgres", Genesis: f.head})
	events := sessionKinds()
	opened := events[0].(*Opened)
	opened.Session, opened.Journal = id, c.head
	end := len(events) - 1
	f.add(events[:end]...).add(more...).add(events[end])
	d[path] = f.b
	c.add(&SessionClosed{Session: id, How: HowClosed, Length: uint64(len(f.b)), Events: f.events, Hash: f.head})
}

// write puts the directory's files below dir, and removes others.
func (d directory) write(t testing.TB, dir string) {
	t.Helper()
	must(t, os.RemoveAll(dir))
	must(t, os.MkdirAll(dir, 0o700))
	for path, b := range d {
		path = filepath.Join(dir, path)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, b, 0o600))
	}
}

func verified(t testing.TB, dir string) *Report {
	t.Helper()
	report, err := Verify(dir)
	must(t, err)
	return report
}
