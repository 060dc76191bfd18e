package mask

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

var (
	streamKnown, _ = NewKnown([]Known{known, {[]byte("another S3cr3t"), []byte("placeholder")}})
	streamCustom   = Custom{Name: "badge", Anchors: []string{"badge"}, Pattern: regexp.MustCompile(`B-\d{4}`), Before: 40, After: 40, Kind: Redact}
)

// streams are the ways in which streams are made.
func streams() map[string]func() *Stream {
	all := func() *Scanner { return NewScanner(Secrets|PII).With(nil, streamCustom) }
	return map[string]func() *Stream{
		"exec":             func() *Stream { return NewStream(StreamOptions{Scanner: all(), Known: streamKnown}) },
		"terminal":         func() *Stream { return NewStream(StreamOptions{Scanner: all(), Known: streamKnown, Terminal: true}) },
		"known":            func() *Stream { return NewStream(StreamOptions{Known: streamKnown}) },
		"known, terminal":  func() *Stream { return NewStream(StreamOptions{Known: streamKnown, Terminal: true}) },
		"detectors":        func() *Stream { return NewStream(StreamOptions{Scanner: all()}) },
		"nothing":          func() *Stream { return NewStream(StreamOptions{}) },
		"nothing, written": func() *Stream { return NewStream(StreamOptions{Terminal: true, Scanner: NewScanner(0)}) },
	}
}

// through writes in to a stream in pieces of the sizes, over and over.
func through(s *Stream, in []byte, sizes ...int) string {
	var out bytes.Buffer
	for n := 0; len(in) > 0; n++ {
		size := len(in)
		if len(sizes) > 0 {
			size = min(max(1, sizes[n%len(sizes)]), len(in))
		}
		out.Write(s.Write(bytes.Clone(in[:size])))
		in = in[size:]
	}
	out.Write(s.Close())
	return out.String()
}

// What detectors find in a value they find in a stream, however it is cut, with
// what stands around it left as it is.
func TestStreamFinds(t *testing.T) {
	for _, tt := range findings {
		for _, size := range []int{1, 2, 7, 1000} {
			for _, terminal := range []bool{false, true} {
				s := NewStream(StreamOptions{Scanner: NewScanner(Secrets | PII), Terminal: terminal})
				out := through(s, []byte("before\n"+tt.value+"\nafter\n"), size)
				if strings.Contains(out, tt.secret) || !strings.Contains(out, "redacted-"+tt.detector) {
					t.Errorf("%q in pieces of %d became %q", tt.value, size, out)
				}
				if !strings.HasPrefix(out, "before\n") || tt.detector != "private-key" && !strings.HasSuffix(out, "\nafter\n") {
					t.Errorf("%q lost what is around it: %q", tt.value, out)
				}
			}
		}
	}
}

// On a value of one line a stream finds what a Scanner finds.
func TestStreamFindsWhatScannersFind(t *testing.T) {
	for _, tt := range findings {
		if strings.Contains(tt.value, "\n") {
			continue
		}
		scanner := NewScanner(Secrets | PII)
		want := scanner.replace(nil, []byte(tt.value), scanner.Scan([]byte(tt.value)))
		got := through(NewStream(StreamOptions{Scanner: NewScanner(Secrets | PII)}), []byte(tt.value), 3)
		if got != string(want) {
			t.Errorf("%q became %q, and as a value %q", tt.value, got, want)
		}
	}
}

var streamCases = []struct{ name, in, want string }{
	{"colours around", "\x1b[1;32m" + classic("ghp_") + "\x1b[0m\n", "\x1b[1;32mredacted-github-token\x1b[0m\n"},
	{"colours within", "x " + classic("ghp_")[:12] + "\x1b[31m\x1b[K" + classic("ghp_")[12:] + "\x1b[m y\n", "x redacted-github-token\x1b[31m\x1b[K\x1b[m y\n"},
	{"a known secret with colours within", "x " + string(known.Secret[:3]) + "\x1b[7m" + string(known.Secret[3:]) + "\x1b[m\n", "x " + string(known.Placeholder) + "\x1b[7m\x1b[m\n"},
	{"overstruck, as manuals are", "ada@exa\bamp\bple.org\n", "redacted-email\n"},
	{"mended while it was typed", "mail adx\b \bam@exampla\b \be.org now\n", "mail redacted-email now\n"},
	{"in a title", "\x1b]0;ada@example.org\x07$ ", "\x1b]0;redacted-email\x07$ "},
	{"in a link", "\x1b]8;;mailto:ada@example.org\x1b\\ada@example.org\x1b]8;;\x1b\\\n", "\x1b]8;;mailto:redacted-email\x1b\\redacted-email\x1b]8;;\x1b\\\n"},
	{"a moved cursor parts", "ada@\x1b[5Cexample.org\n", "ada@\x1b[5Cexample.org\n"},
	{"a carriage return parts", "ada@exam\rple.org\n", "ada@exam\rple.org\n"},
	{"NUL is nothing on a terminal", "ada@exam\x00ple.org\n", "redacted-email\n"},
	{"a key of many lines", "a\r\n" + strings.ReplaceAll(pem, "\n", "\r\n") + "\r\nb\r\n", "a\r\nredacted-private-key\r\nb\r\n"},
	{"two keys", pem + "\n" + pem + "\nb\n", "redacted-private-key\nredacted-private-key\nb\n"},
	{"a key with headers and colours", "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n\x1b[1mMIIE\n\x1b[0m-----END RSA PRIVATE KEY-----$ ", "redacted-private-key\n\x1b[1m\x1b[0m$ "},
	{"only the first line of a key", "-----BEGIN OPENSSH PRIVATE KEY-----\r\n[ada@host ~]$ ls", "redacted-private-key\r\n[ada@host ~]$ ls"},
	{"a key in JSON", `{"k":"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n"}` + "\nx\n", `{"k":"redacted-private-key\n"}` + "\nx\n"},
	{"a name on the line before", "phone\n0301234567\n", "phone\nredacted-phone\n"},
	{"a secret key on the line after its id", "AKIA" + "IOSFODNN7EXAMPLE\nwJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY\n", "redacted-aws-access-key\nredacted-aws-secret-key\n"},
	{"a detector of one's own", "badge B-1234 and B-1234\nB-1234\n", "badge redacted-badge and redacted-badge\nB-1234\n"},
	{"known in a URL", "postgres://u:" + string(known.Secret) + "@h/d\n", "postgres://u:" + string(known.Placeholder) + "@h/d\n"},
	{"no line's end", "ada@example.org", "redacted-email"},
}

func TestStream(t *testing.T) {
	for _, tt := range streamCases {
		for size := 1; size <= len(tt.in); size++ {
			s := streams()["terminal"]()
			if out := through(s, []byte(tt.in), size); out != tt.want {
				t.Errorf("%s, in pieces of %d: %q became %q", tt.name, size, tt.in, out)
				break
			}
		}
	}
}

// What waits for its line's end is given out by Flush, but not the beginning of
// a find; what is a find in the end is masked although Flush was called within.
func TestStreamFlush(t *testing.T) {
	token := classic("ghp_")
	for _, tt := range []struct {
		name   string
		pieces []string // Flush after each
		want   []string
	}{
		{"a prompt", []string{"[ada@host ~]$ "}, []string{"[ada@host ~]$ "}},
		{"an echo", []string{"l", "s", " -l\r\n"}, []string{"l", "s", " -l\r\n"}},
		{"a question", []string{"Password: "}, []string{"Password: "}},
		{"half a token", []string{"use " + token[:20], token[20:] + " now\n"}, []string{"use ", "redacted-github-token now\n"}},
		{"a token whole", []string{"use " + token, " now\n"}, []string{"use ", "redacted-github-token now\n"}},
		{"half an address", []string{"to ada@exam", "ple.org\n"}, []string{"to ", "redacted-email\n"}},
		{"half a card", []string{"4111 1111 1", "111 1111\n"}, []string{"", "redacted-card\n"}},
		{"half a password", []string{"PGPASSWORD=Tr0u", "b4dor x\n"}, []string{"PGPASSWORD=", "redacted-password x\n"}},
		{"half a known secret", []string{"x" + string(known.Secret[:6]), string(known.Secret[6:]) + "\n"}, []string{"x", string(known.Placeholder) + "\n"}},
		{"half a URL", []string{"redis://u:hunter2", "hunter2@cache/0\n"}, []string{"redis://u:", "redacted-password@cache/0\n"}},
		{"half a key's first line", []string{"-----BEGIN OPENSSH PRIV", "ATE KEY-----\nMIIE", "IE\n-----END OPENSSH PRIVATE KEY-----\n"}, []string{"", "redacted-private-key\n", ""}},
		{"half a sequence", []string{"a\x1b[3", "1mb"}, []string{"a", "\x1b[31mb"}},
		{"half a character", []string{"a\xc3", "\xa4b"}, []string{"a", "äb"}},
		{"an address that was taken for whole", []string{"ada@example.org ", "x\n"}, []string{"redacted-email ", "x\n"}},
	} {
		s := streams()["terminal"]()
		for i, p := range tt.pieces {
			out := string(s.Write([]byte(p)))
			if out += string(s.Flush()); out != tt.want[i] {
				t.Errorf("%s, %q: %q instead of %q", tt.name, p, out, tt.want[i])
			}
		}
	}
}

// Nothing is held back for ever: half a second of Flush gives it out, and what
// comes then is masked from there on.
func TestStreamPatience(t *testing.T) {
	for name, half := range map[string]string{"detectors": classic("ghp_")[:20], "known": string(known.Secret[:8])} {
		s := streams()[name]()
		out := string(s.Write([]byte(half)))
		n := 0
		for ; s.Held() && n < 100; n++ {
			out += string(s.Flush())
		}
		if out != half || n != patience {
			t.Errorf("%s: %q after %d", name, out, n)
		}
	}
	s := streams()["detectors"]()
	token := classic("ghp_")
	s.Write([]byte(token[:20]))
	for s.Held() {
		s.Flush()
	}
	if out := string(s.Write([]byte(token[20:] + " b\n"))); out != "redacted-github-token b\n" {
		t.Errorf("the second half became %q", out)
	}
}

// Where nothing but known secrets is looked for, nothing is held back but what
// they may begin with: protocols in which each side waits for the other go on.
func TestStreamOfKnownSecretsHoldsNothing(t *testing.T) {
	s := streams()["known"]()
	for _, p := range []string{"x", "0008NAK\n", "\x00\x01\x02", strings.Repeat("x", 1<<16)} {
		if out := s.Write([]byte(p)); string(out) != p || s.Held() {
			t.Errorf("%.20q became %.20q", p, out)
		}
	}
}

// A line that does not end is held to a limit, and the place where it is cut
// depends on nothing but the line.
func TestStreamLongLine(t *testing.T) {
	for _, fill := range []string{"abc def ", "x", "\x1b[1mab", "ä"} {
		line := strings.Repeat(fill, 3*maxLine/len(fill))
		for _, at := range []int{maxLine - 20, maxLine - 10, maxLine, maxLine - maxAside} {
			at -= at % len(fill)
			in := line[:at] + " " + classic("ghp_") + " ada@example.org " + line[at:]
			want := through(streams()["exec"](), []byte(in))
			if strings.Contains(want, classic("ghp_")) || !strings.Contains(want, " redacted-github-token redacted-email ") {
				t.Errorf("%.10q, %d: %q", fill, at, want[max(0, at-20):at+80])
			}
			s := streams()["exec"]()
			for i := 0; i < len(in); i += 1000 {
				s.Write([]byte(in[i:min(len(in), i+1000)]))
				if len(s.held) > maxLine+1000 {
					t.Fatalf("%d bytes are held", len(s.held))
				}
			}
			for _, size := range []int{999, 4096, maxLine + 1} {
				if got := through(streams()["exec"](), []byte(in), size); got != want {
					t.Errorf("%.10q, %d: in pieces of %d it differs", fill, at, size)
				}
			}
		}
	}
}

// Binary data is as it was, and so is everything where nothing is looked for.
func TestStreamLeavesBinaryAlone(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 4<<20)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	copy(b[1<<20:], "\x01\xff ada@example.org \x00")
	for name, make := range streams() {
		if out := through(make(), b, 32<<10); !strings.Contains(name, "terminal") && out != string(b) {
			t.Errorf("%s: changed", name)
		}
	}
}

// pieces that texts are made of, in which finds begin, end and are interrupted.
func streamPieces() []string {
	all := []string{
		"\n", "\r\n", " ", "\t", "\r", "\x1b[31m", "\x1b[0m", "\x1b[2;5H", "\x1b]0;", "\x07", "\x1b\\", "\x1b", "\b", "\b \b", "\x00", "\xff", "\xc3", "ä", "\x01",
		"phone ", "AKIA" + "IOSFODNN7EXAMPLE", "password=", "-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----", "MIIE\n", pem, "badge", "B-1234",
		string(known.Secret), "another S3cr3t", "word", "4711", ",", "\"", "@", ".org", "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY",
	}
	for _, e := range encoders {
		all = append(all, string(e(known.Secret)))
	}
	for offset := range 3 {
		all = append(all, standard.enc.EncodeToString(append(make([]byte, offset), known.Secret...)))
	}
	for _, tt := range findings {
		all = append(all, tt.value)
	}
	return all
}

// Any split gives what the whole gives.
func TestStreamSplits(t *testing.T) {
	pieces, random := streamPieces(), rand.New(rand.NewPCG(3, 4))
	for range 4000 {
		var in []byte
		for range 1 + random.IntN(12) {
			p := pieces[random.IntN(len(pieces))]
			if random.IntN(4) == 0 {
				p = p[:random.IntN(len(p)+1)]
			}
			in = append(in, p...)
		}
		sizes := []int{1 + random.IntN(40), 1 + random.IntN(200), 1 + random.IntN(5)}
		checkSplit(t, in, sizes)
	}
}

func checkSplit(t *testing.T, in []byte, sizes []int) {
	t.Helper()
	for name, make := range streams() {
		want := through(make(), in)
		for _, sizes := range [][]int{{1}, sizes} {
			if got := through(make(), in, sizes...); got != want {
				t.Fatalf("%s: %q\nis  %q\nbut %q in pieces of %d", name, in, want, got, sizes)
			}
		}
		if strings.HasPrefix(name, "nothing") && want != string(in) {
			t.Fatalf("%q became %q, for nothing", in, want)
		}
	}
}

// Known secrets are nowhere in what comes out, whenever Flush is called.
func FuzzStream(f *testing.F) {
	for _, tt := range streamCases {
		f.Add([]byte(tt.in), uint16(3), uint16(5), uint16(1))
	}
	f.Fuzz(func(t *testing.T, in []byte, a, b, c uint16) {
		in = in[:min(len(in), 4<<10)]
		checkSplit(t, in, []int{int(a), int(b), int(c)})
		if bytes.Contains(in, []byte(known.Placeholder)) {
			return
		}
		for name, make := range streams() {
			if !strings.Contains(name, "known") {
				continue
			}
			s := make()
			var out bytes.Buffer
			for i, n := 0, 0; i < len(in); n++ {
				size := min(max(1, int([]uint16{a, b, c}[n%3])), len(in)-i)
				out.Write(s.Write(in[i : i+size]))
				out.Write(s.Flush())
				i += size
			}
			out.Write(s.Close())
			if got := out.String(); strings.Contains(name, "terminal") && strings.Contains(got, string(known.Secret)) {
				t.Fatalf("%s: %q became %q", name, in, got)
			}
		}
	})
}

func BenchmarkStream(b *testing.B) {
	texts := map[string]string{
		"prose":   "The quick brown fox jumps over the lazy dog, and then it goes home to sleep until noon.\n",
		"log":     "2026-03-14 09:26:53 host app[4711]: GET /orders/17 took 12 ms, status=200\n",
		"colours": "\x1b[0m\x1b[01;34mdirectory\x1b[0m  \x1b[01;32mprogram\x1b[0m  file and another one\r\n",
		"binary":  "",
	}
	random := rand.New(rand.NewPCG(1, 2))
	var noise strings.Builder
	for range 1 << 20 {
		noise.WriteByte(byte(random.Uint32()))
	}
	texts["binary"] = noise.String()
	for _, name := range []string{"exec", "terminal", "known"} {
		for text, line := range texts {
			in := []byte(strings.Repeat(line, 1+(1<<20)/len(line)))
			b.Run(fmt.Sprintf("%s/%s", name, text), func(b *testing.B) {
				s := streams()[name]()
				b.SetBytes(int64(len(in)))
				for b.Loop() {
					for i := 0; i < len(in); i += 32 << 10 {
						s.Write(in[i:min(len(in), i+32<<10)])
					}
				}
			})
		}
	}
}
