package channels

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestPreserve: stars where something was found, and no byte moves.
func TestPreserve(t *testing.T) {
	scrub := func(b []byte) []byte {
		b = bytes.ReplaceAll(b, []byte("ada@example.org"), []byte("p_1@example.com"))
		b = bytes.ReplaceAll(b, []byte("BEGIN\nkey\nEND"), []byte("[key]"))
		return bytes.ReplaceAll(b, []byte("long-secret-value"), []byte("x"))
	}
	for text, want := range map[string]string{
		"nothing here\n":                "nothing here\n",
		"mail ada@example.org now":      "mail *************** now",
		"to=ada@example.org;x":          "********************",
		"a long-secret-value b\nc\n":    "a ***************** b\nc\n",
		"x BEGIN\nkey\nEND y\n":         "x *****\n***\n*** y\n",
		"ada@example.org\n":             "***************\n",
		"a ada@example.org ada@b.c d":   "a *************** ada@b.c d",
		"1 ada@example.org 2\nlong-x\n": "1 *************** 2\nlong-x\n",
	} {
		if got := string(Preserve([]byte(text), scrub)); got != want {
			t.Errorf("%q becomes %q", text, got)
		}
		var p Preserver
		got := append(bytes.Clone(p.Write([]byte(text), scrub)), p.Flush(scrub)...)
		if string(got) != want {
			t.Errorf("in pieces %q becomes %q", text, got)
		}
	}
}

// TestPreserver: wherever a file is cut into pieces, the same comes out as of the
// whole.
func TestPreserver(t *testing.T) {
	const secret = "long-secret-value"
	scrub := func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(secret), []byte("x")) }
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var text strings.Builder
		for text.Len() < 60000 {
			text.WriteString(strings.Repeat("word ", random.IntN(900)) + secret + "\n")
		}
		want := strings.ReplaceAll(text.String(), secret, strings.Repeat("*", len(secret)))
		var p Preserver
		var got []byte
		for rest := text.String(); rest != ""; {
			n := min(len(rest), 1+random.IntN(9000))
			got = append(got, p.Write([]byte(rest[:n]), scrub)...)
			rest = rest[n:]
		}
		if got = append(got, p.Flush(scrub)...); string(got) != want {
			t.Fatal("not the same as of the whole")
		}
	}
}
