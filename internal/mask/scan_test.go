package mask

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"
)

// Tokens are put together here so that no scanner of source code takes them for real ones.
func join(parts ...string) string { return strings.Join(parts, "") }

const base62 = "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY2zA4bC6dE8fG0hJ2kL4mN6pQ8rS0tU2vW4xY6zA8bC0dE2fG4hJ6kL8"

var jwt = join("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", ".", "eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4ifQ", ".", "SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c")

const pem = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END RSA PRIVATE KEY-----"

var findings = []struct {
	detector, value, secret string
}{
	{"private-key", "x " + pem + " y", pem},
	{"private-key", `{"key":"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n"}`, "MIIE"},
	{"private-key", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn", "b3Blbn"},
	{"private-key", "-----BEGIN PGP PRIVATE KEY BLOCK-----\nlQHY\n-----END PGP PRIVATE KEY BLOCK-----", "lQHY"},
	{"jwt", "Authorization is " + jwt + ".", jwt},
	{"jwt", "(" + jwt + ")", jwt},
	{"aws-access-key", "id AKIA" + "IOSFODNN7EXAMPLE.", "AKIA" + "IOSFODNN7EXAMPLE"},
	{"aws-access-key", "ASIA" + "Y34FZKBOKMUTVV7A", "ASIA" + "Y34FZKBOKMUTVV7A"},
	{"aws-secret-key", "AKIA" + "IOSFODNN7EXAMPLE, wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY", "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"},
	{"secret", "aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY", "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"},
	{"github-token", "use " + classic("ghp_") + " now", classic("ghp_")},
	{"github-token", classic("gho_"), classic("gho_")},
	{"github-token", "github_pat_" + base62[:22] + "_" + base62[:59], base62[:59]},
	{"gitlab-token", `"glpat-` + base62[:20] + `"`, "glpat-" + base62[:20]},
	{"slack-token", "xoxb-" + "123456789012-123456789012-" + base62[:24], base62[:24]},
	{"stripe-key", "sk_live_" + base62[:24], "sk_live_" + base62[:24]},
	{"google-api-key", "key AIza" + base62[:35] + ",", "AIza" + base62[:35]},
	{"api-key", "sk-proj-" + base62[:48], "sk-proj-" + base62[:48]},
	{"api-key", "sk-ant-api03-" + base62[:80] + "-AA", base62[:80]},
	{"npm-token", "npm_" + base62[:36], "npm_" + base62[:36]},
	{"sendgrid-key", "SG." + base62[:22] + "." + base62[:43], base62[:43]},
	{"twilio-key", "SK" + strings.Repeat("0123456789abcdef", 2), "0123456789abcdef"},
	{"password", "postgres://app:s3cr3t!pw@db.internal:5432/orders", "s3cr3t!pw"},
	{"password", "redis://:hunter2hunter2@cache/0", "hunter2hunter2"},
	{"password", "amqp://u:p@ss@word@mq", "p@ss@word"},
	{"password", "host=db user=app password=Tr0ub4dor dbname=x", "Tr0ub4dor"},
	{"password", `{"DB_PASSWORD": "Tr0ub4dor&3"}`, "Tr0ub4dor&3"},
	{"password", `{"env":"{\"dbPassword\":\"Tr0ub4dor-3\"}"}`, "Tr0ub4dor-3"},
	{"password", "password='it''s 4 secret'", "4 secret"},
	{"password", "passphrase: correcthorsebatterystaple", "correcthorsebatterystaple"},
	{"secret", "API_KEY = '" + base62[:32] + "'", base62[:32]},
	{"secret", "Authorization: Bearer " + base62[:32], base62[:32]},
	{"secret", "client-secret=" + base62[:24] + "&x=1", base62[:24]},
	{"email", "mail bob.o+x@mail.example.co.uk.", "bob.o+x@mail.example.co.uk"},
	{"email", "<müller@exämple.de>", "müller@exämple.de"},
	{"email", "a@b.example, c@d.example", "c@d.example"},
	{"phone", "call +49 30 901820-0", "+49 30 901820"},
	{"phone", "+14155550123", "+14155550123"},
	{"phone", "call (415) 555-0123 now", "(415) 555-0123"},
	{"phone", "415-555-0123", "415-555-0123"},
	{"card", "4111111111111111", "4111111111111111"},
	{"card", "card 4111 1111 1111 1111.", "4111 1111 1111 1111"},
	{"card", "5500-0000-0000-0004", "5500-0000-0000-0004"},
	{"card", "378282246310005", "378282246310005"},
	{"card", "3782 822463 10005", "3782 822463 10005"},
	{"iban", "DE89370400440532013000", "DE89370400440532013000"},
	{"iban", "to GB29 NWBK 6016 1331 9268 19 please", "GB29 NWBK 6016 1331 9268 19"},
	{"ssn", "ssn 123-45-6789.", "123-45-6789"},
}

func TestFinds(t *testing.T) {
	s := NewScanner(Secrets | PII)
	for _, tt := range findings {
		out, hits := s.Mask(nil, []byte(tt.value))
		found := false
		for _, h := range hits {
			found = found || h.Detector == tt.detector
		}
		if !found {
			t.Errorf("%s: not found in %q: %v", tt.detector, tt.value, hits)
		}
		if bytes.Contains(out, []byte(tt.secret)) {
			t.Errorf("%s: still in %q", tt.detector, out)
		}
		if again, hits := s.Mask(nil, out); hits != nil {
			t.Errorf("%s: not idempotent: %q, then %q", tt.detector, out, again)
		}
	}
}

func TestPasses(t *testing.T) {
	s := NewScanner(Secrets | PII)
	for _, value := range []string{
		"", "-", "@", ":", "=", "://", "+", "_", "A", "J", "S", "0", "eyJ", "-----BEGIN ", "@.", "a@", "@b.de", "password=", "AKIA",
		"-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
		"-----BEGIN PUBLIC KEY-----",
		"eyJhbGciOi is the beginning of one",
		"eyJmb28iOiJiYXIifQ.eyJmb28iOiJiYXIifQ.c2ln", // neither alg nor typ
		"AKIA1234", "xAKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLEX",
		"ghp_tooshort", "skill_live_aaaaaaaaaaaaaaaaaaaaaa", "sk-learn-toggleable-content-area", "npm_config_registry",
		"glpat-short", "risk-assessment-for-the-whole-company-2024",
		"https://example.com:8080/path", "https://user@example.com/", "postgres://app:${PW}@db/x", "http://[::1]:80/", "scheme://a:b/c@d",
		"password: incorrect", "Password: required", "password=", `{"type":"password","label":"Password"}`, "max_tokens: 4096",
		"token: string", "secret: true", "tokens=123456789012345678901", "the secret: it was there all along", "primary key: id",
		"user@host", "@types/node", "left-pad@1.3.0", "icon@2x.png", "a @ b.de",
		"2024-01-02 03:04:05.123456+00", "550e8400-e29b-41d4-a716-446655440000", "10.20.30.40:5432", "1.4111111111111111", "0.30000000000000004",
		"4111111111111112", "1234567890123456", "41111111111111111111111", "x4111111111111111", "4111111111111111x",
		"000-12-3456", "666-12-3456", "912-12-3456", "123-00-4567", "123-45-0000", "123-45-67890", "1123-45-6789",
		"DE89370400440532013001", "DE8937040044053201300", "XX12345678901234", "115-555-0123", "415-155-0123", "3 + 4", "1+12345678",
		"+1234567", "+1234567890123456", "+02:00", "1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6", "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
	} {
		if hits := s.Scan([]byte(value)); hits != nil {
			t.Errorf("%q: %v", value, hits)
		}
	}
}

func TestGroups(t *testing.T) {
	value := []byte("bob@example.com " + classic("ghp_"))
	if hits := NewScanner(PII).Scan(value); len(hits) != 1 || hits[0].Detector != "email" {
		t.Error(hits)
	}
	if hits := NewScanner(Secrets).Scan(value); len(hits) != 1 || hits[0].Detector != "github-token" {
		t.Error(hits)
	}
	if out, hits := NewScanner(0).Mask(nil, value); hits != nil || &out[0] != &value[0] {
		t.Error("a scanner without detectors found something")
	}
}

func TestDetectKeepsTypes(t *testing.T) {
	s := NewScanner(Secrets | PII)
	int8Card := binary.BigEndian.AppendUint64(nil, 4111111111111111)
	tests := []struct {
		typ    string
		binary bool
		in     string
		want   string
		null   bool
	}{
		{"text", false, "bob@example.com", "redacted-email", false},
		{"text", true, "to bob@example.com!", "to redacted-email!", false},
		{"", false, `{"a","bob@example.com"}`, `{"a","redacted-email"}`, false},
		{"", true, "\x00\x00\x00\x0fbob@example.com", "", true},
		{"_text", true, "\x00\x00\x00\x0fbob@example.com", "", true},
		{"json", false, `{"m":"bob@example.com","n":1}`, `{"m":"redacted-email","n":1}`, false},
		{"json", false, `{"m":"bob\u0040example.com"}`, `"[redacted]"`, false},
		{"json", false, `{"u":"postgres:\/\/a:b4dsecret@h"}`, `"[redacted]"`, false},
		{"json", false, `{"card":4111111111111111}`, `"[redacted]"`, false},
		{"json", false, `{"a":"b\nc"}`, `{"a":"b\nc"}`, false},
		{"jsonb", true, "\x01" + `{"m":"bob@example.com"}`, "\x01" + `{"m":"redacted-email"}`, false},
		{"jsonb", true, "\x01" + `{"card":4111111111111111}`, "\x01" + `"[redacted]"`, false},
		{"jsonb", true, "\x02{}", "", true},
		{"int8", false, "4111111111111111", "", true},
		{"int8", false, "4111111111111112", "4111111111111112", false},
		{"int8", true, string(int8Card), "", true},
		{"numeric", false, "4111111111111111", "", true},
		{"numeric", true, "\x00\x04\x00\x03\x00\x00\x00\x00\x10\x0f\x04\x57\x04\x57\x04\x57", "", true},
		{"numeric", true, "\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07", "\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07", false},
		{"bytea", false, `\x` + "626f62406578616d706c652e636f6d", `\x` + "72656461637465642d656d61696c", false},
		{"inet", false, "8.34.208.14", "", true},
		{"inet", false, "10.1.2.3/8", "10.1.2.3/8", false},
		{"inet", true, "\x02\x20\x00\x04\x08\x22\xd0\x0e", "", true},
		{"inet", true, "\x02\x20\x00\x04\x0a\x01\x02\x03", "\x02\x20\x00\x04\x0a\x01\x02\x03", false},
		{"_int8", false, "{4111111111111111}", "", true},
		{"_text", false, `{"bob@example.com",x}`, `{"redacted-email",x}`, false},
		{"uuid", false, "550e8400-e29b-41d4-a716-446655440000", "550e8400-e29b-41d4-a716-446655440000", false},
	}
	for _, tt := range tests {
		out, null := Detect(s, "", tt.typ, tt.binary).Mask([]byte(tt.in))
		if null != tt.null || string(out) != tt.want {
			t.Errorf("%s %q: %q, %v; want %q, %v", tt.typ, tt.in, out, null, tt.want, tt.null)
		}
	}
	if out, null := Detect(s, "", "text", false).Mask(nil); out != nil || !null {
		t.Error("NULL does not stay NULL")
	}
}

// FuzzScan checks that what was masked has nothing left to find, that masking
// again changes nothing, and that JSON stays JSON.
func FuzzScan(f *testing.F) {
	for _, seed := range []string{"bob@example.com", "password=Tr0ub4dor", classic("ghp_"), "a@b." + jwt, "4111 1111 1111 1111", "DE89370400440532013000", `{"a":"x@y.zz"}`, `"\u0040"`, "sk-sk-sk-sk-", "AKIA" + "IOSFODNN7EXAMPLE", "eyJeyJ.eyJ.", "://a:b@c", "+1 415 555 0123", "-----BEGIN PRIVATE KEY-----"} {
		f.Add([]byte(seed))
	}
	s := NewScanner(Secrets | PII)
	f.Fuzz(func(t *testing.T, value []byte) {
		in := bytes.Clone(value)
		hits := s.Scan(value)
		at := 0
		for _, h := range hits {
			if h.Start < at || h.End <= h.Start || h.End > len(value) || h.Detector == "" {
				t.Fatalf("hit %v behind %d in %d bytes", h, at, len(value))
			}
			at = h.End
		}
		out, _ := s.Mask(nil, value)
		if !bytes.Equal(in, value) {
			t.Fatal("the value was written to")
		}
		if again := s.Scan(out); again != nil {
			t.Fatalf("%q became %q, in which there is %v", value, out, again)
		}
		if len(hits) == 1 && hits[0].End-hits[0].Start == len(value) && bytes.Contains(out, value) {
			t.Fatalf("%q is in %q", value, out)
		}
		if json.Valid(value) {
			masked, null := Detect(s, "", "json", false).Mask(value)
			if null || !json.Valid(masked) {
				t.Fatalf("%q became %q", value, masked)
			}
		}
	})
}

func BenchmarkScanText(b *testing.B) {
	text := []byte(strings.Repeat("The quick brown fox jumps over the lazy dog, and then it goes home to sleep until noon. Order shipped on time; the customer was happy about it. ", 700))
	s := NewScanner(Secrets | PII)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if s.Scan(text) != nil {
			b.Fatal("found something")
		}
	}
}

func BenchmarkScanRows(b *testing.B) {
	row := []byte(strings.Repeat("4711\t2024-01-02 03:04:05.123456+00\t550e8400-e29b-41d4-a716-446655440000\tshipped\t199.95\tA/B 17\n", 1000))
	s := NewScanner(Secrets | PII)
	b.SetBytes(int64(len(row)))
	for b.Loop() {
		if hits := s.Scan(row); hits != nil {
			b.Fatal(hits)
		}
	}
}

// BenchmarkScanWorst holds what makes detectors look far.
func BenchmarkScanWorst(b *testing.B) {
	s := NewScanner(Secrets | PII)
	for name, piece := range map[string]string{
		"token": "sk-", "jwt": "eyJ.", "key": "password=", "colon": "password:a ", "email": "a@", "url": "://", "number": "1234 ", "plus": "+1 ",
		"iban": "DE89 ", "pem": "-----BEGIN ", "aws": "AKIA" + "IOSFODNN7EXAMPLE ", "under": "github_pat_", "equals": "=",
	} {
		value := []byte(strings.Repeat(piece, 100_000/len(piece)))
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(value)))
			for b.Loop() {
				s.Scan(value)
			}
		})
	}
}
