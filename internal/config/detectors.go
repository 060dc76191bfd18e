package config

import (
	"fmt"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Detector is one of the host's own: what Pattern matches near one of Anchors.
type Detector struct {
	Pos     Pos      `yaml:"-"`
	Name    string   `yaml:"name"`
	Anchors []string `yaml:"anchors"`
	Pattern string   `yaml:"pattern"` // RE2; its first group, if it has one, is what is masked
	Before  int      `yaml:"before"`  // bytes before an anchor that the pattern sees
	After   int      `yaml:"after"`   // bytes behind it
	Check   string   `yaml:"check,omitempty"`
	With    string   `yaml:"with"` // "redact", "partial", "hash", "pseudonym"
}

const (
	DefaultBefore = 64  // of a detector
	DefaultAfter  = 128 // of a detector

	maxWindow    = 4096 // each side of an anchor
	maxDetectors = 64
	maxAnchors   = 32 // of a detector
	maxAnchor    = 64 // bytes
	minAnchor    = 2
	maxPattern   = 1024 // bytes
)

// reserved are the words for all detectors of a kind, which no detector of the
// host's own can have.
var reserved = map[string]bool{"secrets": true, "pii": true}

func (d *decoder) detector(n *yaml.Node) Detector {
	t := Detector{Pos: d.pos(n), Before: DefaultBefore, After: DefaultAfter, With: "redact"}
	d.mapping(n, "a detector", map[string]reader{
		"name":    d.str(&t.Name, "name", isDetector),
		"anchors": d.strs(&t.Anchors, "anchors", isAnchor),
		"pattern": d.str(&t.Pattern, "pattern", isPattern),
		"before":  d.number(&t.Before, "before", 0, maxWindow),
		"after":   d.number(&t.After, "after", 0, maxWindow),
		"check":   d.str(&t.Check, "check", isCheck),
		"with":    d.word(&t.With, "with", "redact", "partial", "hash", "pseudonym"),
	}, "name", "anchors", "pattern")
	if len(t.Anchors) > maxAnchors {
		d.problem(t.Pos, Error, "make two detectors of it", "detector %q has more than %d anchors", t.Name, maxAnchors)
	}
	return t
}

// detectors checks what policies say of them, as far as that can be known here.
func (d *decoder) detectors(c *Config) {
	seen, used := map[string]Pos{}, map[string]bool{}
	for i := range c.Policies {
		for _, m := range c.Policies[i].Masks {
			for _, word := range m.Detect {
				used[word] = true
			}
		}
	}
	for i := range c.Detectors {
		t := &c.Detectors[i]
		d.once(seen, "detector", t.Name, t.Pos)
		if t.Name != "" && !used[t.Name] {
			d.problem(t.Pos, Warning, "name it in detect: of a mask, or remove it", "no mask uses the detector %q", t.Name)
		}
		if i == maxDetectors {
			d.problem(t.Pos, Error, "write fewer", "there are more than %d detectors", maxDetectors)
		}
	}
}

func isDetector(s string) (string, string) {
	if reserved[s] {
		return "is the word for a kind of detectors", "choose another name"
	}
	return isWord(s)
}

func isAnchor(s string) (string, string) {
	if len(s) < minAnchor || len(s) > maxAnchor {
		return fmt.Sprintf("is not %d to %d bytes long", minAnchor, maxAnchor),
			"an anchor is what is looked for in every value: make it as long and as rare as you can"
	}
	return "", ""
}

func isPattern(s string) (string, string) {
	if len(s) > maxPattern {
		return fmt.Sprintf("is longer than %d bytes", maxPattern), "make two detectors of it"
	}
	re, err := regexp.Compile(s)
	if err != nil {
		return "is not a regular expression: " + err.Error(), "write it as RE2 has it: https://github.com/google/re2/wiki/Syntax"
	}
	if re.MatchString("") {
		return "also matches the empty text", "let it ask for at least one character"
	}
	return "", ""
}

var entropyForm = regexp.MustCompile(`^entropy >= ([0-9](\.[0-9]{1,2})?)$`)

func isCheck(s string) (string, string) {
	if s == "luhn" || s == "mod97" {
		return "", ""
	}
	if m := entropyForm.FindStringSubmatch(s); m != nil {
		if least, err := strconv.ParseFloat(m[1], 64); err == nil && least > 0 && least <= 8 {
			return "", ""
		}
	}
	return "is not a check", "write luhn, mod97, or entropy >= 3.5 with 0 to 8 bits per byte"
}
