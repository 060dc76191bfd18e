package record

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/pkg/recording"
)

// verified fails the test unless everything in dir is as it was written.
func verified(t testing.TB, dir string) *recording.Report {
	t.Helper()
	report, err := recording.Verify(dir)
	must(t, err)
	if !report.OK() {
		t.Fatal("the recordings do not verify:", report.Problems)
	}
	return report
}

// summary is what the journal says of a session.
func summary(t testing.TB, dir, id string) recording.Summary {
	t.Helper()
	for s, err := range recording.Sessions(dir, recording.Filter{}) {
		must(t, err)
		if s.Session == id {
			return s
		}
	}
	t.Fatalf("the journal does not know session %s", id)
	return recording.Summary{}
}

// What the methods of a Session are given is on record, in their order.
func TestSession(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{Host: "h"})
	c, err := s.Session(meta("s1"))
	must(t, err)
	row := []byte{0, 1, 0, 0, 0, 1, 'a'}
	must(t, c.Intent(&engine.Intent{Purpose: "session", User: "app", Database: "d", Parameters: map[string]string{"b": "2", "a": "1"}}))
	must(t, c.Upstream(recording.Upstream{Address: "10.0.0.1:5432", Verified: true, Took: 5}))
	if n, err := c.Request(aRequest); n != 1 || err != nil {
		t.Error("the first request:", n, err)
	}
	must(t, c.Verdict(recording.Verdict{Request: 1, Action: "ask", Rule: "r"}))
	must(t, c.Approval(recording.Approval{Request: 1, ID: "x", State: "pending"}))
	must(t, c.Fields(1, []engine.Field{{Name: "n", Schema: "public", Table: "orders", Column: "c", Type: "text", Binary: true}}))
	must(t, c.Row(1, row))
	must(t, c.Rows(1, recording.AppendRow(recording.AppendRow(nil, row), row), 2))
	must(t, c.Data(1, engine.Upward, []byte("up")))
	must(t, c.Data(1, engine.Downward, []byte("down")))
	must(t, c.Terminal(recording.Terminal{Request: 1, Type: "xterm", Columns: 80, Rows: 24}))
	must(t, c.Stream(1, recording.Stderr, []byte("err")))
	must(t, c.File(recording.File{Request: 1, Verb: "file-read", Path: "/a", Bytes: 3}))
	must(t, c.Exit(recording.Exit{Request: 1, Status: 1}))
	must(t, c.Denial(0, &engine.Denial{Code: engine.Ended, Rule: "r", Reason: "w", Help: "h"}))
	must(t, c.Outcome(1, engine.Outcome{Status: engine.Failed, Tag: "t", Rows: 3, Bytes: 4, Duration: 5}))
	if n, err := c.Request(&engine.Request{Text: "two"}); n != 2 || err != nil {
		t.Error("the second request:", n, err)
	}
	must(t, c.Close(End{Error: "e", Up: 6, Down: 7}))
	want := []recording.Body{
		&recording.Intent{Purpose: "session", User: "app", Database: "d", Parameters: []recording.Pair{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}}},
		&recording.Upstream{Address: "10.0.0.1:5432", Verified: true, Took: 5},
		&recording.Request{
			ID: 1, Form: "query", Text: aRequest.Text, Params: []recording.Param{{Value: []byte("4711")}},
			Effects: []recording.Effect{{Verb: "update", Object: "public.orders"}, {Verb: "select", Object: "public.customers"}}, Context: "role=app",
		},
		&recording.Verdict{Request: 1, Action: "ask", Rule: "r"},
		&recording.Approval{Request: 1, ID: "x", State: "pending"},
		&recording.Fields{Request: 1, Fields: []recording.Field{{Name: "n", Relation: "public.orders", Column: "c", Type: "text", Binary: true}}},
		&recording.Rows{Request: 1, Body: recording.AppendRow(nil, row)},
		&recording.Rows{Request: 1, Body: recording.AppendRow(recording.AppendRow(nil, row), row)},
		&recording.Data{Request: 1, Direction: "up", Bytes: []byte("up")},
		&recording.Data{Request: 1, Direction: "down", Bytes: []byte("down")},
		&recording.Terminal{Request: 1, Type: "xterm", Columns: 80, Rows: 24},
		&recording.Stream{Request: 1, Stream: "stderr", Bytes: []byte("err")},
		&recording.File{Request: 1, Verb: "file-read", Path: "/a", Bytes: 3},
		&recording.Exit{Request: 1, Status: 1},
		&recording.Denial{Code: "ended", Rule: "r", Reason: "w", Help: "h"},
		&recording.Outcome{Request: 1, Status: "failed", Tag: "t", Rows: 3, Bytes: 4, Took: 5},
		&recording.Request{ID: 2, Text: "two"},
		&recording.End{Error: "e", Requests: 2, Denied: 1, Rows: 3, Up: 6, Down: 7},
	}
	got := events(t, c.Path())
	o, ok := got[0].Body.(*recording.Opened)
	if !ok || o.Agent != "planner" || o.CgroupID != 77 || o.Target != "orders" || o.Generation != 3 || !o.Started.Equal(time.Unix(1700000000, 5)) {
		t.Errorf("the first event is %+v", got[0].Body)
	}
	for i, w := range want {
		if i+1 >= len(got) || !reflect.DeepEqual(got[i+1].Body, w) {
			t.Fatalf("event %d is %+v, want %+v", i+1, got[i+1].Body, w)
		}
	}
	must(t, s.Close())
	if r := verified(t, dir); r.Sessions != 1 || len(r.NotClosed) > 0 {
		t.Errorf("%+v", r)
	}
	if sum := summary(t, dir, "s1"); sum.How != recording.HowClosed || sum.Events != uint64(len(got)) || sum.Path != c.Path() {
		t.Errorf("%+v", sum)
	}
}

// Every code of a denial is on record by its name.
func TestDenialCodes(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	defer s.Close()
	c, err := s.Session(meta("s1"))
	must(t, err)
	for code := engine.ByPolicy; code <= engine.Ended; code++ {
		must(t, c.Denial(1, &engine.Denial{Code: code}))
	}
	for i, ev := range events(t, c.Path())[1:] {
		if got := ev.Body.(*recording.Denial).Code; got != engine.Code(i).String() {
			t.Errorf("code %d is on record as %q", i, got)
		}
	}
	must(t, c.Close(End{}))
}

func TestClosed(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	c, err := s.Session(meta("s1"))
	must(t, err)
	must(t, c.Close(End{}))
	if _, err := c.Request(aRequest); !errors.Is(err, ErrClosed) {
		t.Error("a request after the end:", err)
	}
	if err := c.Close(End{}); !errors.Is(err, ErrClosed) {
		t.Error("a second end:", err)
	}
	must(t, s.Close())
	must(t, s.Close())
	if _, err := s.Session(meta("s2")); !errors.Is(err, ErrClosed) {
		t.Error("a session after the store's end:", err)
	}
	verified(t, s.dir)
}

// An id is a file's name and nothing more.
func TestSessionIDs(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	defer s.Close()
	for _, id := range []string{"", "..", "../x", "a/b", "a.b", "a\x00", strings.Repeat("a", 65)} {
		if _, err := s.Session(meta(id)); err == nil {
			t.Errorf("%q was taken for an id", id)
		}
	}
	c, err := s.Session(meta("twice"))
	must(t, err)
	if _, err := s.Session(meta("twice")); !errors.Is(err, os.ErrExist) {
		t.Error("a session with the id of another:", err)
	}
	must(t, c.Close(End{}))
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "recordings")
	s := openStore(t, dir, Options{})
	c, err := s.Session(meta("s1"))
	must(t, err)
	must(t, c.Close(End{}))
	must(t, s.Close())
	must(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	}))
}

func TestOneProcess(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Error("the directory was opened twice:", err)
	}
	must(t, s.Close())
	must(t, openStore(t, dir, Options{}).Close())
}
