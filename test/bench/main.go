// Bench measures Postern side by side with what one would have instead: the
// same client directly at PostgreSQL, and through pgbouncer (session pooling,
// SCRAM). All are measured in turns, several rounds, and what is printed are
// ratios of medians: Postern ÷ peer, more is better. Policy, masking and
// recording are on. It needs root, PostgreSQL, pgbouncer and the programs in
// build/.
//
// With -connections it measures instead what a connection costs an agent: see
// connect.go; with -ssh commands and files by SSH: see ssh.go.
//
// Start with run; rows.go has what is measured.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern/postern/test/servers"
)

type options struct {
	build  string
	rounds int
	time   time.Duration
	only   string

	connections bool
	ssh         bool
}

func main() {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(play(role))
	}
	var o options
	flag.StringVar(&o.build, "build", "build", "folder of the four programs")
	flag.IntVar(&o.rounds, "rounds", 5, "how often each row is measured at each peer")
	flag.DurationVar(&o.time, "time", 2*time.Second, "how long one measurement takes")
	flag.StringVar(&o.only, "only", "", "only rows whose name holds this")
	flag.BoolVar(&o.connections, "connections", false, "measure connections instead of PostgreSQL")
	flag.BoolVar(&o.ssh, "ssh", false, "measure SSH instead of PostgreSQL")
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench: it attaches kernel programs, so it takes root: sudo make bench")
		os.Exit(1)
	}
	os.Exit(servers.Isolated(func() int {
		measure := run
		switch {
		case o.connections:
			measure = connections
		case o.ssh:
			measure = measureSSH
		}
		if err := measure(o); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	}))
}

func run(o options) (err error) {
	r, err := prepare(o)
	defer func() {
		if r != nil {
			r.close()
		}
	}()
	if err != nil {
		return err
	}
	fmt.Printf("%d rounds of %s per row and peer, in turns; transactions per second, medians\n\n", o.rounds, o.time)
	fmt.Printf("%-24s %9s %9s %9s  %9s %9s  %s\n", "row", "direct", "pgbouncer", "postern", "÷ direct", "÷ bouncer",
		"µs of processor per transaction: pgbouncer, postern")
	var figures []string
	for _, row := range rows {
		if !strings.Contains(row.name, o.only) {
			continue
		}
		median, cost, err := r.measure(row)
		if err != nil {
			return fmt.Errorf("%s: %w", row.name, err)
		}
		fmt.Printf("%-24s %9.0f %9.0f %9.0f  %9.2f %9.2f  %9.1f %9.1f\n", row.name, median[direct], median[bouncer], median[postern],
			median[postern]/median[direct], median[postern]/median[bouncer], cost[bouncer], cost[postern])
		for _, p := range []peer{direct, bouncer} {
			figures = append(figures, figure("postgres", row.name, string(p), median[postern]/median[p]))
		}
	}
	if strings.Contains("idle-1000", o.only) {
		figure, err := r.idle()
		if err != nil {
			return err
		}
		figures = append(figures, figure)
	}
	fmt.Println()
	for _, f := range figures {
		fmt.Println(f)
	}
	return nil
}

// measure takes all rounds of a row, peer by peer in turns. It returns medians
// of transactions per second, and of the processor time that whoever stands in
// between takes for one, in microseconds.
func (r *rig) measure(row row) (tps, cost map[peer]float64, err error) {
	rates, costs := map[peer][]float64{}, map[peer][]float64{}
	err = inTurns(r.options.rounds, []peer{direct, bouncer, postern}, func(p peer) error {
		before := r.processorTime(p, row.tls)
		rate, err := r.pgbench(row, p)
		if err != nil {
			return err
		}
		took := r.processorTime(p, row.tls) - before
		rates[p] = append(rates[p], rate)
		costs[p] = append(costs[p], float64(took.Microseconds())/(rate*r.options.time.Seconds()))
		return nil
	})
	return medians(rates), medians(costs), err
}

func absolute(path string) string {
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}
