package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const mistakes = `agents:
  - {name: planner, cgroup: agents.slice/planner, policy: planer}
targets:
  - {name: orders, protocol: postgress, hosts: [a:5432], anonymous: allow}
  - {name: other, protocol: postgres, hosts: [o:5432], anonymous: allow, tls: {ca: /nonexistent.pem}, nonsense: 1}
policies:
  - name: planner
    rules:
      - {name: r1, target: orders, verbs: [select], allow: true}
      - {name: r2, target: other, verbs: [selct], allow: true}
      - {name: r3, target: other, verbs: [select], when: 'request.sql.bykey', allow: true}
      - {name: r4, target: other, verbs: [select]}
    masks:
      - {target: other, detect: [secretz], with: redact}
`

// TestAllProblemsAtOnce: those of the file's form, of its policies, of words
// that only the daemon knows and of files it names are told in one go, each at
// its place and once.
func TestAllProblemsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "postern.yaml")
	if err := os.WriteFile(path, []byte(mistakes), 0o600); err != nil {
		t.Fatal(err)
	}
	err := checkOnly(path, new(bytes.Buffer), new(bytes.Buffer))
	var found problems
	if !errors.As(err, &found) {
		t.Fatal(err)
	}
	for _, want := range []string{
		`:2:5: agent "planner" has the policy "planer"`, `:4:5: protocol "postgress" is not known`, `a target has no key "nonsense"`,
		`tls.ca: open /nonexistent.pem`, `:10:9: rule "r2": target "other" has no verb "selct"`, `: rule "r3": there is no request.sql.bykey`,
		`:12:9: rule "r4" has 0 of allow, deny and ask`, `detector "secretz" is not known`,
	} {
		n := 0
		for _, p := range found {
			if strings.Contains(p, want) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%q is told %d times", want, n)
		}
	}
	if len(found) != 8 {
		t.Errorf("%d problems:\n%s", len(found), err)
	}
}

func TestCheckOfTheExample(t *testing.T) {
	text, err := os.ReadFile("../../internal/config/testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// What the example names of the operator's own.
	text = bytes.ReplaceAll(text, []byte("source: openbao"), []byte("source: file"))
	text = bytes.ReplaceAll(text, []byte(", ca: /etc/ssl/corp-ca.pem"), nil)
	path := filepath.Join(t.TempDir(), "postern.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	if err := checkOnly(path, &out, &errOut); err != nil || errOut.Len() > 0 || !strings.Contains(out.String(), "no problems (1 agents, 1 targets, 1 policies)") {
		t.Errorf("%v\n%s%s", err, &out, &errOut)
	}
}
