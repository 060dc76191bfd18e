package mask

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The reference tries every detector at every byte, with regular expressions
// and loops that skip nothing, remember nothing and take no short cuts.

type referenceHit struct {
	start, end int
	detector   string
}

func wordByte(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z'
}

// alphabets of the tables, in the words of regular expressions.
var alphabets = []struct {
	class uint16
	chars string
}{
	{isDigit, "0-9"},
	{isUpper, "A-Z"},
	{isLower, "a-z"},
	{isHexLower, "0-9a-f"},
	{isHex, "0-9A-Fa-f"},
	{isTokenish, "0-9A-Za-z_-"},
	{isBase64, "0-9A-Za-z+/"},
	{isDotted, "0-9A-Za-z_.=~-"},
}

func expression(classes uint16) string {
	var b strings.Builder
	for _, a := range alphabets {
		if classes&a.class != 0 {
			b.WriteString(strings.TrimSuffix(a.chars, "-"))
		}
	}
	return "[" + b.String() + map[bool]string{true: "-", false: ""}[classes&(isTokenish|isDotted) != 0] + "]*"
}

var tokenExpressions = func() (list []*regexp.Regexp) {
	for _, k := range tokenKinds {
		list = append(list, regexp.MustCompile("^"+regexp.QuoteMeta(k.prefix)+"("+expression(k.classes)+")"))
	}
	return list
}()

func referenceTokens(v string) (hits []referenceHit) {
	for n, k := range tokenKinds {
		for from := 0; ; {
			start := strings.Index(v[from:], k.prefix)
			if start < 0 {
				break
			}
			start += from
			from = start + 1
			if start > 0 && wordByte(v[start-1]) {
				continue
			}
			body := tokenExpressions[n].FindStringSubmatch(v[start:])[1]
			if k.classes&isDotted != 0 {
				body = strings.TrimRight(body, ".")
			}
			end := start + len(k.prefix) + len(body)
			if len(body) < k.min || len(body) > k.max || k.check != nil && !k.check([]byte(body)) {
				continue
			}
			if k.classes&isTokenish == 0 && end < len(v) && wordByte(v[end]) {
				continue
			}
			hits = append(hits, referenceHit{start, end, k.detector})
		}
	}
	return hits
}

var shapeExpressions = func() (list []*regexp.Regexp) {
	replace := strings.NewReplacer("d", "[0-9]", "A", "[A-Z]", "X", "[0-9A-Z]", ".", `\.`, "+", `\+`)
	for _, f := range nationalForms {
		list = append(list, regexp.MustCompile("^"+replace.Replace(f.shape)))
	}
	return list
}()

func referenceNational(v string) (hits []referenceHit) {
	for n, f := range nationalForms {
		for start := range len(v) {
			m := shapeExpressions[n].FindString(v[start:])
			end := start + len(m)
			if m == "" || !apart(v, start, end) || start > 0 && v[start-1] == '-' {
				continue
			}
			rest := v[end:]
			if pointDigit.MatchString(rest) ||
				strings.Contains(f.shape, " ") && !strings.HasSuffix(f.shape, "A") && spaceDigit.MatchString(rest) {
				continue
			}
			d := chars{}
			for _, b := range []byte(m) {
				if wordByte(b) {
					d.b[d.n] = b
					d.n++
				}
			}
			if !f.valid(d) || f.near != nil && !regexp.MustCompile(`(^|[^0-9A-Za-z-])(`+strings.Join(f.near, "|")+`)($|[^A-Za-z])`).MatchString(asciiLower(v[max(0, start-maxNear):start])) {
				continue
			}
			hits = append(hits, referenceHit{start, end, f.detector})
		}
	}
	return hits
}

func asciiLower(s string) string {
	b := []byte(s)
	for i, x := range b {
		if x >= 'A' && x <= 'Z' {
			b[i] = x + 32
		}
	}
	return string(b)
}

// apart: v[start:end] is not within a longer word or number.
func apart(v string, start, end int) bool {
	if start > 0 && wordByte(v[start-1]) || end < len(v) && (wordByte(v[end]) || v[end] == '_' || v[end] == '-') {
		return false
	}
	return start < 2 || v[start-1] != '.' || v[start-2] < '0' || v[start-2] > '9'
}

var lettersExpressions = []struct {
	detector string
	form     *regexp.Regexp
	valid    func(string) bool
}{
	{"uk-nino", regexp.MustCompile(`[A-Z]{2}[0-9]{6}[A-D]`), func(s string) bool { return ninoPrefix(s[0], s[1]) }},
	{"es-dni", regexp.MustCompile(`[XYZ][0-9]{7}[A-Z]`), func(s string) bool {
		d := chars{n: 9}
		copy(d.b[:], string("012"[s[0]-'X'])+s[1:])
		return dni(d)
	}},
	{"it-codice-fiscale", regexp.MustCompile(`[A-Z]{6}[0-9]{2}[A-Z][0-9]{2}[A-Z][0-9]{3}[A-Z]`), func(s string) bool { return codiceFiscale([]byte(s)) }},
}

func referenceLetters(v string) (hits []referenceHit) {
	for _, e := range lettersExpressions {
		for start := range len(v) {
			m := e.form.FindStringIndex(v[start:])
			if m == nil || m[0] != 0 {
				continue
			}
			end := start + m[1]
			if start > 0 && (wordByte(v[start-1]) || v[start-1] == '_' || v[start-1] == '-') || !apart(v, start, end) && !dotted(v, start) || !e.valid(v[start:end]) {
				continue
			}
			if end < len(v) && (wordByte(v[end]) || v[end] == '_' || v[end] == '-') {
				continue
			}
			hits = append(hits, referenceHit{start, end, e.detector})
		}
	}
	return hits
}

func dotted(v string, start int) bool { return start > 0 && v[start-1] == '.' }

var (
	pointDigit  = regexp.MustCompile(`^\.[0-9]`)
	spaceDigit  = regexp.MustCompile(`^ [0-9]`)
	fourNumbers = regexp.MustCompile(`^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}`)
	cardNumber  = regexp.MustCompile(`^[0-9]{13,19}`)
)

func referenceNumbers(v string) (hits []referenceHit) {
	for start := range len(v) {
		if m := fourNumbers.FindString(v[start:]); m != "" && apart(v, start, start+len(m)) && len(m) > 7 && (start == 0 || v[start-1] != '-' && v[start-1] != '.') {
			a, err := netip.ParseAddr(m)
			if err == nil && somebodys(a) && !pointDigit.MatchString(v[start+len(m):]) {
				hits = append(hits, referenceHit{start, start + len(m), "ip-address"})
			}
		}
		if m := cardNumber.FindString(v[start:]); m != "" && cardDigits([]byte(m)) {
			end := start + len(m)
			if start > 0 && wordByte(v[start-1]) || start > 1 && dotted(v, start) && v[start-2] >= '0' && v[start-2] <= '9' {
				continue
			}
			if end < len(v) && wordByte(v[end]) || pointDigit.MatchString(v[end:]) {
				continue
			}
			hits = append(hits, referenceHit{start, end, "card"})
		}
	}
	return hits
}

// everywhere calls the other detectors at every byte of their trigger, each
// time with a cursor that remembers nothing.
func everywhere(s *Scanner, v []byte) (hits []referenceHit) {
	for i := range v {
		t := s.triggers[v[i]]
		if t == none || t == onDigit && i > 0 && class[v[i-1]]&isDigit != 0 {
			continue
		}
		c := cursor{v: v, groups: s.groups}
		c.at(i, t)
		for _, h := range c.hits {
			hits = append(hits, referenceHit{h.Start, h.End, h.Detector})
		}
	}
	return hits
}

func overlaps(a referenceHit, b Hit) bool { return a.start < b.End && b.Start < a.end }

// disagreement compares what the scanner finds with what the reference does:
// where one finds something, so does the other, and where nothing else is
// near, it is the same.
func disagreement(value []byte) string {
	s := NewScanner(Secrets | PII)
	v := string(value)
	hits := s.Scan(value)
	forms := append(append(append(referenceTokens(v), referenceNational(v)...), referenceLetters(v)...), referenceNumbers(v)...)
	want := append(forms, everywhere(s, value)...)
	for _, w := range want {
		same, near := false, 0
		for _, h := range hits {
			if overlaps(w, h) {
				near++
				same = same || h.Start <= w.start && h.End >= w.end
			}
		}
		for _, other := range want {
			if other != w && other.start < w.end && w.start < other.end {
				near++ // which of two that overlap is found depends on which comes first
			}
		}
		if near == 0 || near == 1 && !same {
			return fmt.Sprintf("%v is found only by the reference; the scanner finds %v", w, hits)
		}
	}
	for _, h := range hits {
		found := false
		for _, w := range want {
			found = found || overlaps(w, h)
		}
		if !found {
			return fmt.Sprintf("%v is found only by the scanner", h)
		}
	}
	return ""
}

// corpus has what each detector finds, alone and beside others.
func corpus() (list []string) {
	for _, f := range findings {
		list = append(list, f.value)
	}
	for i := range tokenKinds {
		list = append(list, tokenKinds[i].sample())
	}
	for _, n := range nationals {
		list = append(list, n.value)
	}
	for i := range len(list) - 1 {
		list = append(list, list[i]+" "+list[i+1], list[i]+list[i+1], list[i]+"-"+list[i+1], list[i]+"."+list[i+1])
	}
	return list
}

// FuzzReference checks, for each detector, that the scanner agrees with the
// reference.
func FuzzReference(f *testing.F) {
	for _, value := range corpus() {
		f.Add([]byte(value))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		if len(value) > 2000 {
			return
		}
		if why := disagreement(value); why != "" {
			t.Fatalf("%q: %s", value, why)
		}
	})
}

// TestTimeIsLinear: no text makes a scan take long. What is quadratic takes
// much longer for these.
func TestTimeIsLinear(t *testing.T) {
	s := NewScanner(Secrets|PII).With(nil, staffNumber())
	const size = 1 << 18
	for _, piece := range []string{
		"sk-", "hvs.", "eyJ.", "eyJ", "ZXlK ", "password=", "password:a ", "a@", "://", "://hooks.slack.com/services/", "1234 ", "12 ", "1", "a1", "+1 ",
		"DE89 ", "DE", "-----BEGIN ", "AKIA" + "IOSFODNN7EXAMPLE ", "github_pat_", "=", ".", "...a", "~", "Q~", "_mmk", "2a00:", ":", "pat.", "M.", "aaaaaa.",
		"EMP-", "employee1", "datadog_key=aaaaaaaaaaaaaaaa ", "8.34.", "\\", `"`, "2026-01-01 00:00:00 ", "01234567-0123-0123-0123-0123456789ab",
	} {
		for _, value := range []string{strings.Repeat(piece, size/len(piece)), strings.Repeat(piece, size/2/len(piece)) + strings.Repeat(".", size/2)} {
			began := time.Now()
			s.Scan([]byte(value))
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("%q: %v", piece, took)
			}
		}
	}
}
