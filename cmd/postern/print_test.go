package main

import "testing"

// TestSafe: what an agent wrote cannot move the cursor, hide or turn around
// what a person reads.
func TestSafe(t *testing.T) {
	for in, want := range map[string]string{
		"SELECT 'plain', 'é', '☃', '日本'": "SELECT 'plain', 'é', '☃', '日本'",
		"a\nb\tc":                        `a\nb c`,
		"\x1b[2Jgone":                    `\u001b[2Jgone`,
		"\r\x08\x7f":                     `\u000d\u0008\u007f`,
		"x\u202etxet":                    `x\u202etxet`,
		"zero\u200bwidth\ufeff\u00ad":    `zero\u200bwidth\ufeff\u00ad`,
		"wide\u3000\u2003space":          `wide\u3000\u2003space`,
		"tag\U000e0041":                  `tag\U000e0041`,
		"bad\xff":                        `bad\ufffd`,
	} {
		if got := safe(in); got != want {
			t.Errorf("safe(%q) = %s, want %s", in, got, want)
		}
	}
	if got := short("SELECT\n1234567890", 8); got != `SELECT\…` {
		t.Errorf("short: %s", got)
	}
}

func TestPlaceholderIsRandom(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		p := randomText(placeholderLength)
		if len(p) != placeholderLength || seen[p] {
			t.Fatalf("%q", p)
		}
		seen[p] = true
	}
}
