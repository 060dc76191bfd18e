// Command report runs suites of Go tests and ends with one line that says how
// it went:
//
//	go run ./test/report [-step COMMAND]... [-fuzz DURATION] 'DIRECTORY ARGUMENTS...' ...
//
// Each argument is one suite: the directory of a module, then what `go test`
// gets. Each step is a command that runs before them and counts as one test
// (a build, a linter). With -fuzz it fuzzes every fuzz target that the suites have, each for
// so long. It prints a line per package, what failing tests said, what was
// skipped and why, and last `N passed, N failed`. It fails when a test fails,
// when no test ran, and as root when one was skipped: root has all that the
// tests need.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

func main() {
	fuzz := flag.Duration("fuzz", 0, "fuzz every target for this long instead of testing")
	var steps []string
	flag.Func("step", "a command that has to succeed, before the tests", func(s string) error {
		steps = append(steps, s)
		return nil
	})
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: report [-step COMMAND]... [-fuzz DURATION] 'DIRECTORY GO-TEST-ARGUMENTS...' ...")
		flag.PrintDefaults()
	}
	flag.Parse()
	suites := parseSuites(flag.Args())
	if len(suites) == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if *fuzz > 0 {
		var err error
		if suites, err = fuzzSuites(suites, *fuzz); err != nil {
			fmt.Fprintln(os.Stderr, "report:", err)
			os.Exit(1)
		}
	}
	t := newTally(os.Stdout)
	for _, s := range steps {
		t.step(s)
	}
	for _, s := range suites {
		if *fuzz > 0 {
			fmt.Println(s)
		}
		s.run(t)
	}
	if !t.summary(os.Getuid() == 0) {
		os.Exit(1)
	}
}

// step runs a command and shows what it says only when it fails, but for lines
// that say what it leaves untested.
func (t *tally) step(command string) {
	start := time.Now()
	fields := strings.Fields(command)
	if len(fields) == 0 {
		return
	}
	verdict := "ok  "
	said, err := exec.Command(fields[0], fields[1:]...).CombinedOutput()
	if err != nil {
		verdict = "FAIL"
		t.fail(command, fmt.Sprintf("%s%v", said, err))
	} else {
		t.steps++
	}
	for line := range strings.Lines(string(said)) {
		if err == nil && strings.HasPrefix(line, untested) {
			t.untested = append(t.untested, line)
		}
	}
	fmt.Fprintf(t.out, "%s %s %.1fs\n", verdict, command, time.Since(start).Seconds())
}

// suite is one call of `go test`.
type suite struct {
	directory string
	arguments []string
}

func (s suite) String() string {
	return s.directory + ": go test " + strings.Join(s.arguments, " ")
}

func parseSuites(arguments []string) (suites []suite) {
	for _, a := range arguments {
		if fields := strings.Fields(a); len(fields) > 0 {
			suites = append(suites, suite{fields[0], fields[1:]})
		}
	}
	return suites
}

// run adds the suite's tests to the tally. A suite that fails without a test
// that failed (a module that does not load) is one failure, and so is one in
// which no test ran.
func (s suite) run(t *tally) {
	cmd := exec.Command("go", append([]string{"test", "-json"}, s.arguments...)...)
	cmd.Dir = s.directory
	var stderr bytes.Buffer
	cmd.Stderr = io.MultiWriter(os.Stderr, &stderr)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	failures, verdicts := len(t.failures), t.verdicts
	if err == nil {
		read(out, t)
		err = cmd.Wait()
	}
	switch {
	case len(t.failures) > failures:
	case err != nil:
		t.fail(s.String(), fmt.Sprintf("%v\n%s", err, stderr.String()))
	case t.verdicts == verdicts:
		t.fail(s.String(), "no test ran: that is a failure")
	}
}

// event is one line of `go test -json`, see `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Output     string
	Elapsed    float64
}

func read(from io.Reader, t *tally) {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		switch {
		case len(bytes.TrimSpace(line)) == 0:
		case json.Unmarshal(line, &e) == nil:
			t.add(e)
		default:
			fmt.Fprintf(t.out, "%s", line)
		}
		if err != nil {
			return
		}
	}
}

// fuzzSuites are one suite for each fuzz target of the given ones: `go test`
// fuzzes one target at a time.
func fuzzSuites(suites []suite, each time.Duration) (targets []suite, err error) {
	for _, s := range suites {
		cmd := exec.Command("go", append([]string{"test", "-json", "-list", "^Fuzz"}, s.arguments...)...)
		cmd.Dir = s.directory
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("list the fuzz targets of %s: %w", s, err)
		}
		for line := range bytes.Lines(out) {
			var e event
			if json.Unmarshal(line, &e) != nil || e.Action != "output" || !strings.HasPrefix(e.Output, "Fuzz") {
				continue
			}
			targets = append(targets, suite{s.directory, []string{
				"-run=^$", "-fuzz=^" + strings.TrimSpace(e.Output) + "$", "-fuzztime=" + each.String(), e.Package,
			}})
		}
	}
	return targets, nil
}
