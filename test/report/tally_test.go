package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// stream is what `go test -json` would print of these events: "action test
// output", all of package p.
func stream(t *testing.T, events ...string) string {
	t.Helper()
	var out strings.Builder
	for _, e := range events {
		action, rest, _ := strings.Cut(e, " ")
		name, output, _ := strings.Cut(rest, " ")
		line, err := json.Marshal(event{Action: action, Package: "p", Test: name, Output: output})
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(line, '\n'))
	}
	return out.String()
}

var summaries = []struct {
	name   string
	events []string
	root   bool
	last   string   // line
	says   []string // somewhere before
}{
	{
		name: "no test", events: []string{"start", "skip"},
		last: "0 passed, 1 failed", says: []string{"no test ran"},
	},
	{
		name: "a pass", events: []string{"start", "run TestA", "pass TestA", "pass"},
		last: "1 passed, 0 failed", says: []string{"ok   p"},
	},
	{
		name: "subtests count instead of their parent",
		events: []string{
			"start", "run TestA", "run TestA/x", "run TestA/y", "pass TestA/x", "pass TestA/y", "pass TestA", "pass",
		},
		last: "2 passed, 0 failed",
	},
	{
		name: "a failed subtest is one failure",
		events: []string{
			"start", "run TestA", "run TestA/x", "run TestA/y", "output TestA/x a_test.go:7: broken",
			"fail TestA/x", "pass TestA/y", "output TestA --- FAIL", "fail TestA", "fail",
		},
		last: "1 passed, 1 failed", says: []string{"FAIL p TestA/x\na_test.go:7: broken"},
	},
	{
		name: "a parent that fails by itself is one more",
		events: []string{
			"start", "run TestA", "run TestA/x", "fail TestA/x", "output TestA a_test.go:9: and this", "fail TestA", "fail",
		},
		last: "0 passed, 2 failed", says: []string{"and this"},
	},
	{
		name: "a package that fails without a test", events: []string{"start", "run TestA", "pass TestA", "output  leaked", "fail"},
		last: "1 passed, 1 failed", says: []string{"FAIL p\nleaked"},
	},
	{
		name: "a test without an end", events: []string{"start", "run TestA", "output TestA panic: oh", "fail"},
		last: "0 passed, 1 failed", says: []string{"FAIL p TestA\npanic: oh"},
	},
	{
		name: "a skip", events: []string{"start", "run TestA", "run TestB", "output TestB a_test.go:3: needs root", "skip TestB", "pass TestA", "pass"},
		last: "1 passed, 0 failed", says: []string{"1 skipped:\np TestB: a_test.go:3: needs root"},
	},
	{
		name: "a skip of root", events: []string{"start", "run TestA", "skip TestA", "pass"}, root: true,
		last: "0 passed, 1 failed",
	},
	{
		name: "a seed that a fuzz target skips", events: []string{"start", "run FuzzA", "run FuzzA/seed#0", "skip FuzzA/seed#0", "pass FuzzA", "pass"}, root: true,
		last: "1 passed, 0 failed",
	},
}

func TestSummary(t *testing.T) {
	for _, tt := range summaries {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			tally := newTally(&out)
			read(strings.NewReader("not JSON\n"+stream(t, tt.events...)), tally)
			ok := tally.summary(tt.root)
			lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
			if last := lines[len(lines)-1]; last != tt.last || ok != strings.HasSuffix(tt.last, " 0 failed") {
				t.Errorf("last line %q, well %v; want %q", last, ok, tt.last)
			}
			for _, s := range append(tt.says, "not JSON") {
				if !strings.Contains(out.String(), s) {
					t.Errorf("%q is missing in:\n%s", s, out.String())
				}
			}
		})
	}
}

func TestBuildFailureSaysWhy(t *testing.T) {
	var out strings.Builder
	tally := newTally(&out)
	tally.add(event{Action: "build-output", ImportPath: "p [p.test]", Output: "a.go:1: undefined: x\n"})
	tally.add(event{Action: "build-fail", ImportPath: "p [p.test]"})
	tally.add(event{Action: "start", Package: "p"})
	tally.add(event{Action: "output", Package: "p", Output: "FAIL\tp [build failed]\n"})
	tally.add(event{Action: "fail", Package: "p"})
	if tally.summary(false) || !strings.Contains(out.String(), "undefined: x") {
		t.Errorf("report:\n%s", out.String())
	}
}

func TestSteps(t *testing.T) {
	var out strings.Builder
	tally := newTally(&out)
	tally.step("true")
	if tally.summary(false) || !strings.HasSuffix(out.String(), "\n1 passed, 1 failed\n") {
		t.Errorf("a step is not a test:\n%s", out.String())
	}
	tally.step("echo not tested: kernel 7.1")
	if tally.summary(false); !strings.HasSuffix(out.String(), "\nnot tested: kernel 7.1\n\nno test ran: that is a failure\n2 passed, 1 failed\n") {
		t.Errorf("what is not tested is not said:\n%s", out.String())
	}
	tally.step("ls /nowhere")
	if tally.summary(false) || !strings.Contains(out.String(), "FAIL ls /nowhere\nls: ") {
		t.Errorf("report:\n%s", out.String())
	}
}

func TestParseSuites(t *testing.T) {
	suites := parseSuites([]string{". -race ./...", "", "test/e2e ./..."})
	if len(suites) != 2 || suites[0].String() != ".: go test -race ./..." || suites[1].directory != "test/e2e" {
		t.Errorf("suites: %v", suites)
	}
}
