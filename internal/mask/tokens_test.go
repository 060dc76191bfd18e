package mask

import (
	"hash/crc32"
	"strings"
	"testing"
)

// classic makes a token of GitHub's with the checksum that they have.
func classic(prefix string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	body := base62[:30]
	n := crc32.ChecksumIEEE([]byte(body))
	var sum [6]byte
	for i := range sum {
		sum[5-i] = digits[n%62]
		n /= 62
	}
	return prefix + body + string(sum[:])
}

// TestGitHubChecksum has a token that GitHub's announcement of the format had
// readers check, now revoked.
func TestGitHubChecksum(t *testing.T) {
	real := join("zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ", "0mLq17")
	if !githubChecksum([]byte(real)) || githubChecksum([]byte(strings.Replace(real, "Q", "q", 1))) {
		t.Error(real)
	}
	if classic("ghp_")[4:] == base62[:36] {
		t.Error("the checksum is what it was to replace")
	}
}

// sample is a token of the kind.
func (k *tokenKind) sample() string {
	var body []byte
	switch {
	case k.detector == "github-token" && k.min == 36:
		return classic(k.prefix)
	case k.detector == "1password-key":
		return k.prefix + "ABCDE2-FGHJKM-NPQR3-ABCDE-45678-XYZ23"[:37]
	case k.detector == "sendgrid-key":
		return k.prefix + base62[:22] + "." + base62[:43]
	}
	for i := 0; len(body) < k.min; i++ {
		b := base62[i%len(base62)]
		if k.detector == "aws-access-key" && strings.IndexByte("0189", b) >= 0 {
			continue
		}
		if class[b]&k.classes != 0 {
			body = append(body, b)
		}
	}
	return k.prefix + string(body)
}

// TestTokens takes each row of the table: a token in its usual surroundings is
// found, one that is too short, too long or within a word is not.
func TestTokens(t *testing.T) {
	s := NewScanner(Secrets)
	finds := func(value, detector string) bool {
		for _, h := range s.Scan([]byte(value)) {
			if h.Detector == detector {
				return true
			}
		}
		return false
	}
	for i := range tokenKinds {
		k := &tokenKinds[i]
		token := k.sample()
		for _, value := range []string{token, "see " + token + ".", `{"t":"` + token + `","u":1}`, "a,'" + token + "',b", token + "\n"} {
			hits := s.Scan([]byte(value))
			if len(hits) != 1 || hits[0].Detector != k.detector || !strings.HasPrefix(value[hits[0].Start:], token) || hits[0].End-hits[0].Start > len(token) {
				t.Errorf("%s%s: %q: %v", k.prefix, k.detector, value, hits)
			}
			if out, _ := s.Mask(nil, []byte(value)); len(s.Scan(out)) > 0 {
				t.Errorf("%s: %q has something left to find", k.prefix, out)
			}
		}
		for _, value := range []string{"q" + token, "7" + token, token[:len(k.prefix)+min(k.min-1, 9)], k.prefix, strings.ToLower(k.prefix) + " " + strings.ToUpper(token[len(k.prefix):])} {
			if finds(value, k.detector) {
				t.Errorf("%s: %q is found", k.prefix, value)
			}
		}
		if k.min == k.max && k.classes&isTokenish == 0 && finds(token+"zZ", k.detector) {
			t.Errorf("%s: a longer word is found", k.prefix)
		}
	}
}

// TestVendors takes each row: the vendor's name before a value of its form is
// what makes it a key.
func TestVendors(t *testing.T) {
	s := NewScanner(Secrets)
	for _, v := range vendors {
		for _, n := range v.lengths {
			if n == 0 {
				continue
			}
			n = max(n, -n)
			var value []byte
			for i := 0; len(value) < n; i++ {
				if b := base62[i%len(base62)]; class[b]&v.classes != 0 {
					value = append(value, b)
				}
			}
			name := strings.ToUpper(v.word)
			for _, text := range []string{name + "_ID=" + string(value), `{"` + v.word + `Ref": "` + string(value) + `"}`} {
				if hits := s.Scan([]byte(text)); len(hits) != 1 || hits[0].Detector != v.detector && !sameWord(v.word, hits[0].Detector) {
					t.Errorf("%q: %v", text, hits)
				}
			}
			for _, text := range []string{"other_id=" + string(value), name + "_ID=" + string(value[:n-1]) + "!", name + " " + string(value), name + "_ID=" + strings.Repeat("a", n)} {
				for _, h := range s.Scan([]byte(text)) {
					if h.Detector == v.detector {
						t.Errorf("%q: %v", text, h)
					}
				}
			}
		}
	}
}

// sameWord: two vendors of one key, jfrog and artifactory.
func sameWord(word, detector string) bool { return strings.HasPrefix(detector, word) }

func TestTokensByTheirInside(t *testing.T) {
	hex64 := strings.Repeat("0123456789abcdef", 4)
	for _, tt := range []struct{ detector, value, not string }{
		{"azure-client-secret", "abc8Q~" + base62[:34], "abcdQ~" + base62[:34]},
		{"maxmind-key", base62[:6] + "_" + base62[:29] + "_mmk", base62[:7] + "_" + base62[:29] + "_mmk"},
		{"terraform-token", base62[:14] + ".atlasv1." + base62[:64], base62[:14] + ".atlasv2." + base62[:64]},
		{"airtable-token", "pat" + base62[:14] + "." + hex64, "pat" + base62[:14] + "." + hex64 + "0"},
		{"discord-token", "M" + base62[:23] + "." + base62[:6] + "." + base62[:38], "P" + base62[:23] + "." + base62[:6] + "." + base62[:38]},
		{"telegram-token", "110201543:AA" + base62[:33], "110201543:AA" + base62[:34]},
		{"facebook-token", "123456789012345|" + base62[:27], "12345678901234|" + base62[:27]},
		{"grafana-token", "eyJrIjoi" + base62[:80], "eyJrIjoi" + base62[:40]},
		{"jwt", "ZXlKaGJHY2lPaUpJVXpJMU5pSXNJblI1Y0NJNklrcFhWQ0o5LmV5SnpkV0lpT2lJeElpd2lhV0YwSWpveGZRLmFiY2RlZmc", "ZXlKaGJHY2lPaUpJVXpJMU5pSXNJblI1Y0NJNklrcFhWQ0o5"},
		{"webhook", "https://hooks.slack.com/services/T00000000/B00000000/" + base62[:24], "https://hooks.slack.com/services/"},
		{"webhook", "https://acme.webhook.office.com/webhookb2/" + base62[:36] + "@" + base62[:36] + "/IncomingWebhook/" + base62[:32], "https://acme.office.com/webhookb2/" + base62[:36]},
		{"webhook", "https://discord.com/api/webhooks/123456789012345678/" + base62[:60], "https://discord.com/api/users/123456789012345678"},
	} {
		s := NewScanner(Secrets)
		if hits := s.Scan([]byte("x " + tt.value + " y")); len(hits) != 1 || hits[0].Detector != tt.detector {
			t.Errorf("%s: %q: %v", tt.detector, tt.value, hits)
		}
		for _, h := range s.Scan([]byte("x " + tt.not + " y")) {
			if h.Detector == tt.detector {
				t.Errorf("%q: %v", tt.not, h)
			}
		}
	}
}

func TestBuckets(t *testing.T) {
	if len(anchoredKinds) > 255 {
		t.Errorf("%d buckets do not fit into a byte: let bucket have more", len(anchoredKinds))
	}
	for b := range beginning {
		for _, k := range beginning[b] {
			if class[byte(b)]&isUpper != 0 && class[k.prefix[1]]&follows[onUpper] == 0 {
				t.Errorf("%s: what follows its first letter is not looked at", k.prefix)
			}
			if class[byte(b)]&isUpper == 0 && len(k.prefix)+k.min < longWord {
				t.Errorf("%s: too short to be looked for at a digit", k.prefix)
			}
		}
	}
}
