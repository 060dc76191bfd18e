package mask

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

func staffNumber() Custom {
	check, _ := ParseCheck("luhn")
	return Custom{
		Name: "staff-number", Anchors: []string{"EMP-", "employee"}, Pattern: regexp.MustCompile(`\b(?:EMP-)?([0-9]{8})\b`),
		Before: 8, After: 32, Check: check, Kind: Redact,
	}
}

func TestCustom(t *testing.T) {
	partial, hashed, pseudonym := staffNumber(), staffNumber(), staffNumber()
	partial.Name, partial.Kind = "staff-partial", Partial
	hashed.Kind, pseudonym.Kind = Hash, Pseudonym
	for _, tt := range []struct {
		custom Custom
		in     string
		want   string // a regular expression
	}{
		{staffNumber(), "EMP-12345674", `EMP-redacted-staff-number`},
		{staffNumber(), "emp-12345674, Employee: 87654323.", `emp-redacted-staff-number, Employee: redacted-staff-number\.`},
		{staffNumber(), "EMP-X12345674", `EMP-X12345674`},                                            // \b
		{staffNumber(), "EMP-12345675", `EMP-12345675`},                                              // Luhn
		{staffNumber(), "12345674", `12345674`},                                                      // no anchor
		{staffNumber(), "employee" + strings.Repeat(".", 33) + "12345674", `employee\.{33}12345674`}, // too far behind
		{staffNumber(), "12345674 employee", `12345674 employee`},                                    // too far before
		{staffNumber(), "1234 7 employee 12345674", `1234 7 employee redacted-staff-number`},         // behind other digits
		{staffNumber(), "bob@example.com EMP-12345674", `redacted-email EMP-redacted-staff-number`},  // beside one that is built in
		{staffNumber(), "x9999EMPLOYEE 12345674", `x9999EMPLOYEE redacted-staff-number`},             // the anchor is in a word that others skip
		{staffNumber(), "password=EMP-12345674 x", `password=redacted-password x`},                   // within another find: all of it goes
		{partial, "EMP-12345674", `EMP-\*{6}74`},
		{partial, "EMP-12345674@example.com", `redacted-email`}, // overlapping finds are redacted, not shown in part
		{hashed, "EMP-12345674", `EMP-[0-9a-f]{32}`},
		{pseudonym, "EMP-12345674", `EMP-[0-9]{8}`},
	} {
		s := NewScanner(Secrets|PII).With(key, tt.custom)
		for _, binary := range []bool{false, true} {
			out, null := Detect(s, "", "text", binary).Mask([]byte(tt.in))
			if null || !regexp.MustCompile("^"+tt.want+"$").Match(out) {
				t.Errorf("%s: %q: %q, want %s", tt.custom.Kind, tt.in, out, tt.want)
			}
		}
	}
	if out, _ := NewScanner(0).With(nil, hashed).Mask(nil, []byte("EMP-12345674")); string(out) != "EMP-redacted-staff-number" {
		t.Errorf("without a key: %q", out)
	}
	if out, _ := NewScanner(0).With(nil, staffNumber()).Mask(nil, []byte("bob@example.com")); string(out) != "bob@example.com" {
		t.Errorf("detectors that are not asked for found %q", out)
	}
}

// TestCustomByColumn: an anchor in the name of a column stands for one before
// each of its values.
func TestCustomByColumn(t *testing.T) {
	s := NewScanner(0).With(nil, staffNumber())
	for _, tt := range []struct{ name, typ, in, want string }{
		{"employee_no", "text", "12345674", "redacted-staff-number"},
		{"no Employee", "text", "12345674", "redacted-staff-number"},
		{"employee_no", "int4", "12345674", ""},
		{"order_no", "text", "12345674", "12345674"},
		{"employee_no", "json", `{"n":"12345674"}`, `{"n":"redacted-staff-number"}`},
	} {
		if out, null := Detect(s, tt.name, tt.typ, false).Mask([]byte(tt.in)); string(out) != tt.want || null != (tt.want == "") {
			t.Errorf("%s: %q: %q, %v", tt.name, tt.in, out, null)
		}
	}
}

// TestColumnNamesSecrets: a column that is called what its values are.
func TestColumnNamesSecrets(t *testing.T) {
	s := NewScanner(Secrets)
	for _, tt := range []struct{ name, in, want string }{
		{"password", "Tr0ub4dor", "redacted-password"},
		{"users_api_key x", base62[:32], "redacted-secret"},
		{"password", "required", "required"},
		{"token", "pending", "pending"},
		{"password_reset_at", "Tr0ub4dor", "Tr0ub4dor"},
		{"", "Tr0ub4dor", "Tr0ub4dor"},
	} {
		if out, _ := Detect(s, tt.name, "text", false).Mask([]byte(tt.in)); string(out) != tt.want {
			t.Errorf("%s: %q: %q", tt.name, tt.in, out)
		}
	}
}

func TestChecks(t *testing.T) {
	for _, tt := range []struct {
		check, in string
		want      bool
	}{
		{"luhn", "1234-5674", true},
		{"luhn", "12345675", false},
		{"luhn", "x", false},
		{"mod97", "5493001KJTIIGC8Y1R12", true}, // an LEI
		{"mod97", "5493001KJTIIGC8Y1R13", false},
		{"mod97", "", false},
		{"entropy >= 3.5", base62[:16], true},
		{"entropy >= 3.5", "aaaabbbbaaaabbbb", false},
	} {
		check, err := ParseCheck(tt.check)
		if err != nil || check([]byte(tt.in)) != tt.want {
			t.Errorf("%s of %q: %v, %v", tt.check, tt.in, !tt.want, err)
		}
	}
	if check, err := ParseCheck(""); check != nil || err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"crc", "entropy", "entropy >= x"} {
		if _, err := ParseCheck(bad); err == nil {
			t.Errorf("%q is a check", bad)
		}
	}
}

// FuzzCustom checks that what the scanner finds is what the pattern alone finds
// in the windows around all anchors, found one by one.
func FuzzCustom(f *testing.F) {
	f.Add([]byte("EMP-12345674 and employee 87654323, EMP-emp-employeeemployee12345674"), uint8(8), uint8(20))
	f.Add([]byte("bob@exEMP-ample.com 12345674EMP-"), uint8(30), uint8(0))
	f.Fuzz(func(t *testing.T, value []byte, before, after uint8) {
		d := staffNumber()
		d.Before, d.After = int(before), int(after)
		want := make([]bool, len(value))
		lower := bytes.ToLower(value)
		if len(lower) != len(value) { // not ASCII
			return
		}
		seen := make([]bool, len(value)+1)
		inside := make([]bool, len(value)+1) // position i and i+1 are of one window
		for i := range value {
			for _, a := range d.Anchors {
				if a = strings.ToLower(a); bytes.HasPrefix(lower[i:], []byte(a)) {
					for k := max(0, i-d.Before); k < min(len(value), i+len(a)+d.After); k++ {
						seen[k], inside[k] = true, true
					}
				}
			}
		}
		for start := 0; start < len(value); start++ {
			if !seen[start] {
				continue
			}
			end := start
			for end < len(value) && inside[end] {
				end++
			}
			for _, m := range d.Pattern.FindAllSubmatchIndex(value[start:end], -1) {
				if d.Check(value[start+m[2] : start+m[3]]) {
					for k := m[2]; k < m[3]; k++ {
						want[start+k] = true
					}
				}
			}
			start = end
		}
		got := make([]bool, len(value))
		for _, h := range NewScanner(0).With(nil, d).Scan(value) {
			for k := h.Start; k < h.End; k++ {
				got[k] = true
			}
		}
		for k := range want {
			if want[k] != got[k] {
				t.Fatalf("%q, %d, %d: byte %d: want %v, got %v", value, before, after, k, want[k], got[k])
			}
		}
	})
}
