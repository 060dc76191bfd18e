package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/lucasjones/reggen"
	"github.com/postern/postern/internal/mask"
	"github.com/zricethezav/gitleaks/v8/detect"
)

// apart are gitleaks' rules that have no counterpart, or one that asks for more
// than the generated text has, and why.
var apart = map[string]string{
	"asana-client-id": "no secret", "discord-client-id": "no secret", "flutterwave-public-key": "no secret", "mapbox-api-token": "public ones are no secret",
	"github-app-token": "checksum", "github-oauth": "checksum", "github-pat": "checksum", "github-refresh-token": "checksum",
	"jwt": "its header is decoded", "jwt-base64": "its header is decoded", "sendgrid-api-token": "its parts have lengths", "private-key": "BEGIN has a space behind it",
	"huggingface-access-token": "both cases", "huggingface-organization-api-token": "both cases", "new-relic-user-api-key": "upper case",
	"generic-api-key": "at least sixteen characters, of more kinds", "dropbox-api-token": "digits", "square-access-token": "64 characters",
	"authress-service-client-access-key": "not looked for", "curl-auth-header": "at least sixteen characters", "curl-auth-user": "not looked for",
	"sidekiq-secret": "not looked for, but in URLs", "twitter-bearer-token": "not looked for", "vault-service-token": "old ones are not looked for", "yandex-access-token": "longer",
	"kubernetes-secret-yaml": "not looked for", "nuget-config-password": "not looked for", "sourcegraph-access-token": "any forty hex digits are those of a commit, too",
	"cohere-api-token": "CO_API_KEY is of the generic kind", "nytimes-access-token": "equals signs", "sumologic-access-id": "two digits",
	"dropbox-short-lived-api-token": "both cases", "facebook-access-token": "both cases", "atlassian-api-token": "both cases",
}

// operator is what gitleaks has between the name of a service and a value.
var operator = regexp.MustCompile(`\(\?:\[ \\t\\w\.-\]\{0,20\}\).*?\{0,5\}`)

// TestFamilies generates texts that gitleaks' rules match, and looks for them.
func TestFamilies(t *testing.T) {
	leaks, err := detect.NewDetectorDefaultConfig()
	if err != nil {
		t.Fatal(err)
	}
	s := mask.NewScanner(mask.Secrets)
	rules, unused := 0, 0
	for _, id := range leaks.Config.OrderedRules {
		r := leaks.Config.Rules[id]
		if r.Regex == nil || apart[id] != "" {
			continue
		}
		g, err := reggen.NewGenerator(plainer(r.Regex.String()))
		if err != nil {
			t.Errorf("%s: %v", id, err)
			continue
		}
		g.SetSeed(1)
		theirs, both, lost := 0, 0, ""
		for range 100 {
			text := g.Generate(12)
			_, value, _ := strings.Cut(text, "_key=")
			if !finds(leaks, text, id) || strings.Contains(strings.TrimRight(value, "= "), "=") {
				continue // an equals sign within is no part of real ones
			}
			theirs++
			if len(s.Scan([]byte(text))) > 0 {
				both++
			} else {
				lost = text
			}
		}
		if theirs > 0 {
			rules++
		} else {
			unused++
		}
		if both*100 < theirs*85 {
			t.Errorf("%s: %d of %d are found, not %q", id, both, theirs, lost)
		}
	}
	if rules < 150 || unused > 20 {
		t.Errorf("%d rules were compared, %d had no text", rules, unused)
	}
}

// plainer makes an expression generate what people write: one operator, no
// letters of other alphabets that fold to ours.
func plainer(e string) string {
	e = strings.NewReplacer("(?i)", "", `[\w.-]{0,50}?`, "", "(?i:", "(?:", "(?-i:", "(?:").Replace(e)
	e = operator.ReplaceAllString(e, "_key=")
	e = strings.ReplaceAll(e, `_key=)(?:=|>|:{1,3}=|\|\||:|=>|\?=|,)[\x60'"\s=]{0,5}`, "_key=)")
	if i := strings.Index(e, `(?:[\x60'"\s;]|`); i > 0 {
		e = e[:i] + " "
	}
	for strings.Count(e, "(") > strings.Count(e, ")")+strings.Count(e, `\(`) {
		e = strings.Replace(e, "_key=", "_key=)", 1) // what was replaced closed a group
	}
	return e
}

func finds(d *detect.Detector, text, id string) bool {
	for _, f := range d.DetectString(text) {
		if f.RuleID == id {
			return true
		}
	}
	return false
}
