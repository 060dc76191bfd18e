// Command sqlbench measures how long it takes to say what a statement does, and
// to decide it: internal/sql with its worker and internal/policy, beside what one
// would take instead. Those are parsers as Go libraries (PostgreSQL's grammar in
// the process by cgo, and sqlparser, of MySQL), and OPA and Cedar for the rules.
// All of them get the same statements and requests, in turns, in one process.
//
// It prints microseconds, the least of the rounds, and a line "figure
// sql/ROW/PEER RATIO" for each peer: Postern ÷ peer, more is better. Start with
// main; decide.go has the rules of the three, statements.go the texts.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 7, "how often each is measured")
	least := flag.Duration("least", 300*time.Millisecond, "how long one measurement takes at least")
	worker := flag.String("worker", "../../build/postern-sqlparse", "the worker of internal/sql")
	flag.Parse()
	if err := run(*worker, *rounds, *least); err != nil {
		fmt.Fprintln(os.Stderr, "sqlbench:", err)
		os.Exit(1)
	}
}

// way is one way to do the work of a row. It does it n times, beginning with
// the i-th statement or request.
type way struct {
	name string
	run  func(i, n int) error
}

// row is what is measured; the first engine is Postern.
type row struct {
	name    string
	goal    time.Duration
	engines []way
}

func run(worker string, rounds int, least time.Duration) error {
	ctx, stop := context.WithCancel(context.Background())
	c, ended, err := classifier(ctx, worker)
	if err != nil {
		stop()
		return err
	}
	defer func() { stop(); <-ended }()
	rows, err := decisions()
	if err != nil {
		return err
	}
	for _, r := range append(statementRows(ctx, c), rows...) {
		took, err := measure(&r, rounds, least)
		if err != nil {
			return err
		}
		ours := took[r.engines[0].name]
		for _, e := range r.engines {
			fmt.Printf("%-14s %-10s %9.2f µs", r.name, e.name, took[e.name].Seconds()*1e6)
			if e.name == r.engines[0].name {
				fmt.Printf(", goal %v", r.goal)
			}
			fmt.Println()
		}
		for _, e := range r.engines[1:] {
			fmt.Printf("figure sql/%s/%s %.3f\n", r.name, e.name, float64(took[e.name])/float64(ours))
		}
	}
	return nil
}

// batch is how many are done between two looks at the clock.
const batch = 64

// measure returns the least time of each engine, all of them in turns.
func measure(r *row, rounds int, least time.Duration) (map[string]time.Duration, error) {
	took := map[string]time.Duration{}
	done := 0 // never the same number twice, so that what is to be new is
	for round := range rounds {
		for k := range r.engines {
			e := r.engines[(k+round)%len(r.engines)]
			runtime.GC()
			n, began := 0, time.Now()
			for time.Since(began) < least {
				if err := e.run(done, batch); err != nil {
					return nil, fmt.Errorf("%s, %s: %w", r.name, e.name, err)
				}
				n, done = n+batch, done+batch
			}
			each := time.Since(began) / time.Duration(n)
			if best, ok := took[e.name]; !ok || each < best {
				took[e.name] = each
			}
		}
	}
	return took, nil
}

// names are those of the engines of a row.
func (r *row) names() (names []string) {
	for _, e := range r.engines {
		names = append(names, e.name)
	}
	slices.Sort(names)
	return names
}
