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

const pemBegin = "-----BEGIN "

// pem looks at the first dash of -----BEGIN … PRIVATE KEY-----.
func (c *cursor) pem(i int) int {
	const begin, end = pemBegin, "-----END "
	_, limit := c.within(i, i, 0, len(begin)+64)
	head := c.v[min(i+len(begin), limit):limit]
	key := bytes.Index(head, []byte("PRIVATE KEY"))
	if key < 0 || bytes.Contains(head[:key], []byte("-----")) {
		return i + len(begin)
	}
	body := i + len(begin) + key
	_, limit = c.within(body, body, 0, maxPEM)
	rest := c.v[body:limit]
	at := bytes.Index(rest, []byte(end))
	if at < 0 {
		if c.lines {
			rest = bytes.TrimSuffix(rest, []byte("\r"))
		}
		return c.hit(i, body+len(rest), "private-key") // cut off, but a key
	}
	stop := body + at + len(end)
	_, limit = c.within(stop, stop, 0, 64)
	if n := bytes.Index(c.v[stop:limit], []byte("-----")); n >= 0 {
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
	if n == 0 && c.hasPrefix(start, "eyJrIjoi") && end-start >= 70 && end-start <= 408 {
		return c.hit(start, end, "grafana-token") // {"k":" is an old API key
	}
	if n < 2 || dots[1]-dots[0] < 4 {
		return i + 1
	}
	if !joseHeader(c.v[start:dots[0]]) {
		return i + 1
	}
	return c.hit(start, end, "jwt")
}

// joseHeader decodes the first part of a JWT (RFC 7515, 4.1).
func joseHeader(head []byte) bool {
	head = head[:min(len(head), 1024)]
	var plain [768]byte
	size, _ := base64.RawURLEncoding.Decode(plain[:], head[:len(head)/4*4])
	return bytes.Contains(plain[:size], []byte(`"alg"`)) || bytes.Contains(plain[:size], []byte(`"typ"`))
}

// wrappedJWT looks at the X of ZXlK: a JWT in base64.
func (c *cursor) wrappedJWT(i int) int {
	start := i - 1
	if start < 0 || !c.hasPrefix(start, "ZXlK") || c.is(start-1, isBase64|isTokenish) {
		return i + 1
	}
	end := c.run(start, isBase64, maxJWT)
	var plain [768]byte
	size, _ := base64.RawStdEncoding.Decode(plain[:], c.v[start:start+min(end-start, 1024)/4*4])
	head, rest, ok := bytes.Cut(plain[:size], []byte("."))
	if !ok || len(rest) < 3 || !joseHeader(head) {
		return i + 1
	}
	for c.is(end, isDotted) && c.v[end] == '=' {
		end++
	}
	return c.hit(start, end, "jwt")
}

// awsSecret looks for a secret access key between from and to: forty characters
// of base64 that look random.
func (c *cursor) awsSecret(from, to int) {
	for i := from; i < to; {
		if class[c.v[i]]&isBase64 == 0 {
			i++
			continue
		}
		end := c.run(i, isBase64, 64)
		if end-i == 40 && mixed(c.v[i:end], 1) && entropy(c.v[i:end]) > 4 {
			c.hit(i, end, "aws-secret-key")
			return
		}
		i = end
	}
}

// telegram looks at the colon of a bot's token: its number, then 35 characters.
func (c *cursor) telegram(i int) int {
	start := i
	for start > 0 && i-start < 17 && c.is(start-1, isDigit) {
		start--
	}
	end := c.run(i+1, isTokenish, 36)
	if n := i - start; n < 5 || n > 16 || c.is(start-1, isAlnum) || end != i+36 || !mixed(c.v[i+1:end], 1) {
		return 0
	}
	return c.hit(start, end, "telegram-token")
}

// webhooks are URLs whose path is the secret.
var webhooks = []string{
	"hooks.slack.com/services/", "hooks.slack.com/workflows/", "hooks.slack.com/triggers/",
	"discord.com/api/webhooks/", "discordapp.com/api/webhooks/",
	"outlook.office.com/webhook/", "hooks.zapier.com/hooks/catch/", "chat.googleapis.com/v1/spaces/",
}

// webhook looks behind the :// of a URL.
func (c *cursor) webhook(from int) int {
	for _, w := range webhooks {
		if c.hasPrefix(from, w) {
			return c.webhookPath(from + len(w))
		}
	}
	host := c.run(from, isTokenish, 64)
	if teams := ".webhook.office.com/webhookb2/"; c.hasPrefix(host, teams) {
		return c.webhookPath(host + len(teams))
	}
	return 0
}

func (c *cursor) webhookPath(from int) int {
	end := from
	for end < len(c.v) && end-from < maxToken && (class[c.v[end]]&(isDotted|isBase64) != 0 || bytes.IndexByte([]byte("@?&%"), c.v[end]) >= 0) {
		end++
	}
	for end > from && c.v[end-1] == '.' {
		end--
	}
	if end-from < 16 || !someDigits(c.v[from:end]) {
		return 0
	}
	return c.hit(from, end, "webhook")
}

// url looks at the :// of a URL with a password in it.
func (c *cursor) url(i int) int {
	from := i + 3
	if end := c.webhook(from); end > 0 {
		return end
	}
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

// facebook looks at the number, v[i:end], of an app before a | and its token.
func (c *cursor) facebook(i, end int) int {
	stop := c.run(end+1, isTokenish, 41)
	if n := end - i; (n == 15 || n == 16) && stop-end-1 >= 27 && stop-end-1 <= 40 && mixed(c.v[end+1:stop], 1) {
		return c.hit(i, stop, "facebook-token")
	}
	return end
}
