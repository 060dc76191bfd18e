package mask

// ibanLength is how long an account number is by country (SWIFT's registry).
var ibanLength = map[string]int{
	"AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "CH": 21,
	"CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18,
	"FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23,
	"IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27,
	"MD": 24, "ME": 22, "MK": 19, "MT": 31, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29,
	"RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24, "TR": 26, "UA": 29, "VA": 22,
	"VG": 24, "XK": 20,
}

// iban looks at the first digit behind a country code. The number may be
// written in groups parted by single spaces.
func (c *cursor) iban(i int) int {
	start := i - 2
	if start < 0 || !c.is(start, isUpper) || c.is(start-1, isAlnum) {
		return 0
	}
	want := ibanLength[string(c.v[start:i])]
	var number [34]byte
	n, j := 0, start
	for ; n < want && j < len(c.v); j++ {
		b := c.v[j]
		if b == ' ' && n > 0 && c.v[j-1] != ' ' {
			continue
		}
		if class[b]&(isUpper|isDigit) == 0 {
			return 0
		}
		number[n] = b
		n++
	}
	if want == 0 || n < want || c.is(j, isAlnum) || !mod97(number[:n]) {
		return 0
	}
	return c.hit(start, j, "iban")
}

// mod97 is ISO 7064's check with the first four characters moved to the end.
func mod97(number []byte) bool {
	sum := 0
	for i := range number {
		switch b := number[(i+4)%len(number)]; {
		case class[b]&isDigit != 0:
			sum = (sum*10 + int(b-'0')) % 97
		default:
			sum = (sum*100 + int(b-'A') + 10) % 97
		}
	}
	return sum == 1
}
