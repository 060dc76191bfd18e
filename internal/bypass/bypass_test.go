package bypass

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// leastAttempts is what the list has been promised to hold; it only grows.
const leastAttempts = 45

func TestListIsWhole(t *testing.T) {
	names := map[string]bool{}
	word := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	for _, a := range All() {
		if names[a.Name] || !word.MatchString(a.Name) {
			t.Errorf("%q is no name of its own", a.Name)
		}
		names[a.Name] = true
		if a.Tries == "" || strings.HasSuffix(a.Tries, ".") || len(a.Families) == 0 || a.do == nil {
			t.Errorf("%s is not whole: %+v", a.Name, a)
		}
		if slices.Contains(a.Families, Neither) && len(a.Families) > 1 {
			t.Errorf("%s: families %v", a.Name, a.Families)
		}
		for tier, must := range a.Must {
			if (must.Open == "") == (len(must.By) == 0) {
				t.Errorf("%s, tier %s: it is either stopped by something, or open and said to be", a.Name, Tier(tier))
			}
			if Tier(tier) != Redirected && must.Open != "" {
				t.Errorf("%s is open in the tier %s", a.Name, Tier(tier))
			}
		}
	}
	if len(names) < leastAttempts {
		t.Errorf("%d attempts, at least %d", len(names), leastAttempts)
	}
}

func TestDecide(t *testing.T) {
	must := Attempt{Name: "must", Must: everywhere(ByUDP)}
	open := Attempt{Name: "open", Must: openUnlessBoxed("help", ByMounts)}
	missing := Attempt{Name: "missing", Must: boxed(by(ByMounts)), path: func(int) string { return "/nonexistent/socket" }}
	errno := func(err error) Report { return report(fmt.Errorf("call: %w", err)) }
	for _, c := range []struct {
		name        string
		attempt     Attempt
		tier        Tier
		report      Report
		frames      []string
		counted     []Hook
		want        Result
		by          []Hook
		unexplained bool
	}{
		{"stopped by what should", must, Redirected, errno(unix.EPERM), nil, []Hook{ByUDP}, Stopped, []Hook{ByUDP}, false},
		{"stopped by something else", must, Redirected, errno(unix.EPERM), nil, []Hook{ByBind}, Stopped, []Hook{ByBind}, true},
		{"stopped by nobody knows what", must, Redirected, errno(unix.EPERM), nil, nil, Stopped, nil, true},
		{"got what it wanted", must, Redirected, report(nil), nil, []Hook{ByUDP}, Failed, nil, false},
		{"says it was stopped, but something arrived", must, Redirected, errno(unix.EPERM), []string{"a frame"}, []Hook{ByUDP}, Failed, nil, false},
		{"could not be made", must, Redirected, Report{Broken: true}, nil, nil, Failed, nil, false},
		{"nothing to try", must, Redirected, report(errAbsent), nil, nil, Absent, nil, false},
		{"nothing to try, but something arrived", must, Redirected, report(errAbsent), []string{"a frame"}, nil, Failed, nil, false},
		{"known to be open", open, Redirected, report(nil), []string{"a frame"}, nil, Open, nil, false},
		{"known to be open, and is not", open, Redirected, errno(unix.EACCES), nil, nil, Stopped, nil, false},
		{"open in another tier", open, Workspace, report(nil), nil, nil, Failed, nil, false},
		{"hidden", open, Workspace, errno(unix.ENOENT), nil, nil, Stopped, []Hook{ByMounts}, false},
		{"not in the filter", Attempt{Must: openUnlessBoxed("help", BySeccomp)}, Strict, report(fmt.Errorf("%w: %w", errAbsent, unix.EAFNOSUPPORT)), nil, nil, Stopped, []Hook{BySeccomp}, false},
		{"not in the kernel", Attempt{Must: openUnlessBoxed("help", BySeccomp)}, Redirected, report(fmt.Errorf("%w: %w", errAbsent, unix.EAFNOSUPPORT)), nil, nil, Absent, nil, false},
		{"not on this host", missing, Redirected, errno(unix.ENOENT), nil, nil, Absent, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := &Judge{Tier: c.tier}
			v := Verdict{Report: c.report, Frames: c.frames}
			j.decide(&v, c.attempt, c.counted)
			if v.Result != c.want || !slices.Equal(v.By, c.by) || v.Unexplained != c.unexplained {
				t.Errorf("%s by %v, unexplained %t; want %s by %v, %t", v.Result, v.By, v.Unexplained, c.want, c.by, c.unexplained)
			}
		})
	}
}

func TestCounted(t *testing.T) {
	before := map[string]uint64{"udp": 3, "bind": 1, "token_sent": 1}
	after := map[string]uint64{"udp": 4, "bind": 1, "token_sent": 2, "egress": 1}
	if got := counted(before, after); !slices.Equal(got, []Hook{ByEgress, ByUDP}) {
		t.Errorf("counted %v", got)
	}
}

func TestReportTellsTheErrno(t *testing.T) {
	if r := report(fmt.Errorf("connect: %w", unix.EPERM)); r.Errno != "EPERM" || r.Open || r.Absent || r.Detail != "connect: operation not permitted" {
		t.Errorf("%+v", r)
	}
	if r := report(errors.New("nothing")); r.Errno != "" || r.Open {
		t.Errorf("%+v", r)
	}
}

// TestReadLineReadsNoFurther: what follows a line is for another process.
func TestReadLineReadsNoFurther(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() { // more than a pipe holds
		defer w.Close()
		fmt.Fprint(w, "one\ntwo\n", strings.Repeat("x", maxLine+1))
	}()
	if line, err := readLine(r); string(line) != "one" || err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	rest := make([]byte, 4)
	if n, _ := r.Read(rest); string(rest[:n]) != "two\n" {
		t.Errorf("the rest is %q", rest[:n])
	}
	if line, err := readLine(r); err == nil {
		t.Errorf("%d bytes without an end are a line", len(line))
	}
}

func TestTierNamed(t *testing.T) {
	for _, tier := range []Tier{Redirected, Workspace, Strict} {
		if got, err := TierNamed(tier.String()); err != nil || got != tier {
			t.Errorf("%s: %v, %v", tier, got, err)
		}
	}
	if _, err := TierNamed("open"); err == nil {
		t.Error("there is no such tier")
	}
}
