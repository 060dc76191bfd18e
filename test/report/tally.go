package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// tally counts tests. A test with subtests counts as its subtests, unless it
// fails by itself.
type tally struct {
	out      io.Writer
	open     map[test]*strings.Builder // tests without a verdict: their output
	builds   map[string]*strings.Builder
	branches map[test]bool // tests that have subtests
	fallen   map[test]bool // tests with a subtest that failed
	passed   map[test]bool
	skips    []failure
	failures []failure
	verdicts int // on tests, of any kind
	steps    int // that succeeded
	untested []string
}

// untested begins what a step says of what it could not get.
const untested = "not tested: "

// test is a package's when the name is empty.
type test struct{ pkg, name string }

func (t test) String() string { return strings.TrimSpace(t.pkg + " " + t.name) }

func (t test) parent() (test, bool) {
	i := strings.LastIndexByte(t.name, '/')
	return test{t.pkg, t.name[:max(i, 0)]}, i >= 0
}

type failure struct{ what, said string }

func newTally(out io.Writer) *tally {
	return &tally{
		out:      out,
		open:     map[test]*strings.Builder{},
		builds:   map[string]*strings.Builder{},
		branches: map[test]bool{},
		fallen:   map[test]bool{},
		passed:   map[test]bool{},
	}
}

func (t *tally) add(e event) {
	k := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		if t.builds[e.ImportPath] == nil {
			t.builds[e.ImportPath] = &strings.Builder{}
		}
		t.builds[e.ImportPath].WriteString(e.Output)
	case "start", "run":
		t.open[k] = &strings.Builder{}
		for p, ok := k.parent(); ok; p, ok = p.parent() {
			t.branches[p] = true
		}
	case "output":
		if o := t.open[k]; o != nil {
			o.WriteString(e.Output)
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			t.endPackage(k, e)
		} else {
			t.end(k, e.Action)
		}
	}
}

// end takes the verdict on a test.
func (t *tally) end(k test, verdict string) {
	said := t.close(k)
	t.verdicts++
	seed := strings.HasPrefix(k.name, "Fuzz") && strings.Contains(k.name, "/")
	switch {
	case verdict == "pass" || (verdict == "skip" && seed):
		// A fuzz target skips the seeds that mean nothing to it.
		t.passed[k] = true
	case verdict == "skip":
		t.skips = append(t.skips, failure{k.String(), said})
	default:
		if !t.fallen[k] || strings.Contains(said, "_test.go:") {
			t.fail(k.String(), said)
		}
		t.fallen[test{k.pkg, ""}] = true
		for p, ok := k.parent(); ok; p, ok = p.parent() {
			t.fallen[p] = true
		}
	}
}

// endPackage takes the verdict on a package, and with it on those of its tests
// that have none: they were running when it panicked or ran out of time.
func (t *tally) endPackage(k test, e event) {
	said := t.close(k)
	var unfinished []test
	for running := range t.open {
		if running.pkg == k.pkg {
			unfinished = append(unfinished, running)
		}
	}
	slices.SortFunc(unfinished, func(a, b test) int { return cmp.Compare(b.name, a.name) })
	for _, running := range unfinished {
		t.end(running, "fail")
	}
	if e.Action == "fail" && !t.fallen[k] {
		for _, path := range slices.Sorted(maps.Keys(t.builds)) {
			said += t.builds[path].String()
		}
		clear(t.builds)
		t.fail(k.pkg, said)
	}
	switch e.Action {
	case "pass":
		fmt.Fprintf(t.out, "ok   %s %.1fs\n", k.pkg, e.Elapsed)
	case "fail":
		fmt.Fprintf(t.out, "FAIL %s %.1fs\n", k.pkg, e.Elapsed)
	} // a package without tests is skipped: nothing to say
}

func (t *tally) close(k test) (said string) {
	if o := t.open[k]; o != nil {
		said = o.String()
	}
	delete(t.open, k)
	return said
}

func (t *tally) fail(what, said string) {
	t.failures = append(t.failures, failure{what, said})
}

// summary prints the end of the report; it says whether all is well.
func (t *tally) summary(root bool) bool {
	passed := 0
	for k := range t.passed {
		if !t.branches[k] {
			passed++
		}
	}
	for _, f := range t.failures {
		fmt.Fprintf(t.out, "\nFAIL %s\n%s\n", f.what, strings.TrimRight(f.said, "\n"))
	}
	failed := len(t.failures)
	for _, line := range t.untested {
		fmt.Fprint(t.out, "\n", line)
	}
	if len(t.skips) > 0 {
		fmt.Fprintf(t.out, "\n%d skipped:\n", len(t.skips))
		for _, s := range t.skips {
			fmt.Fprintf(t.out, "%s: %s\n", s.what, reason(s.said))
		}
		if root {
			fmt.Fprintln(t.out, "root has all that tests need, so each of these counts as failed")
			failed += len(t.skips)
		}
	}
	if passed == 0 && failed == 0 {
		fmt.Fprintln(t.out, "\nno test ran: that is a failure")
		failed = 1
	}
	fmt.Fprintf(t.out, "%d passed, %d failed\n", passed+t.steps, failed)
	return failed == 0
}

// reason is what the test said when it skipped, without go test's own lines.
func reason(said string) string {
	var own []string
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			own = append(own, line)
		}
	}
	return strings.Join(own, "; ")
}
