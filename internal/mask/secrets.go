package mask

import (
	"bytes"
	"encoding/base64"
	"math"
)

const (
	maxToken   = 512      // the longest token or password that is looked at
	maxPEM     = 16 << 10 // the longest private key
	maxJWT     = 64 << 10
	awsNearby  = 200 // how far a secret access key may be from its id
	maxUser    = 512 // the longest user and password in a URL
	maxKeyWord = 40  // the longest name of a value
)

// tokenKind is a token that begins with a prefix of its issuer's.
type tokenKind struct {
	prefix   string
	classes  uint8 // of the bytes behind the prefix
	min, max int   // how many of them
	mixed    bool  // there must be letters of both cases and two digits
	detector string
}

var tokenKinds = []tokenKind{
	{"ghp_", isAlnum, 36, 251, false, "github-token"},
	{"gho_", isAlnum, 36, 251, false, "github-token"},
	{"ghu_", isAlnum, 36, 251, false, "github-token"},
	{"ghs_", isAlnum, 36, 251, false, "github-token"},
	{"ghr_", isAlnum, 36, 251, false, "github-token"},
	{"github_pat_", isTokenish, 60, 251, false, "github-token"},
	{"glpat-", isTokenish, 20, 128, false, "gitlab-token"},
	{"xoxb-", isTokenish, 20, 255, false, "slack-token"},
	{"xoxp-", isTokenish, 20, 255, false, "slack-token"},
	{"xoxa-", isTokenish, 20, 255, false, "slack-token"},
	{"xoxr-", isTokenish, 20, 255, false, "slack-token"},
	{"xoxs-", isTokenish, 20, 255, false, "slack-token"},
	{"xapp-", isTokenish, 20, 255, false, "slack-token"},
	{"sk_live_", isAlnum, 16, 255, false, "stripe-key"},
	{"rk_live_", isAlnum, 16, 255, false, "stripe-key"},
	{"sk_test_", isAlnum, 16, 255, false, "stripe-key"},
	{"rk_test_", isAlnum, 16, 255, false, "stripe-key"},
	{"whsec_", isBase64, 24, 128, false, "webhook-secret"},
	{"sk-", isTokenish, 20, 255, true, "api-key"}, // OpenAI, Anthropic and their kin
	{"npm_", isAlnum, 36, 36, false, "npm-token"},
	{"pypi-", isTokenish, 50, maxToken, true, "pypi-token"},
	{"hf_", isAlnum, 30, 64, true, "huggingface-token"},
	{"dckr_pat_", isTokenish, 20, 64, false, "docker-token"},
	{"shpat_", isHexLower, 32, 32, false, "shopify-token"},
}

// tokensBefore indexes tokenKinds by the byte before the first - or _, which
// makes a look at one of those cheap.
var tokensBefore = func() (t [256][]int) {
	for n, k := range tokenKinds {
		b := k.prefix[bytes.IndexAny([]byte(k.prefix), "-_")-1]
		t[b] = append(t[b], n)
	}
	return t
}()

// token looks at a - or _ that may be the first of a token's prefix.
func (c *cursor) token(i int) int {
	if i < 2 {
		return i + 1
	}
	for _, n := range tokensBefore[c.v[i-1]] {
		k := &tokenKinds[n]
		start := i - bytes.IndexByte([]byte(k.prefix), c.v[i])
		if start < 0 || start > i || !c.hasPrefix(start, k.prefix) || c.is(start-1, isAlnum) {
			continue
		}
		from := start + len(k.prefix)
		end := c.tokenEnd(from, k)
		body := c.v[from:end]
		if len(body) < k.min || len(body) > k.max || k.mixed && !mixed(body, 2) {
			continue
		}
		return c.hit(start, end, k.detector)
	}
	return i + 1
}

// tokenEnd remembers the end of the last row of token characters, because in a
// row like sk-sk-sk- every prefix would walk to its end.
func (c *cursor) tokenEnd(from int, k *tokenKind) int {
	if k.classes != isTokenish {
		return c.run(from, k.classes, maxToken)
	}
	if from >= c.runEnd {
		c.runEnd = c.run(from, isTokenish, len(c.v))
	}
	return c.runEnd
}

// mixed reports whether there are letters of both cases and some digits.
func mixed(b []byte, some int) bool {
	var digits, upper, lower int
	for _, x := range b[:min(len(b), 128)] {
		switch cl := class[x]; {
		case cl&isDigit != 0:
			digits++
		case cl&isUpper != 0:
			upper++
		case cl&isLower != 0:
			lower++
		}
	}
	return digits >= some && upper > 0 && lower > 0
}

// pem looks at the first dash of -----BEGIN … PRIVATE KEY-----.
func (c *cursor) pem(i int) int {
	const begin, end = "-----BEGIN ", "-----END "
	if !c.hasPrefix(i, begin) {
		return i + 1
	}
	head := c.v[i+len(begin) : min(len(c.v), i+len(begin)+64)]
	key := bytes.Index(head, []byte("PRIVATE KEY"))
	if key < 0 || bytes.Contains(head[:key], []byte("-----")) {
		return i + len(begin)
	}
	body := i + len(begin) + key
	rest := c.v[body:min(len(c.v), body+maxPEM)]
	at := bytes.Index(rest, []byte(end))
	if at < 0 {
		return c.hit(i, body+len(rest), "private-key") // cut off, but a key
	}
	stop := body + at + len(end)
	if n := bytes.Index(c.v[stop:min(len(c.v), stop+64)], []byte("-----")); n >= 0 {
		stop += n + len("-----")
	}
	return c.hit(i, stop, "private-key")
}

// jwt looks at the J of eyJ, which is {" in base64.
func (c *cursor) jwt(i int) int {
	start := i - 2
	if start < 0 || c.v[start] != 'e' || c.v[i-1] != 'y' || c.is(start-1, isTokenish) {
		return i + 1
	}
	limit := min(len(c.v), start+maxJWT)
	var dots [6]int
	n, end := 0, c.run(start, isTokenish, limit-start)
	for n < 4 && end < limit && c.v[end] == '.' { // a JWE has four
		dots[n] = end
		n++
		end = c.run(end+1, isTokenish, limit-end-1)
	}
	if n < 2 || dots[1]-dots[0] < 4 {
		return max(i+1, min(dots[0], end))
	}
	head := c.v[start:min(dots[0], start+1024)]
	var plain [768]byte
	size, _ := base64.RawURLEncoding.Decode(plain[:], head[:len(head)/4*4])
	if !bytes.Contains(plain[:size], []byte(`"alg"`)) && !bytes.Contains(plain[:size], []byte(`"typ"`)) {
		return i + 1
	}
	return c.hit(start, end, "jwt")
}

// upperA looks for AWS access keys and Google API keys.
func (c *cursor) upperA(i int) int {
	if i+4 > len(c.v) || c.is(i-1, isAlnum) {
		return i + 1
	}
	switch string(c.v[i : i+4]) {
	case "AKIA", "ASIA", "ABIA", "ACCA":
		end := c.run(i+4, isUpper|isDigit, 17)
		if end != i+20 || c.is(end, isAlnum) {
			return i + 1
		}
		c.awsSecret(max(0, i-awsNearby), i)
		c.hit(i, end, "aws-access-key")
		return max(end, c.awsSecret(end, min(len(c.v), end+awsNearby)))
	case "AIza":
		if end := c.run(i+4, isTokenish, 36); end == i+39 {
			return c.hit(i, end, "google-api-key")
		}
	}
	return i + 1
}

// awsSecret looks for a secret access key between from and to: forty characters
// of base64 that look random. It returns its end, or 0.
func (c *cursor) awsSecret(from, to int) int {
	for i := from; i < to; {
		if class[c.v[i]]&isBase64 == 0 {
			i++
			continue
		}
		end := c.run(i, isBase64, 64)
		if end-i == 40 && mixed(c.v[i:end], 1) && entropy(c.v[i:end]) > 4 {
			return c.hit(i, end, "aws-secret-key")
		}
		i = end
	}
	return 0
}

// upperS looks for SendGrid's and Twilio's keys.
func (c *cursor) upperS(i int) int {
	if i+2 >= len(c.v) || c.is(i-1, isAlnum) {
		return i + 1
	}
	switch {
	case c.hasPrefix(i, "SG."):
		dot := c.run(i+3, isTokenish, 23)
		if dot == i+25 && dot < len(c.v) && c.v[dot] == '.' {
			if end := c.run(dot+1, isTokenish, 44); end == dot+44 {
				return c.hit(i, end, "sendgrid-key")
			}
		}
	case c.hasPrefix(i, "SK"):
		if end := c.run(i+2, isHexLower, 33); end == i+34 && !c.is(end, isAlnum) {
			return c.hit(i, end, "twilio-key")
		}
	}
	return i + 1
}

// url looks at the :// of a URL with a password in it.
func (c *cursor) url(i int) int {
	from := i + 3
	colon, at := -1, -1
	limit := min(len(c.v), from+maxUser)
scan:
	for j := from; j < limit; j++ {
		switch b := c.v[j]; {
		case b == ':' && colon < 0:
			colon = j
		case b == '@' && colon >= 0:
			at = j
		case b == '/' || b == '?' || b == '#' || b == '"' || b == '\'' || b == '\\' || b == '<' || b == '>' || b <= ' ':
			break scan
		}
	}
	if at < 0 || at == colon+1 || stated(c.v[colon+1:at]) {
		return from
	}
	return c.hit(colon+1, at, "password")
}

// stated reports whether a value says by itself that it is none.
func stated(v []byte) bool {
	for _, p := range []string{"redacted", "[redacted", "***", "${", "$(", "{{", "<", "%("} {
		if len(v) >= len(p) && string(v[:len(p)]) == p {
			return true
		}
	}
	return false
}

// entropy is Shannon's, in bits per byte, of at most 128 bytes.
func entropy(b []byte) float64 {
	b = b[:min(len(b), 128)]
	var counts [256]uint8
	for _, x := range b {
		counts[x]++
	}
	h := 0.0
	for _, x := range b { // once per occurrence: n/len * log over n bytes is 1/len * log per byte
		h -= math.Log2(float64(counts[x])/float64(len(b))) / float64(len(b))
	}
	return h
}
