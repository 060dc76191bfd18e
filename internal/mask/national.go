package mask

import "bytes"

// nationalForm is one way in which a country's number is written.
type nationalForm struct {
	shape    string // d is a digit, A an upper-case letter, X either; all else is itself
	detector string
	valid    func(chars) bool // of the digits and letters
	near     []string         // one of these words must be shortly before it; nil: the check is enough
}

// Where a random number of the shape would pass more often than once in a
// hundred times, a word has to be near it: a tenth of all rows of nine digits
// are somebody's number.
var nationalForms = []nationalForm{
	{"ddd-dd-dddd", "ssn", ssnValid, nil},
	{"ddd dd dddd", "ssn", ssnValid, nearSSN},
	{"ddddddddd", "ssn", ssnValid, nearSSN},
	{"dd ddd ddd ddd", "de-tax-id", steuerID, nil},
	{"ddddddddddd", "de-tax-id", steuerID, nil},
	{"ddddddddddddddd", "fr-nir", nir, nil},
	{"d dd dd dd ddd ddd dd", "fr-nir", nir, nil},
	{"ddddddddA", "es-dni", dni, nil},
	{"dddddddd-A", "es-dni", dni, nil},
	{"ddddddddd", "nl-bsn", bsn, []string{"bsn", "burgerservice", "sofi"}},
	{"dddd.dd.ddd", "nl-bsn", bsn, nil},
	{"ddddddddddd", "pl-pesel", pesel, nil},
	{"ddddddddddd", "be-rrn", rrn, nil},
	{"dd.dd.dd-ddd.dd", "be-rrn", rrn, nil},
	{"dddddd-dddd", "se-personnummer", personnummer, nil},
	{"dddddd+dddd", "se-personnummer", personnummer, nil},
	{"dddddddd-dddd", "se-personnummer", personnummer12, nil},
	{"dddddddddddd", "se-personnummer", personnummer12, nil},
	{"ddddddddddd", "no-fnr", fodselsnummer, nil},
	{"dddddd ddddd", "no-fnr", fodselsnummer, nil},
	{"dddddd-dddX", "fi-hetu", hetu, nil},
	{"dddddd+dddX", "fi-hetu", hetu, nil},
	{"ddddddAdddX", "fi-hetu", hetu, nil},
	{"dddddd-dddd", "dk-cpr", cpr, nil},
	{"dddddddddd", "dk-cpr", cpr, []string{"cpr", "personnummer"}},
	{"ddd.ddd.ddd-dd", "br-cpf", cpf, nil},
	{"ddddddddddd", "br-cpf", cpf, []string{"cpf"}},
	{"dd.ddd.ddd/dddd-dd", "br-cnpj", cnpj, nil},
	{"dddddddddddddd", "br-cnpj", cnpj, []string{"cnpj"}},
	{"dddd dddd dddd", "in-aadhaar", aadhaar, nil},
	{"dddd-dddd-dddd", "in-aadhaar", aadhaar, nil},
	{"dddddddddddd", "in-aadhaar", aadhaar, []string{"aadhaar", "aadhar", "uidai"}},
	{"dddddddddddddddddd", "cn-resident-id", residentID, nil},
	{"dddddddddddddddddA", "cn-resident-id", residentID, nil},
	{"ddd-ddd-ddd", "ca-sin", sin, nil},
	{"ddd ddd ddd", "ca-sin", sin, nearSIN},
	{"ddddddddd", "ca-sin", sin, nearSIN},
	{"ddd ddd ddd", "au-tfn", tfn, nearTFN},
	{"ddddddddd", "au-tfn", tfn, nearTFN},
	{"ddd.dddd.dddd.dd", "ch-ahv", ahv, nil},
	{"ddddddddddddd", "ch-ahv", ahv, nil},
	{"dd dd dd dd dd", "phone", trunk, nil}, // France
	{"dd.dd.dd.dd.dd", "phone", trunk, nil},
	{"ddd dddd dddd", "phone", trunk, nil}, // the United Kingdom, London
	{"dddd ddd dddd", "phone", trunk, nil},
	{"ddddd dddddd", "phone", trunk, nil},
	{"dd-dddd-dddd", "phone", trunk, nil}, // Japan
	{"ddd-dddd-dddd", "phone", trunk, nil},
	{"ddd/dddddd", "phone", trunk, nil}, // Germany
	{"ddd/ddddddd", "phone", trunk, nil},
	{"ddd/dddddddd", "phone", trunk, nil},
	{"dddd/dddddd", "phone", trunk, nil},
	{"dddd/ddddddd", "phone", trunk, nil},
	{"ddddd/dddddd", "phone", trunk, nil},
	{"dddddddddd", "phone", trunk, nearPhone},
	{"ddddddddddd", "phone", trunk, nearPhone},
	{"ddd dddddd", "phone", trunk, nearPhone},
	{"ddd ddddddd", "phone", trunk, nearPhone},
	{"dddd dddddd", "phone", trunk, nearPhone},
	{"dddd ddddddd", "phone", trunk, nearPhone},
}

var (
	nearSSN   = []string{"ssn", "social security", "social_security", "socialsecurity"}
	nearSIN   = []string{"sin", "social insurance", "social_insurance"}
	nearTFN   = []string{"tfn", "tax file", "tax_file"}
	nearPhone = []string{"phone", "tel", "telefon", "mobile", "mobil", "fax", "cell"}
)

const (
	maxNear     = 40  // how far before a number its word may begin
	maxName     = 128 // of a column and what it is called in the answer, PostgreSQL's NAMEDATALEN each
	maxNational = 18  // digits and letters in the longest form
)

// formIndex has nationalForms by how many digits they begin with and what
// follows: 0 for those that are digits only, A for letters.
var formIndex = func() (t [maxNational + 1][128][]*nationalForm) {
	for k := range nationalForms {
		f := &nationalForms[k]
		n := 0
		for n < len(f.shape) && f.shape[n] == 'd' {
			n++
		}
		next := byte(0)
		if n < len(f.shape) {
			next = f.shape[n]
		}
		t[n][next] = append(t[n][next], f)
	}
	return t
}()

// national looks at a row of digits, v[i:end], with nothing of a word before it.
// It returns the end of what it finds, or 0.
func (c *cursor) national(i, end int) int {
	n := end - i
	if n > maxNational {
		return 0
	}
	index := &formIndex[n]
	if end < len(c.v) {
		next := c.v[end]
		if class[next]&isUpper != 0 {
			next = 'A'
		} else if !c.is(end+1, isDigit|isUpper) {
			next = 0 // no separator
		}
		if next != 0 && next < 128 {
			for _, f := range index[next] {
				if stop := c.form(i, f); stop > 0 {
					return stop
				}
			}
		}
		if class[c.v[end]]&isTokenish != 0 {
			return 0
		}
	}
	for _, f := range index[0] {
		if stop := c.form(i, f); stop > 0 {
			return stop
		}
	}
	return 0
}

func (c *cursor) form(i int, f *nationalForm) int {
	end := i + len(f.shape)
	if end > len(c.v) || c.is(end, isTokenish) || i > 0 && c.v[i-1] == '-' {
		return 0
	}
	var found chars
	spaced := false
	for k := range len(f.shape) {
		b, want := c.v[i+k], f.shape[k]
		if of := shapeClass[want]; of != 0 {
			if class[b]&of == 0 {
				return 0
			}
			found.b[found.n] = b
			found.n++
			continue
		}
		if b != want {
			return 0
		}
		spaced = spaced || b == ' '
	}
	if (c.is(end-1, isDigit) && spaced && end < len(c.v) && c.v[end] == ' ' || end < len(c.v) && c.v[end] == '.') && c.is(end+1, isDigit) {
		return 0 // the number goes on
	}
	if !f.valid(found) || f.near != nil && !c.near(i, f.near) {
		return 0
	}
	return c.hit(i, end, f.detector)
}

// shapeClass is what a letter of a shape stands for.
var shapeClass = [256]uint16{'d': isDigit, 'A': isUpper, 'X': isUpper | isDigit}

// near reports whether one of the words stands shortly before i, or in the name
// of what is searched, as a word or part of a name.
func (c *cursor) near(i int, words []string) bool {
	return hasWord(c.v[max(0, i-maxNear):i], words) || hasWord(c.name[:min(len(c.name), maxName)], words)
}

// hasWord looks for words in lower case as whole words, whatever the case. A
// dash before one is that of a replacement, redacted-phone, which says nothing
// of what follows.
func hasWord[T []byte | string](text T, words []string) bool {
	var lower [maxName]byte
	n := copy(lower[:], text)
	for k, b := range lower[:n] {
		if class[b]&isUpper != 0 {
			lower[k] = b | 0x20
		}
	}
	for _, w := range words {
		for at := 0; ; at++ {
			k := bytes.Index(lower[at:n], []byte(w))
			if k < 0 {
				break
			}
			at += k
			behind := at + len(w)
			if (at == 0 || class[lower[at-1]]&isAlnum == 0 && lower[at-1] != '-') && (behind == n || class[lower[behind]]&(isLower|isUpper) == 0) {
				return true
			}
		}
	}
	return false
}

// lettered looks at the digits, v[i:end], behind letters: British, Spanish and
// Italian numbers.
func (c *cursor) lettered(i, end int) int {
	switch n := end - i; {
	case n == 6 && c.is(i-2, isUpper) && !c.is(i-3, isTokenish) && end < len(c.v) && c.v[end] >= 'A' && c.v[end] <= 'D':
		if !c.is(end+1, isTokenish) && ninoPrefix(c.v[i-2], c.v[i-1]) {
			return c.hit(i-2, end+1, "uk-nino")
		}
	case n == 7 && c.v[i-1] >= 'X' && c.v[i-1] <= 'Z' && !c.is(i-2, isTokenish) && c.is(end, isUpper) && !c.is(end+1, isTokenish):
		d := chars{n: 9}
		d.b[0] = '0' + c.v[i-1] - 'X'
		copy(d.b[1:], c.v[i:end+1])
		if dni(d) {
			return c.hit(i-1, end+1, "es-dni")
		}
	case n == 2 && i >= 6 && i+10 <= len(c.v) && !c.is(i-7, isTokenish) && !c.is(i+10, isTokenish) && codiceFiscale(c.v[i-6:i+10]):
		return c.hit(i-6, i+10, "it-codice-fiscale")
	}
	return 0
}

// spacedNino is AB 12 34 56 C, seen from the 12.
func (c *cursor) spacedNino(i int) int {
	end := i + 10
	if i < 3 || c.v[i-1] != ' ' || end > len(c.v) || !c.is(i-2, isUpper) || !c.is(i-3, isUpper) || c.is(i-4, isTokenish) || c.is(end, isTokenish) {
		return 0
	}
	if c.v[i+2] != ' ' || c.v[i+5] != ' ' || c.v[i+8] != ' ' || c.digitsAt(i+3, 2) < 0 || c.digitsAt(i+6, 2) < 0 || c.v[i+9] < 'A' || c.v[i+9] > 'D' {
		return 0
	}
	if !ninoPrefix(c.v[i-3], c.v[i-2]) {
		return 0
	}
	return c.hit(i-3, end, "uk-nino")
}
