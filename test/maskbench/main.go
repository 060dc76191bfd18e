// Command maskbench measures internal/mask beside what one would take instead:
// gitleaks' engine as a library, and RE2 (go-re2) with gitleaks' expressions and
// those of personal data. All of them get the same texts, in turns, in one
// process on one processor, whose time is what counts.
//
// It prints megabytes per second, and a line "figure mask/ROW/PEER RATIO" for
// each peer: Postern ÷ peer, more is better. Start with main.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 5, "how often each is measured")
	least := flag.Duration("least", 500*time.Millisecond, "how long one measurement takes at least")
	flag.Parse()
	if err := run(*rounds, *least); err != nil {
		fmt.Fprintln(os.Stderr, "maskbench:", err)
		os.Exit(1)
	}
}

// goals are in MB/s on one processor.
var goals = map[string]float64{"text": 500, "rows-masked": 150}

func run(rounds int, least time.Duration) error {
	runtime.GOMAXPROCS(1)
	all, err := engines()
	if err != nil {
		return err
	}
	for _, w := range works() {
		rates := map[string][]float64{}
		for round := range rounds {
			for i := range all {
				e := all[(i+round)%len(all)]
				rate, finds := measure(e, w, least)
				if (finds > 0) != w.finds {
					return fmt.Errorf("%s found %d in %s", e.name, finds, w.name)
				}
				rates[e.name] = append(rates[e.name], rate)
			}
		}
		ours := slices.Max(rates[all[0].name])
		fmt.Printf("%-12s %-9s %8.1f MB/s", w.name, all[0].name, ours)
		if goal := goals[w.name]; goal > 0 {
			fmt.Printf(", goal %.0f", goal)
		}
		fmt.Println()
		for _, e := range all[1:] {
			best := slices.Max(rates[e.name])
			fmt.Printf("%-12s %-9s %8.1f MB/s\n", w.name, e.name, best)
			fmt.Printf("figure mask/%s/%s %.3f\n", w.name, e.name, ours/best)
		}
	}
	return nil
}

// measure runs an engine over a work until the time has passed, once at least.
// The rate is by the processor's time, garbage collection included, so that
// neighbours on the machine count less.
func measure(e engine, w work, least time.Duration) (rate float64, finds int) {
	runtime.GC()
	began, used, bytes := time.Now(), processor(), 0
	for time.Since(began) < least {
		finds = e.run(w)
		bytes += w.size
	}
	return float64(bytes) / 1e6 / (processor() - used).Seconds(), finds
}

// processor is the time that this process has had.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // Linux has no reason to refuse
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
