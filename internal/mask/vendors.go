package mask

// vendor is a service whose keys look like any other: its name before the value
// is the anchor, and the value's form the check.
type vendor struct {
	word     string // in the name, without regard to case, dashes and underscores
	classes  uint16
	lengths  [3]int // a negative one ends a range that the one before it begins
	detector string
}

const uuidLength = 36

var vendors = []vendor{
	{"adafruit", isTokenish, [3]int{32}, "adafruit-key"},
	{"adobe", isHex, [3]int{32}, "adobe-key"},
	{"airtable", isAlnum, [3]int{17}, "airtable-key"},
	{"algolia", isAlnum, [3]int{32}, "algolia-key"},
	{"alibaba", isAlnum, [3]int{30}, "alibaba-secret-key"},
	{"aliyun", isAlnum, [3]int{30}, "alibaba-secret-key"},
	{"asana", isAlnum, [3]int{32}, "asana-secret"},
	{"atlassian", isAlnum, [3]int{24}, "atlassian-token"},
	{"confluence", isAlnum, [3]int{24}, "atlassian-token"},
	{"jira", isAlnum, [3]int{24}, "atlassian-token"},
	{"azure", isBase64, [3]int{43, 84, 86}, "azure-key"},
	{"beamer", isDotted, [3]int{46}, "beamer-token"},
	{"bitbucket", isDotted, [3]int{32, 64}, "bitbucket-secret"},
	{"bittrex", isAlnum, [3]int{32}, "bittrex-key"},
	{"cloudflare", isTokenish, [3]int{37, 40}, "cloudflare-key"},
	{"codecov", isAlnum, [3]int{32}, "codecov-token"},
	{"cohere", isAlnum, [3]int{40}, "cohere-key"},
	{"coinbase", isTokenish, [3]int{64}, "coinbase-token"},
	{"confluent", isAlnum, [3]int{16, 64}, "confluent-key"},
	{"contentful", isDotted, [3]int{43}, "contentful-token"},
	{"datadog", isAlnum, [3]int{32, 40}, "datadog-key"},
	{"discord", isDotted, [3]int{32, 64}, "discord-secret"},
	{"droneci", isAlnum, [3]int{32}, "drone-token"},
	{"dropbox", isDotted, [3]int{15, 64}, "dropbox-key"},
	{"etsy", isAlnum, [3]int{24}, "etsy-key"},
	{"facebook", isHex, [3]int{32}, "facebook-secret"},
	{"fastly", isDotted, [3]int{32}, "fastly-token"},
	{"finicity", isAlnum, [3]int{20, 32}, "finicity-key"},
	{"finnhub", isAlnum, [3]int{20}, "finnhub-key"},
	{"flickr", isAlnum, [3]int{32}, "flickr-key"},
	{"freshbooks", isAlnum, [3]int{64}, "freshbooks-key"},
	{"gitter", isTokenish, [3]int{40}, "gitter-token"},
	{"gocardless", isDotted, [3]int{45}, "gocardless-token"},
	{"heroku", isTokenish, [3]int{uuidLength}, "heroku-key"},
	{"hubspot", isTokenish, [3]int{uuidLength}, "hubspot-key"},
	{"intercom", isDotted, [3]int{60}, "intercom-key"},
	{"jfrog", isAlnum, [3]int{64, 73}, "jfrog-key"},
	{"artifactory", isAlnum, [3]int{64, 73}, "jfrog-key"},
	{"bintray", isAlnum, [3]int{64, 73}, "jfrog-key"},
	{"xray", isAlnum, [3]int{64, 73}, "jfrog-key"},
	{"kraken", isDotted | isBase64, [3]int{80, -90}, "kraken-key"},
	{"kucoin", isTokenish, [3]int{24, uuidLength}, "kucoin-key"},
	{"launchdarkly", isDotted, [3]int{40}, "launchdarkly-key"},
	{"linear", isHex, [3]int{32}, "linear-secret"},
	{"linkedin", isAlnum, [3]int{14, 16}, "linkedin-secret"},
	{"lob", isTokenish, [3]int{36, 40}, "lob-key"},
	{"looker", isAlnum, [3]int{20, 24}, "looker-secret"},
	{"mailchimp", isTokenish, [3]int{36, 37}, "mailchimp-key"},
	{"mailgun", isTokenish, [3]int{36, 50}, "mailgun-key"},
	{"mattermost", isAlnum, [3]int{26}, "mattermost-token"},
	{"meraki", isHex, [3]int{40}, "meraki-key"},
	{"messagebird", isTokenish, [3]int{25, uuidLength}, "messagebird-key"},
	{"netlify", isDotted, [3]int{40, 43, 46}, "netlify-token"},
	{"newrelic", isAlnum, [3]int{40, 64}, "newrelic-key"},
	{"nytimes", isDotted, [3]int{32}, "nytimes-key"},
	{"newyorktimes", isDotted, [3]int{32}, "nytimes-key"},
	{"okta", isDotted, [3]int{42}, "okta-token"},
	{"pagerduty", isTokenish, [3]int{20, 32}, "pagerduty-key"},
	{"paypal", isTokenish, [3]int{80}, "paypal-secret"},
	{"plaid", isAlnum, [3]int{24, 30}, "plaid-key"},
	{"privateai", isAlnum, [3]int{32}, "privateai-key"},
	{"rapidapi", isTokenish, [3]int{50}, "rapidapi-key"},
	{"sendbird", isTokenish, [3]int{uuidLength, 40}, "sendbird-key"},
	{"sentry", isHex, [3]int{64}, "sentry-token"},
	{"snyk", isTokenish, [3]int{uuidLength}, "snyk-token"},
	{"sonar", isDotted, [3]int{40, 44}, "sonar-token"},
	{"splunk", isTokenish, [3]int{uuidLength}, "splunk-token"},
	{"squarespace", isTokenish, [3]int{uuidLength}, "squarespace-token"},
	{"sumologic", isAlnum, [3]int{14, 64}, "sumologic-key"},
	{"sumo", isAlnum, [3]int{14, 64}, "sumologic-key"},
	{"travis", isAlnum, [3]int{22}, "travis-token"},
	{"twilio", isHex, [3]int{32}, "twilio-key"},
	{"twitch", isAlnum, [3]int{30}, "twitch-token"},
	{"twitter", isTokenish, [3]int{25, 45, 50}, "twitter-key"},
	{"twitter", isTokenish, [3]int{36, -66}, "twitter-key"},
	{"typeform", isDotted, [3]int{63}, "typeform-token"},
	{"yandex", isTokenish, [3]int{40}, "yandex-key"},
	{"zendesk", isAlnum, [3]int{40}, "zendesk-key"},
}

const (
	minVendorValue = 14
	maxVendorValue = 90
)

// vendorsBy3 finds them by the first three letters of their words.
var vendorsBy3 = func() map[uint32][]*vendor {
	t := map[uint32][]*vendor{}
	for n := range vendors {
		w := vendors[n].word
		h := hash3(w[0], w[1], w[2])
		t[h] = append(t[h], &vendors[n])
	}
	return t
}()

// looksIssued is the quick look at a value: long and without spaces.
func (c *cursor) looksIssued(i int) bool {
	for n := 0; n < 3 && i < len(c.v) && class[c.v[i]]&(isDotted|isBase64) == 0; n++ {
		i++
	}
	return c.run(i, isDotted|isBase64, minVendorValue)-i == minVendorValue
}

// issuedBy looks for a vendor in the name and its key in the value.
func (c *cursor) issuedBy(name []byte, from, to int) string {
	value := c.v[from:to]
	for len(value) > 0 && value[len(value)-1] == '=' {
		value = value[:len(value)-1]
	}
	if len(value) < minVendorValue || len(value) > maxVendorValue {
		return ""
	}
	for k := 0; k+3 <= len(name); k++ {
		for _, v := range vendorsBy3[hash3(name[k], name[k+1], name[k+2])] {
			if len(name)-k >= len(v.word) && string(name[k:k+len(v.word)]) == v.word && v.fits(value) {
				return v.detector
			}
		}
	}
	return ""
}

func (v *vendor) fits(value []byte) bool {
	long := false
	for k, n := range v.lengths {
		long = long || n == len(value) || n < 0 && len(value) > v.lengths[k-1] && len(value) <= -n
	}
	if !long {
		return false
	}
	digits := 0
	for _, b := range value {
		if class[b]&v.classes == 0 {
			return false
		}
		if class[b]&isDigit != 0 {
			digits++
		}
	}
	return digits >= 2 && digits < len(value)
}
