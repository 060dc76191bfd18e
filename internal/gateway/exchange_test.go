package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/mask"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wire"
	"github.com/postern/postern/pkg/recording"
)

// masked gives the planner masks for the target.
func masked(s *Setup) {
	s.Agents["planner"].MaskKey = []byte("0123456789abcdef0123456789abcdef")
	s.Agents["planner"].Masks = map[string]*Masks{"orders": {
		Columns: []ColumnMask{{Pattern: "customers.email", Kind: mask.Partial}, {Pattern: "*.ssn", Kind: mask.Null}, {Pattern: "customers.*", Kind: mask.Redact}, {Pattern: "notes.body", Kind: mask.Redact, Detects: true}},
		Scanner: mask.NewScanner(mask.Secrets | mask.PII), Words: []string{"as above"},
	}}
}

// A value is masked by the first mask that names its column; one that may have
// been computed from a masked column is redacted; every other is searched.
func TestMasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, masked)
		column := func(table, name string) engine.Field {
			return engine.Field{Name: "f", Schema: "public", Table: table, Column: name, Type: "text"}
		}
		cases := []struct {
			field       engine.Field
			value, want string // want "NULL": null
		}{
			{column("customers", "email"), "somebody@corp.example", "s***@corp.example"},
			{column("customers", "EMAIL"), "somebody@corp.example", "s***@corp.example"},
			{column("people", "ssn"), "123", "NULL"},
			{column("customers", "phone"), "123", "[redacted]"},
			{column("orders", "note"), "nothing to see", "nothing to see"},
			{engine.Field{Name: "lower", Type: "text", Derived: []string{"public.customers.email"}}, "x", "[redacted]"},
			{engine.Field{Name: "left", Type: "text", Derived: []string{"public.notes.body"}}, "a word", "a word"},
			{engine.Field{Name: "left", Type: "text", Derived: []string{"public.notes.body", "public.customers.email"}}, "a word", "[redacted]"},
			{engine.Field{Name: "left", Type: "text", Derived: []string{"unknown relation"}}, "a word", "[redacted]"},
			{column("notes", "body"), "a word", "[redacted]"},
			{engine.Field{Name: "email", Type: "text"}, "only its name is like it", "only its name is like it"},
			{engine.Field{Name: "n", Type: "int4", Derived: []string{"public.customers.phone"}}, "123", "0"},
		}
		w.lines.relay = func(ctx context.Context, c *wire.Conn, _ engine.Upstream, gate engine.Gate) error {
			if got := fmt.Sprint(gate.Masked()); got != "[customers.email *.ssn customers.* notes.body]" {
				t.Error("the patterns are", got)
			}
			x, err := gate.Submit(ctx, &engine.Request{Kind: "line", Effects: []engine.Effect{{Verb: "read", Object: "a"}}})
			if err != nil {
				return err
			}
			for _, c := range cases {
				got := c.value
				if m := x.Result([]engine.Field{c.field})[0]; m != nil {
					v, null := m.Mask([]byte(c.value))
					if got = string(v); null {
						got = "NULL"
					}
				}
				if got != c.want {
					t.Errorf("%+v: %q, want %q", c.field, got, c.want)
				}
			}
			found, _ := x.Result([]engine.Field{column("orders", "note")})[0].Mask([]byte("write to somebody@corp.example"))
			if bytes.Contains(found, []byte("somebody")) {
				t.Errorf("an address was not found: %s", found)
			}
			x.End(engine.Outcome{})
			return nil
		}
		w.login("planner", "s1").ends()
		w.counted(`postern_masked_values_total{kind="column"}`, "5")
		w.counted(`postern_masked_values_total{kind="derived"}`, "4")
		w.counted(`postern_masked_values_total{kind="detected"}`, "1")
	})
}

// Equal values have equal pseudonyms within a domain, and are read back there.
func TestMaskDomains(t *testing.T) {
	masks := func(s *Setup) {
		s.Agents["planner"].MaskKey = []byte("0123456789abcdef0123456789abcdef")
		s.Agents["planner"].Masks = map[string]*Masks{"orders": {Columns: []ColumnMask{
			{Pattern: "a.name", Kind: mask.Pseudonym},
			{Pattern: "b.name", Kind: mask.Pseudonym},
			{Pattern: "c.name", Kind: mask.Pseudonym, Domain: "others"},
			{Pattern: "d.name", Kind: mask.Hash},
		}, Words: []string{"as above"}}}
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, masks)
		w.lines.relay = func(ctx context.Context, c *wire.Conn, _ engine.Upstream, gate engine.Gate) error {
			x, err := gate.Submit(ctx, &engine.Request{Kind: "line", Effects: []engine.Effect{{Verb: "read", Object: "a"}}})
			if err != nil {
				return err
			}
			shown, fields := map[string]string{}, map[string]engine.Field{}
			for _, table := range []string{"a", "b", "c", "d"} {
				f := engine.Field{Name: "name", Schema: "public", Table: table, Column: "name", Type: "text"}
				v, _ := x.Result([]engine.Field{f})[0].Mask([]byte("Ada"))
				shown[table], fields[table] = string(v), f
			}
			if shown["a"] != shown["b"] || shown["a"] == shown["c"] || shown["a"] == "Ada" {
				t.Errorf("%q", shown)
			}
			for _, tt := range []struct {
				column, value string
				ok            bool
			}{{"a", "b", true}, {"c", "c", true}, {"a", "c", false}, {"c", "a", false}, {"d", "d", false}} {
				real, sure, ok := gate.Restore(fields[tt.column], []byte(shown[tt.value]))
				if ok != tt.ok || ok && (!sure || string(real) != "Ada") {
					t.Errorf("%s's pseudonym in %s: %q, %t, %t", tt.value, tt.column, real, sure, ok)
				}
			}
			x.End(engine.Outcome{})
			return nil
		}
		w.login("planner", "s1").ends()
	})
}

// What detectors find in a request is masked on its record, and goes upstream as
// it is.
func TestRequestIsMaskedOnRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, masked)
		c := w.login("planner", "s1")
		const line = "read where mail = 'somebody@corp.example'"
		c.asks(line, "ok "+line)
		for _, e := range w.events("s1") {
			if bytes.Contains([]byte(e), []byte("somebody")) {
				t.Error("on record:", e)
			}
		}
		if got := w.lines.sent(); len(got) != 1 || got[0] != line {
			t.Error("forwarded", got)
		}
	})
}

// results are the rows and streams of a session's recording, joined.
func (w *world) results(session string) (rows [][]byte, streams []byte) {
	w.t.Helper()
	synctest.Wait()
	r, err := recording.Open(w.path(session))
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	for {
		ev, err := r.Next()
		if err == io.EOF {
			return rows, streams
		}
		if err != nil {
			w.t.Fatal(err)
		}
		switch b := ev.Body.(type) {
		case *recording.Rows:
			for values := range b.All() {
				rows = append(rows, values[0])
			}
		case *recording.Data:
			streams = append(streams, b.Direction+string(b.Bytes)...)
		}
	}
}

// Every row is on record, in its order, whatever number of them is put there at
// once; with results off, what came from the client still is.
func TestResultsOnRecord(t *testing.T) {
	const rows = 5000
	for _, on := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(s *Setup) { s.Results = on })
			w.lines.relay = func(ctx context.Context, c *wire.Conn, _ engine.Upstream, gate engine.Gate) error {
				x, err := gate.Submit(ctx, &engine.Request{Kind: "line", Effects: []engine.Effect{{Verb: "read", Object: "a"}}})
				if err != nil {
					return err
				}
				x.Result([]engine.Field{{Name: "n"}})
				for i := range rows {
					x.Row(rowOf([]byte(fmt.Sprint(i))))
				}
				x.Data(engine.Upward, []byte("in"), 0)
				x.Data(engine.Downward, []byte("out"), 1)
				x.End(engine.Outcome{Status: engine.OK, Rows: rows})
				return nil
			}
			w.login("planner", "s1").ends()
			got, streams := w.results("s1")
			if !on {
				if len(got) != 0 || string(streams) != "upin" {
					t.Errorf("results off: %d rows, %q", len(got), streams)
				}
				return
			}
			if string(streams) != "upindownout" {
				t.Errorf("the streams are %q", streams)
			}
			if len(got) != rows {
				t.Fatalf("%d rows on record", len(got))
			}
			for i, v := range got {
				if string(v) != fmt.Sprint(i) {
					t.Fatalf("row %d is %s", i, v)
				}
			}
		})
	}
}

// The echo of the session's secret: replaced where the value has room for it,
// NULL where lengths inside would no longer be right, untouched where a value
// cannot hold it.
func TestEcho(t *testing.T) {
	g := &gate{sums: &sums{}, session: &session{gateway: &Gateway{}, agent: &Agent{}, target: &Target{
		Name: "orders", Placeholder: secret.Placeholder{Password: secret.New([]byte("placeholder-orders"))},
	}}}
	w := newWorld(t)
	g.gateway = w.gateway
	g.know(secret.Credential{Password: secret.New([]byte(canary))})
	value := []byte("a " + canary + " b")
	for _, c := range []struct {
		field engine.Field
		want  string
	}{
		{engine.Field{Type: "text"}, "a placeholder-orders b"},
		{engine.Field{Type: "text", Binary: true}, "a placeholder-orders b"},
		{engine.Field{Type: "bytea", Binary: true}, "a placeholder-orders b"},
		{engine.Field{}, "a placeholder-orders b"},
		{engine.Field{Type: "record", Binary: true}, "NULL"},
		{engine.Field{Binary: true}, "NULL"},
	} {
		got, null := g.maskerFor(&c.field).Mask(value)
		if null {
			got = []byte("NULL")
		}
		if string(got) != c.want {
			t.Errorf("%+v: %q", c.field, got)
		}
	}
	if m := g.maskerFor(&engine.Field{Type: "int8"}); m != nil {
		t.Error("numbers are searched")
	}
	if v, null := g.maskerFor(&engine.Field{Type: "text"}).Mask(nil); v != nil || !null {
		t.Errorf("NULL becomes %q", v)
	}
	if got := w.exported(); !bytes.Contains([]byte(got), []byte(`postern_masked_values_total{kind="secret"} 6`)) {
		t.Error("what was masked is not what is counted\n", got)
	}
}

// A secret that is too weak to be found is said to the operator, by its target.
func TestWeakSecret(t *testing.T) {
	w := newWorld(t)
	g := &gate{sums: &sums{}, session: &session{gateway: w.gateway, target: w.gateway.Setup().Targets[0]}}
	g.know(secret.Credential{Password: secret.New([]byte("pw"))})
	if got := w.log.String(); !bytes.Contains([]byte(got), []byte("too weak")) || !bytes.Contains([]byte(got), []byte("target=orders")) {
		t.Error("the log is", got)
	}
}

// Sessions of a target share what finds its secret, until there is another.
func TestMatcherIsShared(t *testing.T) {
	var s sharedMatcher
	finds := func(password string) (*mask.Matcher, string) {
		m, weak := s.of([]mask.Known{{Secret: []byte(password), Placeholder: []byte("placeholder")}})
		if weak {
			t.Error("it is weak")
		}
		got, _ := m.Mask(nil, []byte("a "+canary+" b, a "+canary+"-rotated c"))
		return m, string(got)
	}
	first, _ := finds(canary)
	again, got := finds(canary)
	if again != first || got != "a placeholder b, a placeholder-rotated c" {
		t.Errorf("%t, %q", again == first, got)
	}
	if other, got := finds(canary + "-rotated"); other == first || got != "a "+canary+" b, a placeholder c" {
		t.Errorf("%t, %q", other == first, got)
	}
	if shown := fmt.Sprintf("%+v", &s); strings.Contains(shown, canary) {
		t.Error("it shows its secret")
	}
}
