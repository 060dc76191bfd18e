package recording

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// Every kind of event comes back as it was written, with its time, its place
// and the hash that the writer has.
func TestRoundTrip(t *testing.T) {
	kinds := map[Kind]bool{}
	c := newChain(SessionFile, 7)
	var heads []Hash
	for _, b := range append(everyKind(), &Unknown{Of: 200, Payload: []byte("later")}) {
		c.add(b)
		heads = append(heads, c.head)
		kinds[b.Kind()] = true
	}
	for k := range kindNames {
		if !kinds[k] {
			t.Error("no test for kind", k)
		}
	}
	r := reader(t, c.b)
	offset := int64(HeaderSize)
	for i, want := range append(everyKind(), &Unknown{Of: 200, Payload: []byte("later")}) {
		ev, err := r.Next()
		must(t, err)
		if !reflect.DeepEqual(ev.Body, want) {
			t.Errorf("%s comes back as %#v", want.Kind(), ev.Body)
		}
		at := moment.Add(time.Duration(i) * time.Second)
		if ev.Seq != uint64(i+1) || ev.Offset != offset || !ev.Time.Equal(at) || ev.Hash != heads[i] || r.Head() != heads[i] {
			t.Errorf("%s: seq %d, offset %d, time %s, hash %s", want.Kind(), ev.Seq, ev.Offset, ev.Time, ev.Hash)
		}
		offset = r.Offset()
	}
	if _, err := r.Next(); err != io.EOF {
		t.Error("after the last event:", err)
	}
	if offset != int64(len(c.b)) {
		t.Errorf("read %d of %d bytes", offset, len(c.b))
	}
}

// Zero values and empty lists come back as such.
func TestRoundTripOfNothing(t *testing.T) {
	for _, b := range everyKind() {
		empty := reflect.New(reflect.TypeOf(b).Elem()).Interface().(Body)
		ev, err := reader(t, newChain(SessionFile, 1).add(empty).b).Next()
		must(t, err)
		if got := ev.Body.AppendTo(nil); !bytes.Equal(got, empty.AppendTo(nil)) {
			t.Errorf("%s: %#v", b.Kind(), ev.Body)
		}
	}
}

// testdata/v1 was written by the first version: every later one reads it, and
// writes the same bytes.
func TestFirstVersion(t *testing.T) {
	const dir = "testdata/v1"
	if *update {
		newDirectory().write(t, dir)
	}
	for path, want := range newDirectory() {
		got, err := os.ReadFile(filepath.Join(dir, path))
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from what is written now", path)
		}
	}
	if report := verified(t, dir); !report.OK() || report.Sessions != 2 || report.Journals != 1 {
		t.Errorf("%+v", report)
	}
}

// testdata/shell has the kinds that came later; what they look like is held to
// the byte too.
func TestShellKinds(t *testing.T) {
	const dir = "testdata/shell"
	d := directory{}
	journal := newChain(JournalFile, 0).add(&Started{Sequence: 1, Host: "h", PID: 2})
	journal.session(d, "s3", 3, shellKinds()...)
	d[journal1] = journal.add(&Stopped{}).b
	if *update {
		d.write(t, dir)
	}
	for path, want := range d {
		got, err := os.ReadFile(filepath.Join(dir, path))
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from what is written now", path)
		}
	}
	if report := verified(t, dir); !report.OK() || report.Sessions != 1 {
		t.Errorf("%+v", report)
	}
}

func TestRowsAll(t *testing.T) {
	row := []byte{0, 2, 0, 0, 0, 1, 'a', 0xff, 0xff, 0xff, 0xff}
	good := AppendRow(nil, row)
	for name, c := range map[string]struct {
		body []byte
		want int
	}{
		"none": {nil, 0}, "two": {append(bytes.Clone(good), good...), 2},
		"cut":            {append(bytes.Clone(good), good[:len(good)-1]...), 1},
		"no length":      {append(bytes.Clone(good), 0, 0, 0), 1},
		"huge length":    {append(bytes.Clone(good), 0xff, 0xff, 0xff, 0xff), 1},
		"negative count": {AppendRow(nil, []byte{0x80, 0}), 0},
		"count too high": {AppendRow(nil, []byte{0, 3, 0, 0, 0, 1, 'a'}), 0},
		"bytes behind":   {AppendRow(nil, append(bytes.Clone(row), 1)), 0},
		"length of -2":   {AppendRow(nil, []byte{0, 1, 0xff, 0xff, 0xff, 0xfe}), 0},
		"no columns":     {AppendRow(nil, []byte{0, 0}), 1},
	} {
		n := 0
		for values := range (&Rows{Body: c.body}).All() {
			if len(values) == 2 && (string(values[0]) != "a" || values[1] != nil) {
				t.Errorf("%s: %q", name, values)
			}
			n++
		}
		if n != c.want {
			t.Errorf("%s: %d rows", name, n)
		}
	}
}

// What is exported is one JSON object per event, whatever bytes it holds.
func TestJSON(t *testing.T) {
	r := reader(t, newChain(SessionFile, 1).add(append(everyKind(), &Unknown{Of: 99, Payload: []byte{0xff}})...).b)
	all := ""
	for {
		ev, err := r.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		b, err := json.Marshal(ev)
		must(t, err)
		var back map[string]any
		must(t, json.Unmarshal(b, &back))
		if back["event"] != ev.Body.Kind().String() || back["seq"] != float64(ev.Seq) {
			t.Errorf("%s", b)
		}
		all += string(b) + "\n"
	}
	for _, want := range []string{
		`"params":[{"base64":"AP8="},null]`, `"rows":[["a",null],["a",null]]`, `"original":"[fe80::1%eth0]:5432"`,
		`"took_ns":3000000`, `"event":"kind-99"`, `"type":"xterm-256color","columns":80,"rows":24`, `"stream":"stdin","bytes":{"base64":"bHPD"}`,
		`"event":"exit","request":5,"status":0,"signal":"KILL"`, `"path":"/a","to":"/b","bytes":0,"error":"permission denied"}`, `"sha256":"0900`, `"bytes":"\u001b[2J"`, `"time":"2026-03-14T09:00:00.000000005Z"`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%s is not in\n%s", want, all)
		}
	}
}

func TestValidSession(t *testing.T) {
	for id, want := range map[string]bool{
		"": false, "a": true, "A-z_09": true, "..": false, "a/b": false, "a.b": false, "ä": false, "a\x00": false, "@": false, "[": false, "`": false, "{": false,
		strings.Repeat("a", 64): true, strings.Repeat("a", 65): false,
	} {
		if ValidSession(id) != want {
			t.Errorf("ValidSession(%q) is not %t", id, want)
		}
	}
}
