package redirect

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRunsOfAProgram(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	records := echo(t, l, l.TCP...)
	a := w.agent(cgroup)
	before, err := RunsOf(w.options)
	w.must(err)
	counting, err := CountRuns()
	w.must(err)
	for range 3 {
		if errno := a.connect(a.socket(unix.AF_INET, unix.SOCK_STREAM), there4); errno != 0 {
			t.Fatalf("connect: %v", errno)
		}
		next(t, records)
	}
	w.must(counting.Close())
	after, err := RunsOf(w.options)
	w.must(err)
	for hook, want := range map[string]uint64{"connect4": 3, "connect6": 0, "sock_create": 3} {
		got := after[hook].Since(before[hook])
		if got.Count != want || (got.Each() > 0) != (want > 0) {
			t.Errorf("%s: %+v, want %d runs", hook, got, want)
		}
	}
	if got := after["egress"].Since(before["egress"]); got.Count < 6 {
		t.Errorf("egress: %+v, want two packets of each connection at least", got)
	}
}

func TestEachRun(t *testing.T) {
	r := Runs{Count: 7, Time: 900}.Since(Runs{Count: 3, Time: 100 * time.Nanosecond})
	if r.Each() != 200 {
		t.Errorf("%+v: %v ns each, want 200", r, r.Each())
	}
	if none := (Runs{}).Each(); none != 0 {
		t.Errorf("no runs: %v ns each, want 0", none)
	}
}
