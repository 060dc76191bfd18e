package config

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// withDefaults is a file that leaves out whatever has a default.
const withDefaults = `
identity: {issuers: [{name: i, url: "https://i.example", client_id: c}]}
secrets: {sources: [{name: v, vault: {address: /run/v.sock, auth: {method: agent}}}, {name: x, exec: {command: [/bin/x]}}]}
agents: [{name: a, cgroup: agents.slice/a, policy: p, mounts: [{path: /srv}], identity: {on_expiry: ask, ask: {approvers: [dba]}}}]
targets:
  - {name: s, protocol: ssh, hosts: [a.example:22], ssh: {host_keys: [ssh-ed25519 AAAA]}, credential: {user: u, certificate: {ca: {source: file}}}}
  - {name: t, protocol: postgres, hosts: [db.example:5432], anonymous: allow}
  - {name: m, protocol: postgres, hosts: [m.example:5432], placeholder: {password: p}, credential: {database: d, issue: {source: v, engine: database, role: r}}}
detectors: [{name: d, anchors: [EMP-], pattern: EMP}]
policies: [{name: p, rules: [{name: r, target: t, verbs: [select], ask: {approvers: [dba]}}], budgets: [{name: b, per: 1h, rows: 1, ask: {at: 50%, approvers: [dba]}}]}]
`

// documented finds the rows of docs/configuration.md: key and default.
var documented = regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| (.*?) \\|")

// TestEveryKeyIsDocumented: docs/configuration.md has every key, no other, and
// the defaults that hold. The keys are those of testdata/full.yaml, which is
// held to those that schema.go reads.
func TestEveryKeyIsDocumented(t *testing.T) {
	keys := map[string]string{}
	leaves(keys, "", parseFile(t, "testdata/full.yaml"))
	rows := map[string]string{}
	for _, m := range documented.FindAllStringSubmatch(text(t, "../../docs/configuration.md"), -1) {
		if _, twice := rows[m[1]]; twice {
			t.Errorf("docs/configuration.md has %s twice", m[1])
		}
		rows[m[1]] = m[2]
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if _, ok := rows[key]; !ok {
			t.Errorf("docs/configuration.md lacks %s", key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		if _, ok := keys[key]; !ok {
			t.Errorf("docs/configuration.md has %s, which testdata/full.yaml does not", key)
		}
	}
	defaults(t, rows)
}

// defaults compares the defaults in the rows with what Parse fills in.
func defaults(t *testing.T, rows map[string]string) {
	cfg, problems := Parse("defaults", []byte(withDefaults), time.Now())
	if cfg == nil {
		t.Fatal(problems)
	}
	src, err := Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var n yaml.Node
	if err := yaml.Unmarshal(src, &n); err != nil {
		t.Fatal(err)
	}
	filled, written := map[string]string{}, map[string]string{}
	leaves(filled, "", n.Content[0])
	if err := yaml.Unmarshal([]byte(withDefaults), &n); err != nil {
		t.Fatal(err)
	}
	leaves(written, "", n.Content[0])
	for key, value := range filled {
		if _, ok := written[key]; !ok && rows[key] != "`"+value+"`" {
			t.Errorf("docs/configuration.md says of %s: %s, but its default is `%s`", key, rows[key], value)
		}
	}
	for key, row := range rows {
		if _, ok := filled[key]; !ok && row != "none" && row != "required" {
			t.Errorf("docs/configuration.md says of %s: %s, but it has no default", key, row)
		}
	}
}

// TestFullFileHasEveryKey: what schema.go reads is in testdata/full.yaml.
func TestFullFileHasEveryKey(t *testing.T) {
	have := map[string]bool{}
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		for i, c := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 0 {
				have[c.Value] = true
			}
			walk(c)
		}
	}
	walk(parseFile(t, "testdata/full.yaml"))
	readers := regexp.MustCompile(`(?m)^\s+"([a-z_]+)":\s+(?:d\.|func|action)|map\[string\]reader\{"([a-z_]+)"`)
	found := readers.FindAllStringSubmatch(text(t, "schema.go")+text(t, "ssh.go")+text(t, "identity.go")+text(t, "sources.go"), -1)
	if len(found) < 60 {
		t.Fatalf("only %d keys were found in schema.go: does the pattern still fit?", len(found))
	}
	for _, m := range found {
		if key := m[1] + m[2]; !have[key] {
			t.Errorf("schema.go reads %s, which testdata/full.yaml lacks", strconv.Quote(key))
		}
	}
}

// TestReadmeExample: the configuration of the README has no problems.
func TestReadmeExample(t *testing.T) {
	_, rest, _ := strings.Cut(text(t, "../../README.md"), "```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	if cfg, problems := Parse("README.md", []byte(example), time.Now()); !ok || cfg == nil || len(problems) > 0 {
		t.Errorf("the example: %v", problems)
	}
}

// leaves collects the keys that have a value, with dots for nesting; lists are
// seen through.
func leaves(into map[string]string, at string, n *yaml.Node) {
	switch n.Kind {
	case yaml.AliasNode:
		leaves(into, at, n.Alias)
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if at != "" {
				key = at + "." + key
			}
			leaves(into, key, n.Content[i+1])
		}
	case yaml.SequenceNode:
		for _, e := range n.Content {
			leaves(into, at, e)
		}
	default:
		into[at] = n.Value
	}
}

func parseFile(t *testing.T, path string) *yaml.Node {
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(text(t, path)), &n); err != nil {
		t.Fatal(err)
	}
	return n.Content[0]
}

func text(t *testing.T, path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
