package line

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// typed feeds keys in pieces and answers lines, and returns what happened, in
// order: the keys that went on, and the lines.
func typed(g *Gate, keys string, size int, answer func(*Line) bool) (forwarded string, lines []Line) {
	var out strings.Builder
	for piece := range slices.Chunk([]byte(keys), max(1, size)) {
		forward, l := g.Feed(piece)
		out.Write(forward)
		for l != nil {
			lines = append(lines, *l)
			out.Write(g.Answer(answer(l)))
			forward, l = g.Feed(nil)
			out.Write(forward)
		}
	}
	return out.String(), lines
}

func always(allow bool) func(*Line) bool { return func(*Line) bool { return allow } }

// known are the texts of lines, or ? and the keys of those that are not known.
func known(lines []Line) string {
	var out []string
	for _, l := range lines {
		if l.Why != "" {
			out = append(out, "?"+l.Typed)
		} else {
			out = append(out, l.Text)
		}
	}
	return strings.Join(out, "|")
}

var cases = []struct{ name, keys, want string }{
	{"a line", "ls -l\r", "ls -l"},
	{"two lines in one piece", "ls\rrm x\r", "ls|rm x"},
	{"of a script's", "ls\nrm x\n", "ls|rm x"},
	{"nothing", "\r \r\n", ""},
	{"not yet", "ls", ""},
	{"backspace", "rmm\x7f x\x7f\x7f\x7f\x7f\x7f\x7fls\r", "ls"},
	{"ctrl-h is none everywhere", "rm\x08\x08ls\r", "?rm^H^Hls"},
	{"ctrl-u", "rm x\x15ls\r", "ls"},
	{"ctrl-w", "cat one two\x17\x17three\r", "cat three"},
	{"ctrl-w with spaces", "cat one  \x17x\r", "cat x"},
	{"ctrl-w of what is no word to all", "cat a/b\x17x\r", "?cat a/b^Wx"},
	{"ctrl-w of nothing", "\x17  \x17ls\r", "ls"},
	{"ctrl-c", "rm x\x03ls\r", "ls"},
	{"ctrl-c after what is not known", "rm\t\x03ls\r", "ls"},
	{"ctrl-c breaks a sequence off", "\x1b[\x03ls\r", "ls"},
	{"ctrl-u after what is not known", "x\x1b[D\x15ls\r", "?x^[[D^Uls"},
	{"the history", "\x1b[A\r", "?^[[A"},
	{"the history searched", "\x12rm\r", "?^Rrm"},
	{"completion", "r\t x\r", "?r^I x"},
	{"an arrow with Ctrl", "x\x1b[1;5Dls\r", "?x^[[1;5Dls"},
	{"home and end", "x\x1bOHls \x1b[F\x1b[3~\r", "?x^[OHls ^[[F^[[3~"},
	{"a key that may run the line", "ls\x1bax\r", "?ls^[a|?ls^[ax"},
	{"Enter on the keypad", "ls\x1bOM", "?ls^[OM"},
	{"Enter in other protocols", "ls\x1b[13u", "?ls^[[13u"},
	{"Enter in another", "ls\x1b[27;5;13~", "?ls^[[27;5;13~"},
	{"an editor", "ls\x18\x05", "?ls^X^E"},
	{"two keys of which the first is quoted", "ls\x11\x1ba", "?ls^Q^[a"},
	{"operate and get next", "ls\x0f\r", "ls|?"},
	{"the end of a part", "rm\x04 x\r", "rm|?rm^D x"},
	{"the end", "\x04", ""},
	{"quoted", "rm x;\x16\x03ls\r", "?rm x;^V^Cls"},
	{"a quoted end", "ls\x16\rrm\r", "?ls^V|?rm"},
	{"stopped", "rm x\x1als\r\x1als\r", "?rm x^Zls|ls"},
	{"beyond ASCII", "echo ü\r", "?echo ü"},
	{"as Meta", "\xa3ls\r", "?\xa3ls"},
	{"pasted", "\x1b[200~ls\rrm x\x1b[201~\rls\r", "?^[[200~ls|?rm x^[[201~|ls"},
	{"pasted and given up", "\x1b[200~ls\x03ls\r", "ls"},
	{"what is not whole", "cat <<EOF\rls\r\x03ls\r", "cat <<EOF|?ls|ls"},
	{"joined", "r\\\rm x\r", "r\\|?m x"},
	{"too long", strings.Repeat("x", maxLine+1) + "\r", "?" + strings.Repeat("x", maxLine+1)},
}

func TestLines(t *testing.T) {
	for _, tt := range cases {
		for _, size := range []int{1, 2, 3, 1 << 20} {
			forwarded, lines := typed(New(nil), tt.keys, size, always(true))
			if got := known(lines); got != tt.want {
				t.Errorf("%s, in pieces of %d: %q, want %q", tt.name, size, got, tt.want)
			}
			if forwarded != tt.keys {
				t.Errorf("%s: %q went on of %q", tt.name, forwarded, tt.keys)
			}
		}
	}
}

// What is not allowed is taken away by Ctrl-C, and what was typed behind it with
// it; nothing of it is left.
func TestDeniedLines(t *testing.T) {
	forwarded, lines := typed(New(nil), "cd /tmp\rrm -r x\r", 1<<20, always(false))
	if known(lines) != "cd /tmp" || forwarded != "cd /tmp\x03" {
		t.Errorf("%q, %q", known(lines), forwarded)
	}
	g := New(nil)
	typed(g, "cat <<EOF\r", 1, always(true))
	typed(g, "\x1b[200~x\r", 1, always(false))
	if _, lines := typed(g, "ls\r", 1, always(true)); known(lines) != "ls" {
		t.Errorf("after a denial %q", known(lines))
	}
	if g.Answer(true) != nil {
		t.Error("an answer to nothing")
	}
}

// While a line waits nothing goes on, in whatever pieces it comes.
func TestWaitingLines(t *testing.T) {
	g := New(nil)
	if forward, l := g.Feed([]byte("ls\rrm")); string(forward) != "ls" || l == nil || l.Text != "ls" {
		t.Fatalf("%q, %v", forward, l)
	}
	if forward, l := g.Feed([]byte(" x\r")); len(forward) > 0 || l != nil {
		t.Errorf("%q, %v went on", forward, l)
	}
	if got := g.Answer(true); string(got) != "\r" {
		t.Errorf("%q", got)
	}
	if forward, l := g.Feed(nil); string(forward) != "rm x" || l == nil || l.Text != "rm x" {
		t.Errorf("%q, %v", forward, l)
	}
}

func mode(pairs ...uint32) []byte {
	var out []byte
	for i := 0; i < len(pairs); i += 2 {
		out = binary.BigEndian.AppendUint32(append(out, byte(pairs[i])), pairs[i+1])
	}
	return append(out, endOfModes)
}

// A terminal at which keys mean something else makes no line known.
func TestModes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		modes []byte
		keys  string
		want  string
	}{
		{"none", nil, "ls\x7fs\r", "ls"},
		{"of OpenSSH's client", mode(128, 38400, 129, 38400, 1, 3, 2, 28, 3, 127, 4, 21, 5, 4, 6, 0, 7, 0, 8, 17, 9, 19, 10, 26, 12, 18, 13, 23, 14, 22, 18, 15, 30, 0, 31, 0, 32, 0, 33, 0, 34, 0, 35, 0, 36, 1, 37, 0, 38, 1, 42, 1, 50, 1, 51, 1, 52, 0, 53, 1, 54, 1, 55, 1, 56, 0, 57, 0, 59, 1, 70, 1, 90, 0, 91, 1), "lx\x7fs\r", "ls"},
		{"backspace is Ctrl-H", mode(3, 8), "lx\x08s\r", "ls"},
		{"and Delete is not", mode(3, 8), "lx\x7fs\r", "?lx^?s"},
		{"another key erases", mode(3, 'x'), "ls\r", "?ls"},
		{"capitals become small", mode(37, 1), "LS\r", "?LS"},
		{"eight bits become seven", mode(33, 1), "ls\r", "?ls"},
		{"no signals", mode(50, 0), "ls\r", "?ls"},
		{"other ends of lines", mode(6, ';'), "ls\r", "?ls"},
		{"cut off", []byte{3, 0, 0}, "ls\r", "?ls"},
		{"what nobody knows", []byte{200, 1}, "ls\r", "ls"},
	} {
		if _, lines := typed(New(tt.modes), tt.keys, 1, always(true)); known(lines) != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, known(lines), tt.want)
		}
	}
}

func TestRequest(t *testing.T) {
	for text, want := range map[string]string{
		"ls -l /srv":               "line ls",
		"ls | grep x > /tmp/y":     "line ls, line grep, file-write /tmp/y",
		"sudo rm x":                "line sudo, line rm",
		"$X":                       "unknown which command «$X» is depends on the host",
		"ls # ; rm x":              "line ls, unknown some shells at which somebody types take # for no comment",
		"echo a#b":                 "line echo",
		"echo a!":                  "line echo, unknown shells at which somebody types replace ! by earlier lines",
		`ls \`:                     `line ls, unknown \ at its end makes the next line a part of it`,
		`ls \\`:                    "line ls",
		"FOO=bar":                  "line :, unknown it sets variables of the shell, which may decide what later lines do",
		"FOO=bar ls":               "line ls, unknown it sets variables of the shell, which may decide what later lines do",
		"export PATH=/tmp":         "line export, unknown PATH decides what later commands are",
		"alias ls=rm":              "line alias, unknown an alias makes later commands others",
		"echo 'x":                  "unknown it is not what a shell understands: 1:6: reached EOF without closing quote `'`",
		"git-upload-pack '/a.git'": "git-fetch /a.git",
	} {
		r := (&Line{Text: text}).Request()
		var got []string
		for _, e := range r.Effects {
			got = append(got, strings.TrimSpace(e.Verb+" "+e.Object))
		}
		if strings.Join(got, ", ") != want || r.Kind != "line" || r.Text != text {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	r := (&Line{Typed: "ls^[[A", Why: "because"}).Request()
	if got := fmt.Sprint(r.Text, r.Effects, r.Facts); got != "ls^[[A[{unknown because}] map[]" {
		t.Error(got)
	}
}
