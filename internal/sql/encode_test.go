package sql

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
)

func full() *Statement {
	s := &Statement{
		Effects: []engine.Effect{{Verb: Select, Object: "public.a"}, {Verb: Update, Object: `"b.c"`}},
		Kinds:   []string{"select", "update"}, Tables: []Table{{"public", "a"}, {"", "b.c"}}, Columns: []string{"*", "id"}, Star: true,
		Functions: []string{"pg_catalog.now"}, Executes: []string{"e"}, Deallocates: []string{""},
		Parts:        []Part{{Verb: Update, Table: Table{"", "b.c"}, EqualColumns: []string{"id"}, Written: true, Restricted: true}, {Verb: Select}},
		Settings:     []Setting{{Name: "role", Value: "x", Known: true}, {Name: "all", Reset: true, Local: true}},
		Transactions: []Transaction{{Step: Savepoint, Name: "s", Chain: true}, {Step: RollbackPrepared}},
		Uses:         []Use{{Filters, Column{Table{"public", "a"}, "email", true}}, {Derives, Column{Table{"", "b.c"}, "*", false}}},
		Equalities:   []Equality{{Column{Table{"", "a"}, "x", true}, 0, 2, 0, true}, {Column{Table{"", "a"}, "", false}, 4, 0, 3, false}},
		Outputs:      []Output{{From: []Column{{Table{"", "a"}, "x", true}}}, {}},
		Copied:       &Copied{"SELECT 1", Table{"public", "a"}, true, true, "none", ';', '\'', '\\', "utf8"},
		ReturnsRows:  true, Restricted: true, Limit: 10, Joins: 2, Parameters: 3, ByLiterals: true,
	}
	inner := &Statement{Effects: []engine.Effect{{Verb: Session}}, Kinds: []string{"select"}, Limit: -1}
	inner.Seal()
	s.Prepares = []Prepared{{Name: "p", Statement: inner}}
	s.Seal()
	return s
}

func TestEncode(t *testing.T) {
	for _, s := range []*Statement{full(), full().Prepares[0].Statement} {
		got, err := Decode(s.Append(nil))
		must(t, err)
		if !reflect.DeepEqual(got, s) {
			t.Errorf("%+v\ncomes back as\n%+v", s, got)
		}
	}
	// Every field of a Statement either travels or is derived: one that is set
	// nowhere in full may have been forgotten.
	v := reflect.ValueOf(*full())
	for i := range v.NumField() {
		switch name := v.Type().Field(i).Name; {
		case name == "ReadsOnly", name == "DDL":
		case v.Field(i).IsZero():
			t.Error("no test for", name)
		}
	}
}

// What is declared is checked against what is there before room is made.
func TestDeclaredCounts(t *testing.T) {
	huge := binary.AppendUvarint(nil, 1<<30)
	head := []byte{0, 0, 0, 0}
	for i := range 10 {
		b := append(append(bytes.Clone(head), make([]byte, i)...), huge...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Decode(b)
		runtime.ReadMemStats(&after)
		if err == nil || after.TotalAlloc-before.TotalAlloc > 64<<10 {
			t.Errorf("%d lists before it: %v, %d bytes of memory", i, err, after.TotalAlloc-before.TotalAlloc)
		}
	}
}

// FuzzDecode: whatever a worker answers, what is accepted is sealed, and means
// the same when it is encoded again.
func FuzzDecode(f *testing.F) {
	f.Add(full().Append(nil))
	f.Add((&Statement{Limit: -1}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Decode(b)
		if err != nil {
			return
		}
		if len(s.Effects) == 0 || s.Facts == nil {
			t.Errorf("not sealed: %+v", s)
		}
		again, err := Decode(s.Append(nil))
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%+v\ncomes back as\n%+v, %v", s, again, err)
		}
	})
}

// FuzzFrames: what is read is what was written, and never more than the limit.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01a\x00\x00\x00\x00"), 10)
	f.Add([]byte("\xff\xff\xff\xff"), 10)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		limit &= 1<<16 - 1
		r, again := bytes.NewReader(b), &bytes.Buffer{}
		for {
			frame, err := readFrame(r, limit)
			if err != nil {
				if used := again.Len(); !bytes.Equal(again.Bytes(), b[:used]) {
					t.Errorf("%q was read as %q", b[:used], again)
				}
				return
			}
			if len(frame) > limit {
				t.Errorf("%d bytes with a limit of %d", len(frame), limit)
			}
			must(t, writeFrame(again, frame))
		}
	})
}

// Serve answers each text, and ends with its input or at the first frame that
// is none.
func TestServe(t *testing.T) {
	var in, out bytes.Buffer
	for _, text := range []string{"good", "syntax", "fails", "huge", "\x00good", "\x00none", "\x00fails"} {
		must(t, writeFrame(&in, []byte(text)))
	}
	before := 0
	serve := func() error {
		return Serve(&in, &out, func() { before++ }, func(text string) (*Statement, error) {
			switch text {
			case "syntax":
				return nil, &ErrSyntax{Message: strings.Repeat("m", 2*maxMessage) + "\n", Position: 3}
			case "fails":
				return nil, errors.New("a secret reason")
			case "huge":
				return &Statement{Kinds: []string{strings.Repeat("x", maxAnswer)}}, nil
			}
			return full(), nil
		}, func(text string) (*Sample, error) {
			switch text {
			case "none":
				return nil, nil
			case "fails":
				return nil, errors.New("a secret reason")
			}
			return &Sample{"select " + text, []int{7, 300}}, nil
		})
	}
	must(t, serve())
	if before != 7 {
		t.Error("before was called", before, "times")
	}
	var got []error
	var samples []*Sample
	for {
		b, err := readFrame(&out, maxAnswer)
		if err == io.EOF {
			break
		}
		must(t, err)
		r := parseAnswer(b, len(got) >= 4)
		got, samples = append(got, r.err), append(samples, r.sample)
	}
	var syntax *ErrSyntax
	if len(got) != 7 || got[0] != nil || !errors.As(got[1], &syntax) || got[2] != ErrWorker || got[3] != ErrWorker {
		t.Fatal(got)
	}
	if got[4] != nil || samples[4].Query != "select good" || !slices.Equal(samples[4].Params, []int{7, 300}) || got[5] != nil || samples[5] != nil || got[6] != ErrWorker {
		t.Error(got[4:], samples)
	}
	if syntax.Position != 3 || len(syntax.Message) > maxMessage+len("…") {
		t.Errorf("%+v", syntax)
	}
	in.Write([]byte{0xff, 0xff, 0xff, 0xff})
	if err := serve(); !errors.Is(err, errFrame) {
		t.Error(err)
	}
}
