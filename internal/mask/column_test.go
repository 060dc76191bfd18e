package mask

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

var key = []byte("a key of thirty-two bytes, or so")

func TestFor(t *testing.T) {
	tests := []struct {
		kind   Kind
		typ    string
		binary bool
		in     string
		want   string // a regular expression; empty: NULL
	}{
		{Redact, "text", false, "Bob", `\[redacted\]`},
		{Redact, "citext", true, "Bob", `\[redacted\]`},
		{Redact, "int4", false, "17", "0"},
		{Redact, "int4", true, "\x00\x00\x00\x11", "\x00\x00\x00\x00"},
		{Redact, "int8", true, "\x00\x00\x00\x00\x00\x00\x00\x11", strings.Repeat("\x00", 8)},
		{Redact, "numeric", true, "\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07", strings.Repeat("\x00", 8)},
		{Redact, "date", false, "1980-05-06", "2000-01-01"},
		{Redact, "timestamptz", true, "\x01\x02\x03\x04\x05\x06\x07\x08", strings.Repeat("\x00", 8)},
		{Redact, "uuid", false, "550e8400-e29b-41d4-a716-446655440000", "[0-]{36}"},
		{Redact, "bool", false, "t", ""},
		{Redact, "", false, "x", ""},
		{Redact, "_text", true, "x", ""},
		{Redact, "inet", false, "10.0.0.1", ""},
		{Redact, "json", false, `{"a":1}`, `"\[redacted\]"`},
		{Redact, "jsonb", false, `{"a":1}`, `"\[redacted\]"`},
		{Redact, "jsonb", true, "\x01{}", "\x01" + `"\[redacted\]"`},
		{Redact, "xml", false, "<a/>", "<redacted></redacted>"},
		{Redact, "bytea", false, `\x0102`, `\\x7265646163746564`},
		{Redact, "bytea", true, "\x01", "redacted"},
		{Redact, "text", false, "", `\[redacted\]`}, // the empty string is a value
		{Partial, "text", false, "4111111111111111", `\*{12}1111`},
		{Partial, "text", false, "12345678", `\*{6}78`},
		{Partial, "text", false, "Müller", `\*{6}`},
		{Partial, "varchar", false, "bob@example.com", `b\*\*\*@example.com`},
		{Partial, "int4", false, "17", "0"},
		{Null, "text", false, "x", ""},
		{0, "text", false, "x", ""},
		{99, "text", false, "x", ""},
		{Hash, "text", false, "x", "[0-9a-f]{32}"},
		{Hash, "int2", false, "17", "[0-9]{1,4}"},
		{Hash, "int4", true, "\x00\x00\x00\x11", `(?s)[\x00-\x3b].{3}`},
		{Hash, "date", false, "1980-05-06", "2000-01-01"},
		{Hash, "jsonb", true, "\x01{}", "\x01" + `"[0-9a-f]{32}"`},
		{Hash, "xml", false, "<a/>", "<redacted>[0-9a-f]{32}</redacted>"},
		{Pseudonym, "text", false, "Bob", "p_[0-9a-z]{29}"},
		{Pseudonym, "text", false, "bob@example.org", `p_[0-9a-z]{42}@example\.com`},
		{Pseudonym, "text", false, "4111111111111111", "[0-9]{16}"},
		{Pseudonym, "uuid", false, "550e8400-e29b-41d4-a716-446655440000", "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"},
		{Pseudonym, "uuid", false, "no uuid", ""},
		{Pseudonym, "int8", true, "short", ""},
		{Pseudonym, "bool", false, "t", ""},
	}
	for _, tt := range tests {
		m := For(tt.kind, tt.typ, tt.binary, key)
		for range 2 { // the second time, buffers are in use
			out, null := m.Mask([]byte(tt.in))
			if null != (tt.want == "") || !regexp.MustCompile("^(?s:"+tt.want+")$").Match(out) {
				t.Errorf("%s %s %q: %q, %v", tt.kind, tt.typ, tt.in, out, null)
			}
		}
		if out, null := m.Mask(nil); out != nil || !null {
			t.Errorf("%s %s: NULL does not stay NULL", tt.kind, tt.typ)
		}
	}
}

func TestWithoutKeyNothingIsHashed(t *testing.T) {
	if out, _ := For(Pseudonym, "text", false, nil).Mask([]byte("Bob")); string(out) != redacted {
		t.Errorf("%q", out)
	}
}

func one(t *testing.T, kind Kind, typ string, binary bool, key []byte, in string) string {
	t.Helper()
	out, null := For(kind, typ, binary, key).Mask([]byte(in))
	if null {
		t.Fatalf("%s %s %q is NULL", kind, typ, in)
	}
	return string(out)
}

// Equal values must stay equal whatever format they come in, or joins and
// lookups by a pseudonym break when a driver changes to binary.
func TestFormatsAgree(t *testing.T) {
	raw, _ := hex.DecodeString("550e8400e29b41d4a716446655440000")
	for _, kind := range []Kind{Hash, Pseudonym} {
		text := one(t, kind, "uuid", false, key, "550e8400-e29b-41d4-a716-446655440000")
		if got := one(t, kind, "uuid", true, key, string(raw)); hex.EncodeToString([]byte(got)) != strings.ReplaceAll(text, "-", "") {
			t.Error("uuid")
		}
		if a, b := one(t, kind, "jsonb", false, key, "{}"), one(t, kind, "jsonb", true, key, "\x01{}"); "\x01"+a != b {
			t.Error("jsonb")
		}
		if a, b := one(t, kind, "bytea", false, key, `\x0102`), one(t, kind, "bytea", true, key, "\x01\x02"); a != `\x`+hex.EncodeToString([]byte(b)) {
			t.Error("bytea")
		}
		n, _ := binaryInt([]byte(one(t, kind, "int4", true, key, "\x00\x00\x00\x11")))
		if a := one(t, kind, "int4", false, key, "17"); a != string(json.Number(formatInt(n))) {
			t.Error("int4", a, n)
		}
		if one(t, kind, "text", false, key, "Bob") == one(t, kind, "text", false, []byte("another"), "Bob") {
			t.Error("the key does not matter")
		}
		if one(t, kind, "text", false, key, "Bob") == one(t, kind, "text", false, key, "Rob") {
			t.Error("the value does not matter")
		}
	}
	if one(t, Hash, "text", false, key, "Bob") == one(t, Pseudonym, "text", false, key, "Bob") {
		t.Error("the kind does not matter")
	}
}

func formatInt(n int64) string { b, _ := json.Marshal(n); return string(b) }

func TestKindNames(t *testing.T) {
	for k := Redact; k <= Pseudonym; k++ {
		if got, ok := ParseKind(k.String()); !ok || got != k {
			t.Errorf("%d: %q", k, k)
		}
	}
	if _, ok := ParseKind(""); ok {
		t.Error("the empty kind is one")
	}
}

// FuzzColumn checks that masking does not depend on what it hides where it must
// not, is stable, and that what can be masked again stays as it is.
func FuzzColumn(f *testing.F) {
	f.Add([]byte("bob@example.com"), uint8(0))
	f.Add([]byte("\x00\x00\x00\x11"), uint8(9))
	names := []string{"text", "json", "jsonb", "xml", "bytea", "int2", "int4", "int8", "numeric", "uuid", "date", "", "_text"}
	f.Fuzz(func(t *testing.T, value []byte, which uint8) {
		typ, binary := names[int(which)%len(names)], which >= 128
		if value == nil {
			value = []byte{}
		}
		in := bytes.Clone(value)
		redact := For(Redact, typ, binary, nil)
		a, anull := redact.Mask(value)
		a = bytes.Clone(a)
		b, bnull := redact.Mask(a)
		if !anull && (bnull || !bytes.Equal(a, b)) {
			t.Fatalf("redact: %q, %q", a, b)
		}
		partial := For(Partial, typ, binary, nil)
		p, pnull := partial.Mask(value)
		p = bytes.Clone(p)
		if again, _ := partial.Mask(p); !pnull && !bytes.Equal(p, again) {
			t.Fatalf("partial: %q, %q", p, again)
		}
		if !pnull && typ == "text" && len(value) > 0 && !bytes.Contains(value, []byte("*")) && bytes.Contains(p, value) {
			t.Fatalf("partial shows %q", p)
		}
		if typ == "json" {
			for _, k := range []Kind{Redact, Partial, Hash, Pseudonym} {
				if out, null := For(k, typ, binary, key).Mask(value); !null && !json.Valid(out) {
					t.Fatalf("%s: %q", k, out)
				}
			}
		}
		if !bytes.Equal(in, value) {
			t.Fatal("the value was written to")
		}
	})
}

func BenchmarkPseudonym(b *testing.B) {
	m := For(Pseudonym, "text", false, key)
	b.ReportAllocs()
	for b.Loop() {
		m.Mask([]byte("bob@example.com"))
	}
}
