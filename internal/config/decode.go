package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Severity of a problem.
type Severity uint8

const (
	Error   Severity = iota // the file is not used
	Warning                 // the file is used
)

func (s Severity) String() string { return [...]string{"error", "warning"}[s] }

// Problem is one thing wrong with a file.
type Problem struct {
	Pos
	Severity Severity
	Message  string // what is wrong
	Help     string // what to do
}

func (p Problem) String() string {
	s := p.Pos.String() + ": "
	if p.Severity == Warning {
		s += "warning: "
	}
	s += p.Message
	if p.Help != "" {
		s += "; " + p.Help
	}
	return s
}

const (
	// maxNodes bounds the work that aliases can make of a small file. A config
	// of a thousand rules visits about 20,000 values.
	maxNodes = 200_000
	// maxProblems is how many are reported; more teach nobody.
	maxProblems = 100
	// maxText bounds one string, in bytes. The longest is a `when`.
	maxText = 8 << 10
)

// decoder walks the nodes of one file and collects problems. Its readers take
// a node and store a value; they report and store nothing when it is wrong.
type decoder struct {
	file     string
	now      time.Time
	nodes    int
	problems []Problem
}

type reader = func(*yaml.Node)

func (d *decoder) pos(n *yaml.Node) Pos { return Pos{d.file, max(n.Line, 1), max(n.Column, 1)} }

func (d *decoder) problem(at Pos, s Severity, help, message string, args ...any) {
	d.problems = append(d.problems, Problem{at, s, fmt.Sprintf(message, args...), help})
}

func (d *decoder) wrong(n *yaml.Node, help, message string, args ...any) {
	d.problem(d.pos(n), Error, help, message, args...)
}

// visit follows an alias and counts. It is nil when the file has too many values.
func (d *decoder) visit(n *yaml.Node) *yaml.Node {
	d.nodes++
	if d.nodes == maxNodes {
		d.wrong(n, "write fewer aliases", "the file has more than %d values, aliases counted each time", maxNodes)
	}
	if d.nodes >= maxNodes {
		return nil
	}
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// mapping reads a mapping with the given keys and reports unknown, doubled and
// missing ones.
func (d *decoder) mapping(n *yaml.Node, what string, keys map[string]reader, required ...string) {
	at := d.pos(n)
	if n = d.visit(n); n == nil {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.problem(at, Error, "write it as key: value", "%s must be a mapping, not %s", what, kindOf(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.AliasNode || key.Kind != yaml.ScalarNode {
			d.wrong(key, "write a plain word", "a key of %s must be a word", what)
			continue
		}
		read, known := keys[key.Value]
		switch line, double := seen[key.Value]; {
		case key.ShortTag() == "!!merge":
			d.wrong(key, "write the keys out", "merging with << is not supported")
		case double:
			d.wrong(key, "remove one of them", "%q is already on line %d", key.Value, line)
		case !known:
			d.wrong(key, suggest(key.Value, keys), "%s has no key %q", what, clip(key.Value))
		case isNull(value):
			d.wrong(value, "write a value or remove the key", "%q has no value", key.Value)
			seen[key.Value] = key.Line
		default:
			seen[key.Value] = key.Line
			read(value)
		}
	}
	for _, key := range required {
		if _, ok := seen[key]; !ok {
			d.problem(at, Error, fmt.Sprintf("add %s: …", key), "%s has no %q", what, key)
		}
	}
}

// list reads each element of a sequence.
func (d *decoder) list(n *yaml.Node, what string, read reader) {
	at := d.pos(n)
	if n = d.visit(n); n == nil {
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.problem(at, Error, "write it as [a, b] or as lines that begin with -", "%s must be a list, not %s", what, kindOf(n))
		return
	}
	for _, e := range n.Content {
		if isNull(e) {
			d.wrong(e, "remove it or write a value", "%s has an empty element", what)
			continue
		}
		read(e)
	}
}

// scalar returns the text of a scalar of one of the given tags.
func (d *decoder) scalar(n *yaml.Node, what, want string, tags ...string) (string, bool) {
	at := d.pos(n)
	if n = d.visit(n); n == nil {
		return "", false
	}
	if n.Kind == yaml.ScalarNode && slices.Contains(tags, n.ShortTag()) {
		return n.Value, true
	}
	help := ""
	if n.Kind == yaml.ScalarNode && slices.Contains(tags, "!!str") {
		help = "put it in quotes"
	}
	d.problem(at, Error, help, "%s must be %s, not %s", what, want, kindOf(n))
	return "", false
}

// text returns a string without control characters.
func (d *decoder) text(n *yaml.Node, what string) (string, bool) {
	s, ok := d.scalar(n, what, "text", "!!str")
	switch {
	case !ok:
		return "", false
	case strings.TrimSpace(s) == "":
		d.wrong(n, "write a value or remove the key", "%s is empty", what)
		return "", false
	case len(s) > maxText:
		d.wrong(n, "shorten it", "%s is longer than %d bytes", what, maxText)
		return "", false
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r == 0x7f }):
		d.wrong(n, "remove them", "%s has control characters", what)
		return "", false
	}
	return s, true
}

// str stores a string that check, which may be nil, finds right.
func (d *decoder) str(to *string, what string, check func(string) (message, help string)) reader {
	return func(n *yaml.Node) {
		s, ok := d.text(n, what)
		if !ok {
			return
		}
		if check != nil {
			if message, help := check(s); message != "" {
				d.wrong(n, help, "%s %q %s", what, clip(s), message)
				return
			}
		}
		*to = s
	}
}

// strs stores a list of different strings.
func (d *decoder) strs(to *[]string, what string, check func(string) (message, help string)) reader {
	return func(n *yaml.Node) {
		d.list(n, what, func(e *yaml.Node) {
			var s string
			d.str(&s, "an element of "+what, check)(e)
			switch {
			case s == "":
			case slices.Contains(*to, s):
				d.wrong(e, "remove one of them", "%s has %q twice", what, clip(s))
			default:
				*to = append(*to, s)
			}
		})
		if at := n; len(*to) == 0 && emptyList(at) {
			d.wrong(n, "add an element or remove the key", "%s is empty", what)
		}
	}
}

// word stores one of a few words.
func (d *decoder) word(to *string, what string, words ...string) reader {
	return func(n *yaml.Node) {
		// on and off are booleans to old YAML and words to us.
		s, ok := d.scalar(n, what, "one of "+strings.Join(words, ", "), "!!str", "!!bool")
		if !ok {
			return
		}
		if !slices.Contains(words, s) {
			d.wrong(n, nearest(s, words), "%s must be one of %s, not %q", what, strings.Join(words, ", "), clip(s))
			return
		}
		*to = s
	}
}

// flag stores whether the word is yes rather than no.
func (d *decoder) flag(to *bool, what, yes, no string) reader {
	return func(n *yaml.Node) {
		var s string
		d.word(&s, what, yes, no)(n)
		*to = s == yes
	}
}

// boolean stores true or false.
func (d *decoder) boolean(to *bool, what string) reader {
	return func(n *yaml.Node) {
		if s, ok := d.scalar(n, what, "true or false", "!!bool"); ok {
			*to = s == "true"
		}
	}
}

// number stores an integer between low and high.
func (d *decoder) number(to *int, what string, low, high int) reader {
	return func(n *yaml.Node) {
		s, ok := d.scalar(n, what, "a number", "!!int")
		if !ok {
			return
		}
		v, err := strconv.Atoi(s)
		if err != nil || v < low || v > high {
			d.wrong(n, "", "%s must be a number from %d to %d, not %q", what, low, high, clip(s))
			return
		}
		*to = v
	}
}

// duration stores a time span between low and high.
func (d *decoder) duration(to *time.Duration, what string, low, high time.Duration) reader {
	return func(n *yaml.Node) {
		s, ok := d.scalar(n, what, "a duration such as 10m", "!!str", "!!int")
		if !ok {
			return
		}
		v, err := time.ParseDuration(s)
		switch {
		case err != nil:
			d.wrong(n, "write a number and a unit, such as 90s, 10m or 2h", "%s %q is not a duration", what, clip(s))
		case v < low || v > high:
			d.wrong(n, "", "%s must be between %s and %s, not %s", what, low, high, v)
		default:
			*to = v
		}
	}
}

var units = []struct {
	name  string
	bytes Size
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// size stores a number of bytes between low and high.
func (d *decoder) size(to *Size, what string, low, high Size) reader {
	return func(n *yaml.Node) {
		s, ok := d.scalar(n, what, "a size such as 64MiB", "!!str", "!!int")
		if !ok {
			return
		}
		for _, u := range units {
			digits, found := strings.CutSuffix(s, u.name)
			if !found {
				continue
			}
			v, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
			if err != nil || v < 0 {
				break
			}
			if v > int64(high/u.bytes) || Size(v)*u.bytes < low {
				d.wrong(n, "", "%s must be between %s and %s, not %s", what, low, high, s)
				return
			}
			*to = Size(v) * u.bytes
			return
		}
		d.wrong(n, "write a whole number and a unit: B, KiB, MiB, GiB or TiB", "%s %q is not a size", what, clip(s))
	}
}

func emptyList(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n.Kind == yaml.SequenceNode && len(n.Content) == 0
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	case "!!null":
		return "nothing"
	case "!!timestamp":
		return "a date"
	case "!!str":
		return "text"
	}
	return "a value of type " + clip(n.ShortTag())
}

// clip keeps a message readable whatever the file holds.
func clip(s string) string {
	const most = 60 // characters
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

func suggest(word string, keys map[string]reader) string {
	words := make([]string, 0, len(keys))
	for k := range keys {
		words = append(words, k)
	}
	slices.Sort(words)
	if help := nearest(word, words); help != "" {
		return help
	}
	return "its keys are " + strings.Join(words, ", ")
}

// nearest suggests the word that was probably meant, or nothing.
func nearest(word string, words []string) string {
	best, distance := "", len(word)/3+2
	for _, w := range words {
		if n := edits(word, w, distance); n < distance {
			best, distance = w, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", best)
}

// edits is the Levenshtein distance, or limit when that is lower.
func edits(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit || len(a) > 64 {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}

func sorted(problems []Problem) []Problem {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	if len(problems) > maxProblems {
		more := len(problems) - maxProblems
		problems = append(problems[:maxProblems:maxProblems], Problem{
			Pos: problems[maxProblems].Pos, Message: fmt.Sprintf("and %d more problems from here on", more),
		})
	}
	return problems
}
