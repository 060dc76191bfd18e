package mask

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// The numbers are those that authorities, Wikipedia and other implementations
// give as examples.
var nationals = []struct{ detector, value string }{
	{"ssn", "123-45-6789"},
	{"ssn", "SSN 123456789"},
	{"ssn", "social security: 123 45 6789"},
	{"uk-nino", "AB123456C"},
	{"uk-nino", "AB 12 34 56 C"},
	{"de-tax-id", "86095742719"},
	{"de-tax-id", "36 574 261 809"},
	{"fr-nir", "255081416802538"},
	{"fr-nir", "2 95 10 99 126 111 93"},
	{"es-dni", "12345678Z"},
	{"es-dni", "12345678-Z"},
	{"es-dni", "X1234567L"},
	{"it-codice-fiscale", "RSSMRA85T10A562S"},
	{"it-codice-fiscale", "MRTMTT25D09F205Z"},
	{"nl-bsn", "bsn: 111222333"},
	{"nl-bsn", "1112.22.333"},
	{"pl-pesel", "44051401359"},
	{"pl-pesel", "02070803628"},
	{"be-rrn", "85.07.30-033.28"},
	{"be-rrn", "85073003328"},
	{"se-personnummer", "811228-9874"},
	{"se-personnummer", "19811228-9874"},
	{"se-personnummer", "198112289874"},
	{"se-personnummer", "670919+9530"},
	{"no-fnr", "15108695088"},
	{"no-fnr", "151086 95088"},
	{"fi-hetu", "131052-308T"},
	{"fi-hetu", "131052A308T"},
	{"dk-cpr", "211062-5629"},
	{"dk-cpr", "cpr=2110625629"},
	{"br-cpf", "111.444.777-35"},
	{"br-cpf", "CPF 52998224725"},
	{"br-cnpj", "11.222.333/0001-81"},
	{"br-cnpj", "cnpj 11222333000181"},
	{"in-aadhaar", "2341 2341 2346"},
	{"in-aadhaar", "2341-2341-2346"},
	{"in-aadhaar", "aadhaar 234123412346"},
	{"cn-resident-id", "11010519491231002X"},
	{"ca-sin", "123-456-782"},
	{"ca-sin", "SIN: 123 456 782"},
	{"au-tfn", "TFN 123 456 782"},
	{"au-tfn", "tax file number 123456782"},
	{"ch-ahv", "756.9217.0769.85"},
	{"ch-ahv", "7569217076985"},
	{"phone", "01 23 45 67 89"},
	{"phone", "020 7946 0958"},
	{"phone", "03-1234-5678"},
	{"phone", "030/901820"},
	{"phone", "Tel 030 901820"},
	{"phone", "mobile: 07911123456"},
	{"ip-address", "8.34.208.14"},
	{"ip-address", "185.220.101.4:8080"},
	{"ip-address", "2a00:1450:4001:81b::200e"},
	{"ip-address", "[2606:4700::1111]:443"},
}

func TestNationalNumbers(t *testing.T) {
	s := NewScanner(PII)
	for _, tt := range nationals {
		for _, value := range []string{tt.value, "x (" + tt.value + ") y", tt.value + ".", `{"a":"` + tt.value + `"}`} {
			if hits := s.Scan([]byte(value)); len(hits) != 1 || hits[0].Detector != tt.detector {
				t.Errorf("%s: %q: %v", tt.detector, value, hits)
			}
			if out, _ := s.Mask(nil, []byte(value)); len(s.Scan(out)) > 0 {
				t.Errorf("%q has something left to find", out)
			}
		}
		number := tt.value[strings.LastIndexAny(tt.value[:len(tt.value)-9], "=: ")+1:]
		within := []string{"A1" + number, tt.value + "4", tt.value + "x"}
		if class[number[0]]&isDigit != 0 {
			within = append(within, "1."+number)
		}
		for _, value := range within {
			for _, h := range s.Scan([]byte(value)) {
				if h.Detector == tt.detector && tt.detector != "phone" && tt.detector != "ip-address" {
					t.Errorf("%s: %q within a word: %v", tt.detector, value, h)
				}
			}
		}
	}
}

// TestChangedDigit: with any one digit changed, a check digit is wrong. Those
// with a check of eleven remainders written as ten digits miss a few.
func TestChangedDigit(t *testing.T) {
	s := NewScanner(PII)
	for _, tt := range nationals {
		switch tt.detector {
		case "ssn", "uk-nino", "phone", "ip-address": // nothing is checked
			continue
		}
		changed, found := 0, 0
		for i := range tt.value {
			for d := byte('0'); d <= '9'; d++ {
				if b := tt.value[i]; b < '0' || b > '9' || b == d {
					continue
				}
				other := []byte(tt.value)
				other[i] = d
				changed++
				for _, h := range s.Scan(other) {
					if h.Detector == tt.detector {
						found++
					}
				}
			}
		}
		if found*50 > changed {
			t.Errorf("%s: %s is found with %d of %d wrong digits", tt.detector, tt.value, found, changed)
		}
	}
}

// TestNumbersOfRows: what ids and counters look like is rarely found.
func TestNumbersOfRows(t *testing.T) {
	s := NewScanner(PII)
	random := rand.New(rand.NewPCG(4, 7)) //nolint:gosec // The same each time.
	for digits := 5; digits <= 19; digits++ {
		found := 0
		for range 10_000 {
			value := fmt.Sprint(1 + random.IntN(9))
			for len(value) < digits {
				value += fmt.Sprint(random.IntN(10))
			}
			if s.Scan([]byte(value)) != nil {
				found++
			}
		}
		// Cards pass Luhn and an issuer's prefix: most of the numbers of 16 digits that are found.
		if limit := map[bool]int{true: 400, false: 200}[digits >= minCard]; found > limit {
			t.Errorf("%d of 10000 numbers of %d digits are found", found, digits)
		}
	}
}

func TestNationalNumbersPass(t *testing.T) {
	s := NewScanner(Secrets | PII)
	for _, value := range []string{
		"GB123456C", "DA123456C", "AB123456E", "AB1234567", "12345678A", "X1234567A", "RSSMRA85T10A562T", "RSSMRA85T32A562S",
		"123456782", "111222333", "id 123456782", "business: 123456782", "12 345 678 901", "111.111.111-11", "00000000000", "11111111111",
		"2341 2341 2346 1", "1234 1234 1234", "123-456-789", "11010517491231002X", "131352-308T", "991399-9874",
		"10.0.0.1", "192.168.178.20", "127.0.0.1", "169.254.1.1", "203.0.113.9", "1.2.3.4", "256.1.1.10", "8.34.208", "8.34.208.14.1", "v8.34.208.14", "0.0.0.0", "255.255.255.255",
		"fe80::1", "::1", "2001:db8::1", "fd00::1", "12:34:56", "2024:10:11", "2a00:", "2a00:1450:", "a:2a00::x",
		"01-02-2024", "2024-01-02", "00 12 34 56 78", "0301234567", "2024 12 31", "01 23 45 67", "555 0123", "1609459200", "1609459200000",
	} {
		if hits := s.Scan([]byte(value)); hits != nil {
			t.Errorf("%q: %v", value, hits)
		}
	}
}

// TestNameIsContext: the name of a column counts as a word before its values.
func TestNameIsContext(t *testing.T) {
	s := NewScanner(PII)
	if hits := s.scan(s.context("customer_bsn"), nil, []byte("123456782")); len(hits) != 1 || hits[0].Detector != "nl-bsn" {
		t.Error(hits)
	}
	if hits := s.scan(s.context("id"), nil, []byte("123456782")); hits != nil {
		t.Error(hits)
	}
}
