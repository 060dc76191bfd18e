package redirect

import (
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Runs is what a program has cost so far.
type Runs struct {
	Count uint64
	Time  time.Duration
}

// Since is what was added after an earlier reading.
func (r Runs) Since(earlier Runs) Runs { return Runs{r.Count - earlier.Count, r.Time - earlier.Time} }

// Each is the mean of one run, in nanoseconds; 0 where there was none.
func (r Runs) Each() float64 {
	if r.Count == 0 {
		return 0
	}
	return float64(r.Time.Nanoseconds()) / float64(r.Count)
}

// CountRuns has the kernel measure all programs of the host until the result is
// closed. It costs every run two readings of the clock, so it is for benchmarks.
func CountRuns() (io.Closer, error) {
	counting, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("have the kernel measure its programs: %w", err)
	}
	return counting, nil
}

// RunsOf reads the measurements of the attached programs, by the names of the
// hooks. They stand still while nobody counts.
func RunsOf(o Options) (map[string]Runs, error) {
	runs := map[string]Runs{}
	for _, h := range hooks {
		r, err := runsOf(filepath.Join(o.links(), h.name))
		if err != nil {
			return nil, fmt.Errorf("read what %s cost: %w", h.name, err)
		}
		runs[h.name] = r
	}
	return runs, nil
}

func runsOf(pin string) (Runs, error) {
	pinned, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return Runs{}, err
	}
	defer pinned.Close()
	info, err := pinned.Info()
	if err != nil {
		return Runs{}, err
	}
	program, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return Runs{}, err
	}
	defer program.Close()
	stats, err := program.Stats()
	if err != nil {
		return Runs{}, err
	}
	return Runs{stats.RunCount, stats.Runtime}, nil
}
