package terminal

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func filtered(in string, size int) string {
	var f Filter
	var out strings.Builder
	for piece := range slices.Chunk([]byte(in), size) {
		out.Write(f.Write(piece))
	}
	return out.String()
}

// What goes through: "=" stands for what came.
func TestFilter(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"text", "a ü 漢 👩‍💻\r\n\tb\b", "="},
		{"colours", "\x1b[1;38;2;10;20;30mred\x1b[48:5:7m\x1b[m\x1b[0m", "="},
		{"the cursor", "\x1b[H\x1b[2;5H\x1b[A\x1b[3B\x1b[C\x1b[D\x1b[10G\x1b7\x1b8\x1b[s\x1b[u", "="},
		{"erasing and scrolling", "\x1b[2J\x1b[K\x1b[1K\x1b[3L\x1b[M\x1b[2P\x1b[4@\x1b[5X\x1b[1;20r\x1bM\x1bD", "="},
		{"screens and modes", "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[4h\x1b[?25h\x1b[?1049l", "="},
		{"line drawing", "\x1b(0lqk\x1b(B\x0e\x0f", "="},
		{"several modes at once", "\x1b[?1049;2004;25h", "\x1b[?1049h\x1b[?25h"},
		{"the clipboard", "a\x1b]52;c;ZXZpbA==\x07b\x1b]52;c;?\x1b\\c", "abc"},
		{"a title", "\x1b]0;evil\x07a\x1b]2;evil\x1b\\b\x1bkevil\x1b\\c", "abevilc"},
		{"a link", "\x1b]8;;http://evil/\x1b\\here\x1b]8;;\x1b\\", "here"},
		{"palette and fonts", "\x1b]4;1;?\x07\x1b]10;?\x07\x1b]50;x\x07\x1b]104\x07", ""},
		{"reports", "\x1b[c\x1b[>c\x1b[=c\x1b[5n\x1b[6n\x1b[?6n\x1bZ\x05\x1b[21t\x1b[18t\x1b[x\x1b[?2004$p\x1b[>q\x1b[?u\x1b[?1m", ""},
		{"strings of devices", "\x1bP$qm\x1b\\\x1bP+q544e\x1b\\\x1b_Gq\x1b\\\x1b^x\x1b\\\x1bXy\x1b\\z", "z"},
		{"keys and mouse", "\x1b[?1h\x1b[?1000h\x1b[?1002h\x1b[?1003;1006h\x1b[?1004h\x1b[?2004h\x1b=\x1b>\x1b[>4;2m\x1b[>1u\x1b[=1;1u", ""},
		{"the window", "\x1b[8;1;1t\x1b[2t\x1b[!p\x1b[1;1\"q\x1b[2 q", ""},
		{"what stays", "\x1b[3J\x1b[3g\x1bH\x1b[1;2;3;4;5T", ""},
		{"printing", "\x1b[5i\x1b[?5i\x1b[i", ""},
		{"a reset", "a\x1bcb", "a" + cleared + "b"},
		{"the bell and others", "\x07\x00\x01\x11\x13\x7f", ""},
		{"of eight bits", "a\u009b6nb\u009d52;c;eA==\u009cc\u0085", "a6nb52;c;eA==c"},
		{"no UTF-8", "a\x9b6n\xffb\xc3", "a\ufffd6n\ufffdb"},
		{"a character that is cut off", "\xe6\xbc\x1b[mb", "\ufffd\x1b[mb"},
		{"directions", "user\u202egnp.exe\u2066x", "usergnp.exex"},
		{"within a sequence", "\x1b[3\r1mx\x1b[3\x1b[32my\x1b[3\x18z\x1b[1é", "\r\x1b[31mx\x1b[32myzé"},
		{"too long", "\x1b[" + strings.Repeat("1;", maxSequence) + "mx\x1b[123456Ax\x1b" + strings.Repeat("(", 2*maxSequence) + "Bx", "xxx"},
		{"a title without an end", "\x1b]0;" + strings.Repeat("x", maxString-1) + "seen", "seen"},
		{"disorder", "\x1b[ 0A\x1b[0 0A\x1b[?0?m\x1b[1<A", ""},
		{"two strings", "\x1b]0;a\x1b]0;b\x07c", "c"},
		{"what is asked by a resumed sequence", "\x1b]0;a\x1b[6n", ""},
		{"cursors by parameters", "\x1b[1s\x1b[2u", ""},
	} {
		want := tt.want
		if want == "=" {
			want = tt.in
		}
		for _, size := range []int{1, 2, 3, 1 << 20} {
			if got := filtered(tt.in, size); got != want {
				t.Errorf("%s in pieces of %d: %q instead of %q", tt.name, size, got, want)
			}
		}
	}
}

// Afterwards a terminal is told to be as before, and nothing when it is.
func TestClose(t *testing.T) {
	for in, want := range map[string]string{
		"plain\r\n":                            "",
		"\x1b[31mred":                          "\x1b[m",
		"\x1b[?1049h\x1b[?25l":                 "\x1b[?1049l\x1b[?25h",
		"\x1b[?1049h\x1b[?25l\x1b[?25;1049l":   "\x1b[?25h",
		"\x1b[?47h\x1b[?47l":                   "",
		"\x1b[2;3r\x1b[?7l\x1b[4h\x1b[20h":     "\x1b7\x1b[?6l\x1b[r\x1b8\x1b[?6l\x1b[?7h\x1b[4l",
		"\x1b[?6h":                             "\x1b7\x1b[?6l\x1b[r\x1b8\x1b[?6l",
		"\x1b(0":                               "\x0f\x1b(B\x1b)B",
		"\x1b[4h\x1b[4l\x1b[?7l\x1b[?7h\x1b[?": "",
	} {
		var f Filter
		f.Write([]byte(in))
		if got := string(f.Close()); got != want {
			t.Errorf("after %q: %q instead of %q", in, got, want)
		}
		if got := string(f.Write([]byte("25lx"))); got != "25lx" {
			t.Errorf("after Close of %q: %q", in, got)
		}
	}
}

func lines(in string, size int) []string {
	var t Text
	var out []string
	for piece := range slices.Chunk([]byte(in), size) {
		out = append(out, t.Write(piece)...)
	}
	return append(out, t.Rest())
}

func TestText(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"lines", "a\r\nb\nc", "a|b|c"},
		{"colours and titles", "\x1b]0;t\x07\x1b[32mok\x1b[m\r\n$ ", "ok|$ "},
		{"progress", "10%\r50%\r100%\r\n", "100%|"},
		{"overwritten in part", "hello\rJ\n", "Jello|"},
		{"mended while typed", "lz\b \bs -l\r\n", "ls -l|"},
		{"mended by a shell", "$ cat fle\x1b[D\x1b[D\x1b[1@i\r\n", "$ cat file|"},
		{"recalled and cut", "$ make all\r$ ls\x1b[K\r\n", "$ ls|"},
		{"deleted", "abcd\r\x1b[2P\n", "cd|"},
		{"erased", "abcd\x1b[2D\x1b[1K\n\x1b[2Kx\nabc\x1b[2K\n", "   d|x||"},
		{"blanked", "abcd\x1b[3D\x1b[2X\n", "a  d|"},
		{"columns", "\tx\x1b[3Gy\n\x1b[4Cz\n", "  y     x|    z|"},
		{"a program of the whole screen", "\x1b[?1049h\x1b[H\x1b[2Jtop\x1b[2;1Hline\x1b[?1049l", "top|line"},
		{"what is no text", "\x00\x01a\u009bb\xffc\u0085\n", "ab\ufffdc|"},
		{"a long line", strings.Repeat("x", maxText+1), strings.Repeat("x", maxText) + "|x"},
		{"a far column", "\x1b[99999Cx\n\x1b[999999999999999999999Cy", strings.Repeat(" ", 0) + "|x| y"},
	} {
		for _, size := range []int{1, 2, 1 << 20} {
			if got := strings.Join(lines(tt.in, size), "|"); got != tt.want {
				t.Errorf("%s in pieces of %d: %q instead of %q", tt.name, size, got, tt.want)
			}
		}
	}
}

// allowed is all that may reach a person's terminal, written down a second time.
var allowed = regexp.MustCompile(`^(?:` + strings.Join([]string{
	`[\x08-\x0f]`, `[ -~]`, `[^\x00-\x7f\x{80}-\x{9f}\x{61c}\x{200e}\x{200f}\x{202a}-\x{202e}\x{2066}-\x{2069}]`,
	`\x1b[78DEM]`, `\x1b[()][0AB]`,
	`\x1b\[[0-9;:]*[@-MPSTXZ` + "`" + `abdefmr]`, `\x1b\[[su]`,
	`\x1b\[4[hl]`, `\x1b\[\?(?:6|7|25|47|1047|1049)[hl]`,
}, "|") + `)*$`)

func seeds(f *testing.F) {
	for _, s := range []string{
		"a\x1b[1;31mb\x1b[m\r\n", "\x1b]0;t\x07x", "\x1b]52;c;eA==\x1b\\", "\x1b[?1049;2004h", "\xc2\x9b6n", "\x1b[6n\x1b[c", "\x1bP$qm\x1b\\", "\xe6\xbc", "\x1b[99999@x\r\t\x1b[3P",
	} {
		f.Add([]byte(s), 3)
	}
}

func FuzzFilter(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		whole := filtered(string(in), len(in)+1)
		if !allowed.MatchString(whole) {
			t.Fatalf("%q became %q", in, whole)
		}
		if cut := filtered(string(in), max(1, size%64)); cut != whole {
			t.Fatalf("%q became %q, in pieces %q", in, whole, cut)
		}
		if again := filtered(whole, len(whole)+1); again != whole {
			t.Fatalf("%q became %q, and that %q", in, whole, again)
		}
		var once Filter
		once.Write(in)
		if end := once.Close(); !allowed.Match(end) {
			t.Fatalf("%q ends with %q", in, end)
		}
		if utf8.Valid(in) && bytes.IndexFunc(in, unicode.IsControl) < 0 && !strings.ContainsFunc(string(in), func(r rune) bool { return unicode.Is(unicode.Bidi_Control, r) }) && whole != string(in) {
			t.Fatalf("text %q became %q", in, whole)
		}
	})
}

func FuzzText(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		whole := lines(string(in), len(in)+1)
		if cut := lines(string(in), max(1, size%64)); !slices.Equal(whole, cut) {
			t.Fatalf("%q became %q, in pieces %q", in, whole, cut)
		}
		for _, l := range whole {
			if strings.ContainsFunc(l, unicode.IsControl) || !utf8.ValidString(l) || utf8.RuneCountInString(l) > maxText {
				t.Fatalf("%q has the line %q", in, l)
			}
		}
	})
}
