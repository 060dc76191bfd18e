package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

var known = Known{Secret: []byte(`S3cr3t/"pa+ss&wörd"`), Placeholder: []byte("placeholder-orders")}

func TestKnownForms(t *testing.T) {
	m, weak := NewKnown([]Known{known})
	if weak != nil {
		t.Fatal(weak)
	}
	s, p := string(known.Secret), string(known.Placeholder)
	quoted := func(v string) string { b, _ := json.Marshal(v); return string(b) }
	js := func(v string) string {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.Encode(v)
		return strings.TrimSpace(b.String())
	}
	for in, want := range map[string]string{
		s: p, "a" + s + "b" + s: "a" + p + "b" + p,
		hex.EncodeToString([]byte(s)):                  hex.EncodeToString([]byte(p)),
		strings.ToUpper(hex.EncodeToString([]byte(s))): strings.ToUpper(hex.EncodeToString([]byte(p))),
		"pw=" + url.QueryEscape(s) + "&x":              "pw=" + p + "&x",
		"/" + url.PathEscape(s) + "/":                  "/" + p + "/",
		strings.ToLower(url.QueryEscape("/")) + s:      "%2f" + p,
		`{"pw":` + quoted(s) + `}`:                     `{"pw":` + quoted(p) + `}`,
		`{"pw":` + js(s) + `}`:                         `{"pw":` + quoted(p) + `}`,
		strings.ReplaceAll(js(s), "/", `\/`):           quoted(p),
		s[:len(s)-1]:                                   s[:len(s)-1],
	} {
		out, _ := m.Mask(nil, []byte(in))
		if string(out) != want {
			t.Errorf("%q: %q, want %q", in, out, want)
		}
	}
}

// In base64 the secret may begin at any of three offsets. What is around it
// must come out as it was, and the secret's own bytes not at all.
func TestKnownBase64(t *testing.T) {
	m, _ := NewKnown([]Known{known})
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding, base64.RawURLEncoding} {
		for _, before := range []string{"", "u:", "us:", "user:", "a longer text and then "} {
			for _, after := range []string{"", "@", "@h", "@ho", " and more"} {
				in := enc.EncodeToString([]byte(before + string(known.Secret) + after))
				out, n := m.Mask(nil, []byte(in))
				plain, err := enc.DecodeString(string(out))
				if err != nil || n != 1 {
					t.Fatalf("%q became %q: %v, %d", in, out, err, n)
				}
				if !bytes.HasPrefix(plain, []byte(before)) || !bytes.HasSuffix(plain, []byte(after)) || len(plain) != len(before)+len(known.Secret)+len(after) {
					t.Errorf("%q around it became %q", before+"…"+after, plain)
				}
				got := plain[len(before) : len(before)+len(known.Secret)]
				if !bytes.HasPrefix(got, known.Placeholder) {
					t.Errorf("%q in place of the secret", got)
				}
			}
		}
	}
}

func TestKnownWeak(t *testing.T) {
	m, weak := NewKnown([]Known{
		{[]byte("short"), []byte("p")},
		{[]byte("aaaaaaaaaaaaaaaa"), []byte("p")},
		{[]byte("same as placeholder"), []byte("same as placeholder")},
		{[]byte("good enough 1"), []byte("p")},
	})
	if len(weak) != 2 || weak[0] != 0 || weak[1] != 1 {
		t.Error(weak)
	}
	for in, want := range map[string]string{"short": "short", "aaaaaaaaaaaaaaaa": "aaaaaaaaaaaaaaaa", "good enough 1": "p", "same as placeholder": "same as placeholder"} {
		if out, _ := m.Mask(nil, []byte(in)); string(out) != want {
			t.Errorf("%q: %q", in, out)
		}
	}
	empty, _ := NewKnown(nil)
	if out, n := empty.Mask(nil, []byte("anything")); n != 0 || string(out) != "anything" {
		t.Error(out, n)
	}
}

// FuzzKnown hides secrets in arbitrary text and checks that none is left, in
// any form.
func FuzzKnown(f *testing.F) {
	f.Add([]byte("before"), []byte("after"), uint8(0))
	m, _ := NewKnown([]Known{known, {[]byte("another S3cr3t"), []byte("ph")}})
	f.Fuzz(func(t *testing.T, before, after []byte, form uint8) {
		all := append([]func([]byte) []byte{func(b []byte) []byte { return b }}, encoders...)
		encode := all[int(form)%len(all)]
		in := append(append(bytes.Clone(before), encode(known.Secret)...), after...)
		out, n := m.Mask(nil, in)
		if n == 0 {
			t.Fatalf("not found in %q", in)
		}
		for i := range all {
			if secret := all[i](known.Secret); bytes.Contains(out, secret) {
				t.Fatalf("%q in %q", secret, out)
			}
		}
	})
}

// Of a key the lines are known, too, however they end.
func TestKnownLines(t *testing.T) {
	key := "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAA\nQyNTUxOQAAACDkd4mBxX0Y4Lq1b8Jz3m8wAA\nAAAE\n-----END OPENSSH PRIVATE KEY-----\n"
	m, weak := NewKnown([]Known{{[]byte(key), []byte("placeholder")}})
	if weak != nil {
		t.Fatal("a key is weak")
	}
	for in, want := range map[string]string{
		key: "placeholder",
		"1 QyNTUxOQAAACDkd4mBxX0Y4Lq1b8Jz3m8wAA\r\n": "1 redacted\r\n",
		"-----BEGIN OPENSSH PRIVATE KEY-----":        "-----BEGIN OPENSSH PRIVATE KEY-----",
		"AAAE":                                       "AAAE",
	} {
		if out, _ := m.Mask(nil, []byte(in)); string(out) != want {
			t.Errorf("%q became %q", in, out)
		}
	}
}

func BenchmarkKnown(b *testing.B) {
	m, _ := NewKnown([]Known{known, {[]byte("another S3cr3t"), []byte("placeholder")}})
	for name, piece := range map[string]string{
		"text":   "The quick brown fox jumps over the lazy dog, and then it goes home. ",
		"rows":   "4711\t2024-01-02 03:04:05.123456+00\t550e8400-e29b-41d4-a716-446655440000\tshipped\t199.95\n",
		"base64": base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x03\xf1\x88\x91pq7", 100))),
	} {
		value := []byte(strings.Repeat(piece, 100_000/len(piece)))
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(value)))
			for b.Loop() {
				if _, n := m.Mask(nil, value); n != 0 {
					b.Fatal(n)
				}
			}
		})
	}
}
