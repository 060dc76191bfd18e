package mask

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// The samples that NIST publishes for FF1 with AES-128.
func TestFF1(t *testing.T) {
	key, _ := hex.DecodeString("2B7E151628AED2A6ABF7158809CF4F3C")
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	for tweak, want := range map[string]string{"": "2433477484", "9876543210": "6124200773"} {
		f := &ff1{block: block, radix: 10, tweak: []byte(tweak)}
		a, b := f.encrypt(1234, 56789, 10)
		if got := fmt.Sprintf("%05d%05d", a, b); got != want {
			t.Errorf("tweak %q: %s, want %s", tweak, got, want)
		}
		if a, b = f.decrypt(a, b, 10); a != 1234 || b != 56789 {
			t.Errorf("tweak %q: decrypted to %d %d", tweak, a, b)
		}
	}
}

// samples are values by type, in text.
var samples = map[string][]string{
	"text": {"", "a", "Ada", "ada@example.org", "Ünïcode", strings.Repeat("x", maxReversible), "4111111111111111", "12345678", strings.Repeat("9", 36), "1234567", "a\x80", "p_x"},
	"int2": {"0", "1", "-1", "32767", "-32768", "77"}, "int4": {"0", "2147483647", "-2147483648", "1000"},
	"int8": {"9223372036854775807", "-9223372036854775808", "42"},
	"uuid": {"550e8400-e29b-41d4-a716-446655440000"}, "bytea": {`\x`, `\xdeadbeef`},
}

func TestRestore(t *testing.T) {
	for typ, values := range samples {
		seen := map[string]string{}
		for _, value := range values {
			masked := one(t, Pseudonym, typ, false, key, value)
			if masked == value || seen[masked] != "" {
				t.Errorf("%s %q became %q, as did %q", typ, value, masked, seen[masked])
			}
			seen[masked] = value
			got, sure, ok := Restore(typ, false, key, []byte(masked))
			digits := typ == "text" && len(value) >= minDigits && allDigits([]byte(value))
			if !ok || string(got) != value || sure != (typ == "text" && !digits || typ == "bytea") {
				t.Errorf("%s %q: %q, sure %t, %t", typ, value, got, sure, ok)
			}
			if other, _, ok := Restore(typ, false, []byte("another key"), []byte(masked)); ok && string(other) == value {
				t.Errorf("%s %q was restored with another key", typ, value)
			}
		}
	}
	long := strings.Repeat("x", maxReversible+1)
	masked := one(t, Pseudonym, "text", false, key, long)
	if _, _, ok := Restore("text", false, key, []byte(masked)); ok || len(masked) > 20 {
		t.Errorf("%q stands for all of %d bytes", masked, len(long))
	}
}

// A width of 2 is small enough to try all of it: no two values share a pseudonym.
func TestNumbersArePermuted(t *testing.T) {
	p, seen := newPseudonyms(key), map[int64]bool{}
	for v := int64(-1 << 15); v < 1<<15; v++ {
		w := p.number(v, 2, true)
		if seen[w] || w < -1<<15 || w >= 1<<15 || p.number(w, 2, false) != v {
			t.Fatalf("%d became %d", v, w)
		}
		seen[w] = true
	}
}

// Bound values come in widths of their own.
func TestRestoreBinary(t *testing.T) {
	masked, err := strconv.ParseInt(one(t, Pseudonym, "int4", false, key, "1000"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	wide := []byte{0, 0, 0, 0, byte(masked >> 24), byte(masked >> 16), byte(masked >> 8), byte(masked)}
	for _, value := range [][]byte{wide, wide[4:]} {
		got, _, ok := Restore("int4", true, key, value)
		if n, _ := binaryInt(got); !ok || n != 1000 || len(got) != len(value) {
			t.Errorf("%x: %x, %t", value, got, ok)
		}
	}
	for _, bad := range [][]byte{nil, {}, {1}, bytes.Repeat([]byte{0x7f}, 8)} {
		if _, _, ok := Restore("int4", true, key, bad); ok {
			t.Errorf("%x was restored", bad)
		}
	}
}

// What nobody made is no pseudonym, nor is one that was changed.
func TestRestoreRefuses(t *testing.T) {
	masked := one(t, Pseudonym, "text", false, key, "ada@example.org")
	for _, text := range []string{
		"", "ada@example.org", "p_", "p_0", masked[:len(masked)-1], strings.ToUpper(masked), strings.TrimSuffix(masked, mailDomain), masked + " ",
		masked[:5] + "0" + masked[6:], "p_" + strings.Repeat("z", 42) + mailDomain, "q" + masked[1:], masked + mailDomain,
	} {
		if text == masked {
			continue
		}
		if got, _, ok := Restore("text", false, key, []byte(text)); ok {
			t.Errorf("%q is the pseudonym of %q", text, got)
		}
	}
	if _, _, ok := Restore("text", false, nil, []byte(masked)); ok {
		t.Error("restored without a key")
	}
	for _, typ := range []string{"date", "json", "numeric", ""} {
		if _, _, ok := Restore(typ, false, key, []byte(masked)); ok {
			t.Errorf("%s was restored", typ)
		}
	}
}

func FuzzRestore(f *testing.F) {
	f.Add("text", false, []byte("p_0000"))
	f.Add("int4", true, []byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, typ string, binaryFormat bool, value []byte) {
		real, _, ok := Restore(typ, binaryFormat, key, value)
		if !ok {
			return
		}
		again, null := For(Pseudonym, typ, binaryFormat, key).Mask(real)
		if !binaryFormat && types[typ].family != uuid && types[typ].family != number && types[typ].family != bytea && (null || !bytes.Equal(again, value)) {
			t.Errorf("%s %q is the pseudonym of %q, whose pseudonym is %q", typ, value, real, again)
		}
	})
}
