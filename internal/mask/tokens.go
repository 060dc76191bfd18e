package mask

import (
	"bytes"
	"hash/crc32"
	"strings"
)

// tokenKind is a token that begins with what its issuer puts before all of them.
type tokenKind struct {
	prefix   string
	classes  uint16 // of the bytes behind the prefix
	min, max int    // how many of them
	check    func(body []byte) bool
	detector string
}

var tokenKinds = []tokenKind{
	// Code hosts.
	{"ghp_", isAlnum, 36, 251, githubChecksum, "github-token"},
	{"gho_", isAlnum, 36, 251, githubChecksum, "github-token"},
	{"ghu_", isAlnum, 36, 251, githubChecksum, "github-token"},
	{"ghs_", isAlnum, 36, 251, githubChecksum, "github-token"},
	{"ghr_", isAlnum, 36, 251, githubChecksum, "github-token"},
	{"github_pat_", isTokenish, 60, 251, nil, "github-token"},
	{"glpat-", isDotted, 20, 320, nil, "gitlab-token"},
	{"glrt-", isDotted, 20, 320, nil, "gitlab-token"},
	{"glcbt-", isTokenish, 22, 128, nil, "gitlab-token"},
	{"gldt-", isTokenish, 20, 128, nil, "gitlab-token"},
	{"glft-", isTokenish, 20, 128, nil, "gitlab-token"},
	{"glffct-", isTokenish, 20, 128, nil, "gitlab-token"},
	{"glimt-", isTokenish, 25, 128, nil, "gitlab-token"},
	{"glagent-", isTokenish, 50, 128, nil, "gitlab-token"},
	{"gloas-", isTokenish, 64, 128, nil, "gitlab-token"},
	{"glptt-", isHexLower, 40, 40, nil, "gitlab-token"},
	{"glsoat-", isTokenish, 20, 128, nil, "gitlab-token"},
	{"_gitlab_session=", isLower | isDigit, 32, 32, nil, "gitlab-token"},
	{"ATCTT3", isDotted, 40, maxToken, mixed2, "atlassian-token"},
	{"ATATT3", isDotted, 40, maxToken, mixed2, "atlassian-token"},
	{"ATBB", isAlnum, 32, 32, mixed2, "bitbucket-token"},
	{"sgp_", isTokenish, 40, 57, mixedHex, "sourcegraph-token"},
	// Clouds.
	{"AKIA", isUpper | isDigit, 16, 16, base32ish, "aws-access-key"},
	{"ASIA", isUpper | isDigit, 16, 16, base32ish, "aws-access-key"},
	{"ABIA", isUpper | isDigit, 16, 16, base32ish, "aws-access-key"},
	{"ACCA", isUpper | isDigit, 16, 16, base32ish, "aws-access-key"},
	{"A3T", isUpper | isDigit, 17, 17, base32ish, "aws-access-key"},
	{"ABSK", isBase64, 109, 269, mixed2, "aws-bedrock-key"},
	{"bedrock-api-key-", isBase64, 28, maxToken, nil, "aws-bedrock-key"},
	{"AIza", isTokenish, 35, 35, nil, "google-api-key"},
	{"GOCSPX-", isTokenish, 28, 28, nil, "google-client-secret"},
	{"ya29.", isDotted, 40, maxToken, mixed2, "google-access-token"},
	{"LTAI", isAlnum, 12, 26, someDigits, "alibaba-access-key"},
	{"dop_v1_", isHexLower, 64, 64, nil, "digitalocean-token"},
	{"doo_v1_", isHexLower, 64, 64, nil, "digitalocean-token"},
	{"dor_v1_", isHexLower, 64, 64, nil, "digitalocean-token"},
	{"HRKU-", isTokenish, 36, 64, mixed1, "heroku-key"},
	{"fo1_", isTokenish, 43, 43, mixed1, "flyio-token"},
	{"fm1a_", isBase64, 100, maxToken, mixed2, "flyio-token"},
	{"fm1r_", isBase64, 100, maxToken, mixed2, "flyio-token"},
	{"fm2_", isBase64, 100, maxToken, mixed2, "flyio-token"},
	{"v1.0-", isHexLower | isTokenish, 171, 171, nil, "cloudflare-key"},
	{"tk-us-", isTokenish, 48, 48, mixed1, "scalingo-token"},
	{"AQVN", isTokenish, 35, 38, mixed2, "yandex-key"},
	{"t1.", isDotted, 100, maxToken, mixed2, "yandex-token"},
	{"sha256~", isTokenish, 43, 43, mixed1, "openshift-token"},
	{"dapi", isHexLower, 32, 32, someDigits, "databricks-token"},
	{"hvs.", isTokenish, 90, 120, mixed1, "vault-token"},
	{"hvb.", isTokenish, 138, 300, mixed1, "vault-token"},
	{"pul-", isHexLower, 40, 40, nil, "pulumi-token"},
	{"ops_eyJ", isBase64, 240, 2048, nil, "1password-token"},
	{"A3-", isTokenish, 36, 37, groupedKey, "1password-key"},
	{"ico-", isAlnum, 32, 32, mixed1, "infracost-token"},
	{"pscale_tkn_", isDotted, 32, 64, nil, "planetscale-token"},
	{"pscale_oauth_", isDotted, 32, 64, nil, "planetscale-token"},
	{"pscale_pw_", isDotted, 32, 64, nil, "planetscale-token"},
	{"4b1d", isAlnum, 38, 38, mixed2, "clickhouse-key"},
	{"AGE-SECRET-KEY-1", isUpper | isDigit, 58, 58, nil, "age-key"},
	{"dp.pt.", isAlnum, 40, 44, someDigits, "doppler-token"},
	{"API-", isUpper | isDigit, 26, 26, someDigits, "octopus-key"},
	{"pat.", isDotted, 68, 68, mixed2, "harness-key"},
	{"sat.", isDotted, 68, 68, mixed2, "harness-key"},
	{"pnu_", isAlnum, 36, 36, mixed1, "prefect-token"},
	// Registries of packages.
	{"npm_", isAlnum, 36, 36, nil, "npm-token"},
	{"pypi-AgEIcHlwaS5vcmc", isTokenish, 40, 1000, nil, "pypi-token"},
	{"pypi-AgENdGVzdC5weXBpLm9yZw", isTokenish, 40, 1000, nil, "pypi-token"},
	{"rubygems_", isHexLower, 48, 48, nil, "rubygems-token"},
	{"cio", isAlnum, 32, 32, mixed2, "crates-token"},
	{"CLOJARS_", isAlnum, 60, 60, nil, "clojars-token"},
	{"dckr_pat_", isTokenish, 20, 64, nil, "docker-token"},
	{"dckr_oat_", isTokenish, 20, 64, nil, "docker-token"},
	{"AKCp", isAlnum, 69, 69, mixed2, "artifactory-key"},
	{"cmVmd", isAlnum, 59, 59, mixed2, "artifactory-key"},
	{"oy2", isLower | isDigit, 43, 43, someDigits, "nuget-key"},
	// Chat.
	{"xoxb-", isTokenish, 20, 255, someDigits, "slack-token"},
	{"xoxp-", isTokenish, 20, 255, someDigits, "slack-token"},
	{"xoxa-", isTokenish, 8, 255, someDigits, "slack-token"},
	{"xoxr-", isTokenish, 8, 255, someDigits, "slack-token"},
	{"xoxs-", isTokenish, 14, 255, someDigits, "slack-token"},
	{"xoxo-", isTokenish, 14, 255, someDigits, "slack-token"},
	{"xoxe-", isTokenish, 20, 255, someDigits, "slack-token"},
	{"xapp-", isTokenish, 14, 255, someDigits, "slack-token"},
	{"sm_aat_", isAlnum, 16, 16, nil, "settlemint-token"},
	{"sm_pat_", isAlnum, 16, 16, nil, "settlemint-token"},
	{"sm_sat_", isAlnum, 16, 16, nil, "settlemint-token"},
	// Payment.
	{"sk_live_", isAlnum, 10, 255, nil, "stripe-key"},
	{"rk_live_", isAlnum, 10, 255, nil, "stripe-key"},
	{"sk_test_", isAlnum, 10, 255, nil, "stripe-key"},
	{"rk_test_", isAlnum, 10, 255, nil, "stripe-key"},
	{"sk_prod_", isAlnum, 10, 255, nil, "stripe-key"},
	{"rk_prod_", isAlnum, 10, 255, nil, "stripe-key"},
	{"whsec_", isBase64, 24, 128, nil, "webhook-secret"},
	{"sq0atp-", isTokenish, 22, 60, nil, "square-token"},
	{"sq0csp-", isTokenish, 43, 60, nil, "square-token"},
	{"EAAA", isTokenish, 60, 60, mixed2, "square-token"},
	{"access_token$production$", isHexLower | isTokenish, 49, 49, nil, "paypal-token"},
	{"access_token$sandbox$", isHexLower | isTokenish, 49, 49, nil, "paypal-token"},
	{"rzp_live_", isAlnum, 14, 14, nil, "razorpay-key"},
	{"FLWSECK-", isTokenish, 32, 48, nil, "flutterwave-key"},
	{"FLWSECK_TEST-", isTokenish, 12, 48, nil, "flutterwave-key"},
	{"EZAK", isAlnum, 54, 54, someDigits, "easypost-key"},
	{"EZTK", isAlnum, 54, 54, someDigits, "easypost-key"},
	{"duffel_live_", isDotted, 43, 43, nil, "duffel-token"},
	{"duffel_test_", isDotted, 43, 43, nil, "duffel-token"},
	{"shippo_live_", isHex, 40, 40, nil, "shippo-token"},
	{"shippo_test_", isHex, 40, 40, nil, "shippo-token"},
	{"shpat_", isHex, 32, 32, nil, "shopify-token"},
	{"shpca_", isHex, 32, 32, nil, "shopify-token"},
	{"shppa_", isHex, 32, 32, nil, "shopify-token"},
	{"shpss_", isHex, 32, 32, nil, "shopify-token"},
	// Models.
	{"sk-", isTokenish, 20, 255, mixed2, "api-key"}, // OpenAI, Anthropic and their kin
	{"hf_", isAlnum, 30, 64, mixed0, "huggingface-token"},
	{"api_org_", isAlnum, 34, 34, mixed0, "huggingface-token"},
	{"gsk_", isAlnum, 52, 52, mixed2, "groq-key"},
	{"xai-", isAlnum, 80, 80, mixed2, "xai-key"},
	{"pplx-", isAlnum, 48, 48, mixed1, "perplexity-key"},
	{"r8_", isAlnum, 37, 37, mixed1, "replicate-token"},
	{"tgp_v1_", isTokenish, 43, 43, mixed1, "together-key"},
	{"lsv2_pt_", isTokenish, 32, 64, mixedHex, "langsmith-key"},
	{"lsv2_sk_", isTokenish, 32, 64, mixedHex, "langsmith-key"},
	// Observability.
	{"glc_", isBase64, 32, 400, mixed1, "grafana-token"},
	{"glsa_", isTokenish, 41, 41, mixed1, "grafana-token"},
	{"NRAK-", isUpper | isDigit, 27, 27, someDigits, "newrelic-key"},
	{"NRJS-", isHexLower, 19, 19, nil, "newrelic-key"},
	{"NRII-", isTokenish, 32, 32, nil, "newrelic-key"},
	{"NRRA-", isHexLower, 42, 42, nil, "newrelic-key"},
	{"sntrys_eyJ", isBase64 | isDotted, 60, maxToken, nil, "sentry-token"},
	{"sntryu_", isHex, 64, 64, nil, "sentry-token"},
	{"dt0c01.", isDotted, 89, 89, someDigits, "dynatrace-token"},
	{"dt0s01.", isDotted, 73, 89, someDigits, "dynatrace-token"},
	{"ddapi-", isHexLower, 32, 40, nil, "datadog-key"},
	{"phc_", isAlnum, 43, 43, mixed2, "posthog-key"},
	{"phx_", isAlnum, 43, 48, mixed2, "posthog-key"},
	// Mail and the rest.
	{"SG.", isDotted, 66, 66, sendgrid, "sendgrid-key"},
	{"SK", isHex, 32, 32, nil, "twilio-key"},
	{"key-", isHexLower, 32, 32, nil, "mailgun-key"},
	{"pubkey-", isHexLower, 32, 32, nil, "mailgun-key"},
	{"xkeysib-", isTokenish, 81, 81, mixedHex, "brevo-key"},
	{"xsmtpsib-", isTokenish, 81, 81, mixedHex, "brevo-key"},
	{"EAAC", isAlnum, 100, maxToken, someDigits, "facebook-token"},
	{"EAAM", isAlnum, 100, maxToken, someDigits, "facebook-token"},
	{"GR1348941", isTokenish, 20, 20, nil, "gitlab-token"},
	{"p8e-", isAlnum, 32, 32, nil, "adobe-secret"},
	{"fio-u-", isDotted, 64, 64, someDigits, "frameio-token"},
	{"lin_api_", isAlnum, 40, 40, nil, "linear-key"},
	{"ntn_", isAlnum, 46, 46, someDigits, "notion-token"},
	{"secret_", isAlnum, 43, 43, mixed2, "notion-token"},
	{"figd_", isTokenish, 40, 40, mixed1, "figma-token"},
	{"PMAK-", isTokenish, 59, 59, mixedHex, "postman-key"},
	{"rdme_", isLower | isDigit, 70, 70, nil, "readme-key"},
	{"tfp_", isDotted, 59, 59, mixed0, "typeform-token"},
	{"CFPAT-", isTokenish, 43, 43, nil, "contentful-token"},
	{"s-s4t2ud-", isHex, 64, 64, nil, "intra42-secret"},
	{"s-s4t2af-", isHex, 64, 64, nil, "intra42-secret"},
	{"dnkey-", isDotted, 79, 79, nil, "defined-key"},
	{"sl.", isDotted, 130, 1500, mixed2, "dropbox-token"},
	{"pk.eyJ", isDotted, 60, 200, nil, "mapbox-token"},
	{"sk.eyJ", isDotted, 60, 200, nil, "mapbox-token"},
	{"squ_", isHexLower, 40, 40, nil, "sonar-token"},
	{"sqp_", isHexLower, 40, 40, nil, "sonar-token"},
	{"sqa_", isHexLower, 40, 40, nil, "sonar-token"},
	{"access-production-", isTokenish, 36, 36, mixedHex, "plaid-token"},
	{"access-development-", isTokenish, 36, 36, mixedHex, "plaid-token"},
	{"access-sandbox-", isTokenish, 36, 36, mixedHex, "plaid-token"},
}

// Anchors: the first of these bytes in a prefix, with the two before it, leads
// to the token. Prefixes without one are looked for where an upper-case letter
// of a few begins a word, or at the first digit of a long word.
const (
	anchors   = "-_.~"
	wordBits  = 14
	maxBefore = 80 // letters before the first digit of such a word
	longWord  = 32
)

// anchoredKind is a kind of token, and where in its prefix the anchor is.
type anchoredKind struct {
	*tokenKind
	at int
}

var (
	// bucket leads from the hash of an anchor and the two bytes before it to
	// anchoredKinds. It is small, to stay in the cache; nothing is in bucket 0.
	bucket        [1 << wordBits]uint8
	anchoredKinds = [][]anchoredKind{nil}
	beginning     [256][]*tokenKind // those without an anchor, by their first byte
)

var _ = func() bool {
	for n := range tokenKinds {
		k := &tokenKinds[n]
		at := k.anchor()
		if at < 0 {
			beginning[k.prefix[0]] = append(beginning[k.prefix[0]], k)
			continue
		}
		h := hash3(k.prefix[at-2], k.prefix[at-1], k.prefix[at])
		if bucket[h] == 0 {
			bucket[h] = uint8(len(anchoredKinds)) //nolint:gosec // There are fewer than 256, see TestBuckets.
			anchoredKinds = append(anchoredKinds, nil)
		}
		anchoredKinds[bucket[h]] = append(anchoredKinds[bucket[h]], anchoredKind{k, at})
	}
	return true
}()

// anchor is where in the prefix it is; -1 when there is none with two bytes
// before it.
func (k *tokenKind) anchor() int {
	at := strings.IndexAny(k.prefix[min(2, len(k.prefix)):], anchors)
	if at < 0 {
		return -1
	}
	return at + 2
}

// hash3 mixes three bytes.
func hash3(a, b, c byte) uint32 {
	return (uint32(a)<<16 | uint32(b)<<8 | uint32(c)) * 0x9e3779b1 >> (32 - wordBits)
}

// token looks at an anchor.
func (c *cursor) token(i int) int {
	if i < 2 {
		return i + 1
	}
	for _, k := range anchoredKinds[bucket[hash3(c.v[i-2], c.v[i-1], c.v[i])]] {
		if end := c.issued(i-k.at, k.tokenKind); end > 0 {
			return end
		}
	}
	return i + 1
}

// issued looks for a token of the kind at start and returns its end, or 0.
func (c *cursor) issued(start int, k *tokenKind) int {
	if start < 0 || !c.hasPrefix(start, k.prefix) || c.is(start-1, isAlnum) {
		return 0
	}
	from := start + len(k.prefix)
	end := c.tokenEnd(from, k)
	if body := c.v[from:end]; len(body) < k.min || len(body) > k.max || k.check != nil && !k.check(body) {
		return 0
	}
	if k.classes&isTokenish == 0 && c.is(end, isAlnum) {
		return 0
	}
	return c.hit(start, end, k.detector)
}

// tokenEnd remembers the end of the last row of token characters, because in a
// row like sk-sk-sk- every prefix would walk to its end. A dot that ends a row
// ends a sentence.
func (c *cursor) tokenEnd(from int, k *tokenKind) int {
	switch k.classes {
	case isTokenish:
		if from >= c.runEnd {
			c.runEnd = c.run(from, isTokenish, len(c.v))
		}
		return c.runEnd
	case isDotted:
		if from >= c.dottedEnd {
			c.dottedEnd = c.run(from, isDotted, len(c.v))
			c.dottedLast = c.dottedEnd
			for c.dottedLast > from && c.v[c.dottedLast-1] == '.' {
				c.dottedLast--
			}
		}
		return max(from, c.dottedLast)
	}
	end := c.run(from, k.classes, k.max+1)
	for k.classes&isDotted != 0 && end > from && c.v[end-1] == '.' {
		end--
	}
	return end
}

// word looks at an upper-case letter that may begin a token.
func (c *cursor) word(i int) int {
	if !c.is(i+1, isUpper|isDigit) || c.is(i-1, isAlnum) {
		return i + 1 // the second byte of all of them is one of those
	}
	for _, k := range beginning[c.v[i]] {
		if end := c.issued(i, k); end > 0 {
			if k.detector == "aws-access-key" {
				from, _ := c.within(i, i, awsNearby, 0)
				c.awsSecret(from, i)
				c.awsSecret(end, min(len(c.v), end+awsNearby))
			}
			return end
		}
	}
	return i + 1
}

// longWord looks at the word around i, whose end it is given, for the tokens
// that begin with lower-case letters or digits.
func (c *cursor) longWord(i, end int) int {
	start := i
	for start > 0 && i-start < maxBefore && class[c.v[start-1]]&isAlnum != 0 {
		start--
	}
	if end-start < longWord || c.is(start-1, isAlnum) {
		return 0
	}
	for _, k := range beginning[c.v[start]] {
		if stop := c.issued(start, k); stop > 0 {
			return stop
		}
	}
	return 0
}

func (c *cursor) anchored(i int) int {
	if end := c.inside(i); end > 0 {
		return end
	}
	return c.token(i)
}

// inside looks at an anchor for tokens that are known by what is within them:
// Azure's client secrets, Terraform's, Airtable's, MaxMind's, Discord's.
func (c *cursor) inside(i int) int {
	switch c.v[i] {
	case '~':
		if i >= 5 && c.v[i-1] == 'Q' && c.is(i-2, isDigit) && c.run(i-5, isDotted, 3) == i-2 && !c.is(i-6, isDotted) {
			if end := c.run(i+1, isDotted, 35); end-i-1 >= 31 && end-i-1 <= 34 && mixed(c.v[i+1:end], 1) {
				return c.hit(i-5, end, "azure-client-secret")
			}
		}
	case '_':
		if i >= 36 && c.hasPrefix(i, "_mmk") && !c.is(i+4, isTokenish) && c.v[i-30] == '_' && c.run(i-29, isAlnum, 29) == i && c.run(i-36, isAlnum, 6) == i-30 && !c.is(i-37, isAlnum) {
			return c.hit(i-36, i+4, "maxmind-key")
		}
	case '.':
		switch {
		case i+7 < len(c.v) && c.v[i+7] == '.':
			return c.discord(i)
		case i >= 14 && c.is(i+1, isLower) && c.hasPrefix(i, ".atlasv1."):
			if end := c.run(i+9, isDotted, 71); end-i >= 69 && end-i <= 79 && c.run(i-14, isAlnum, 14) == i && !c.is(i-15, isAlnum) {
				return c.hit(i-14, end, "terraform-token")
			}
		case i >= 17 && c.v[i-17] == 'p' && c.hasPrefix(i-17, "pat") && c.run(i-14, isAlnum, 14) == i && !c.is(i-18, isAlnum):
			if end := c.run(i+1, isHexLower, 65); end == i+65 && !c.is(end, isAlnum) {
				return c.hit(i-17, end, "airtable-token")
			}
		}
	}
	return 0
}

// discord looks at the first dot of a bot's token: its number in base64, a time
// and a signature.
func (c *cursor) discord(i int) int {
	if c.run(i+1, isTokenish, 6) != i+7 {
		return 0
	}
	start := i
	for start > 0 && i-start < 29 && class[c.v[start-1]]&isTokenish != 0 {
		start--
	}
	if n := i - start; n < 23 || n > 28 || c.v[start] != 'M' && c.v[start] != 'N' && c.v[start] != 'O' {
		return 0
	}
	end := c.run(i+8, isTokenish, 40)
	if n := end - i - 8; n < 27 || n > 38 || !mixed(c.v[i+8:end], 1) {
		return 0
	}
	return c.hit(start, end, "discord-token")
}

func mixed0(b []byte) bool     { return mixed(b, 0) }
func mixed1(b []byte) bool     { return mixed(b, 1) }
func mixed2(b []byte) bool     { return mixed(b, 2) }
func someDigits(b []byte) bool { return bytes.ContainsAny(b, "0123456789") }

// base32ish: AWS's ids have no 0, 1, 8 or 9.
func base32ish(b []byte) bool { return !bytes.ContainsAny(b, "0189") }

// mixedHex tells groups of hex digits from words with dashes.
func mixedHex(b []byte) bool {
	digits := 0
	for _, x := range b {
		if class[x]&isDigit != 0 {
			digits++
		}
	}
	return digits >= 6
}

// groupedKey: only upper case, in groups of five or six.
func groupedKey(b []byte) bool {
	for _, x := range b {
		if class[x]&(isUpper|isDigit) == 0 && x != '-' {
			return false
		}
	}
	return b[6] == '-' && someDigits(b)
}

func sendgrid(b []byte) bool { return b[22] == '.' && bytes.IndexByte(b[:22], '.') < 0 && mixed1(b) }

// githubChecksum: the last six of a classic token's 36 are the CRC-32 of the
// others in base 62. What is not 36 long has no checksum.
func githubChecksum(b []byte) bool {
	const size, sum = 36, 6
	if len(b) != size {
		return mixed2(b)
	}
	n := crc32.ChecksumIEEE(b[:size-sum])
	for k := size - 1; k >= size-sum; k-- {
		if b[k] != "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[n%62] {
			return false
		}
		n /= 62
	}
	return true
}
