package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/postern/postern/internal/redirect"
)

// What a connection costs an agent: connect, a byte to an echo server and back,
// end. Measured is the redirection alone, so the gateway is a small one: it
// claims the record of each connection and carries bytes with the same code as
// the proxies that it is compared with. What a protocol costs after that is
// measured with PostgreSQL.

// The ways to the echo server, besides direct and postern with one agent.
const (
	viaProxy    peer = "proxy"       // the agent dials a proxy
	viaRedirect peer = "redirect"    // iptables leads it to one
	postern200  peer = "postern-200" // the agents of as many policies, in turns
)

const (
	manyAgents = 200
	// connectionsPerTurn are divided among the agents of postern-200.
	connectionsPerTurn = 4000
	// A short life of many connections, some at a time.
	burst, burstParallel = 10000, 16

	// limitOfTime ends the whole: what it measures takes a fraction of that.
	limitOfTime = 3 * time.Minute
)

// goals of single programs, in nanoseconds.
var goals = []struct {
	hook string
	per  string
	goal float64
}{
	{"connect4", "connection", 3500},
	{"egress", "packet", 150},
	{"sockops", "call", 0},
	{"sock_create", "socket", 0},
	{"ingress", "packet", 0},
}

// connections measures everything and prints it.
func connections(o options) error {
	late := time.AfterFunc(limitOfTime, func() {
		fmt.Fprintf(os.Stderr, "bench: not done after %s\n", limitOfTime)
		os.Exit(1) // the processes end with their standard input
	})
	defer late.Stop()
	s, err := setStage()
	if err != nil {
		return err
	}
	defer s.close()
	figures, err := s.rates(o.rounds)
	if err != nil {
		return err
	}
	programs, err := s.programs()
	if err != nil {
		return err
	}
	lossless, err := s.burst()
	if err != nil {
		return err
	}
	fmt.Println()
	for _, f := range append(append(figures, programs...), lossless) {
		fmt.Println(f)
	}
	return nil
}

// rates measures connections per second, one after the other, at all peers.
func (s *stage) rates(rounds int) (figures []string, err error) {
	peers := []peer{direct, viaProxy, postern, postern200}
	if s.noRedirect == nil {
		peers = append(peers, viaRedirect)
	}
	rates := map[peer][]float64{}
	err = inTurns(rounds, peers, func(p peer) error {
		took, err := s.scenes[p].turn(connectionsPerTurn)
		rates[p] = append(rates[p], perSecond(connectionsPerTurn, took))
		return err
	})
	if err != nil {
		return nil, err
	}
	median := medians(rates)
	fmt.Printf("%d rounds of %d connections per way, in turns; medians\n\n%-12s %9s %9s\n", rounds, connectionsPerTurn, "way", "per s", "µs each")
	for _, p := range peers {
		fmt.Printf("%-12s %9.0f %9.1f\n", p, median[p], 1e6/median[p])
	}
	if s.noRedirect != nil {
		fmt.Printf("%-12s not measured: %v\n", viaRedirect, s.noRedirect)
	}
	for _, p := range peers {
		switch p {
		case postern, postern200:
		default:
			figures = append(figures,
				figure("connect", "agents-1", string(p), median[postern]/median[p]),
				figure("connect", fmt.Sprintf("agents-%d", manyAgents), string(p), median[postern200]/median[p]))
		}
	}
	return append(figures, figure("connect", fmt.Sprintf("agents-%d", manyAgents), "agents-1", median[postern200]/median[postern])), nil
}

// turn has a scene's agents make so many connections, divided among them; it
// returns how long the agents were busy.
func (sc *scene) turn(count int) (took time.Duration, err error) {
	batches := max(1, len(sc.cgroups))
	for i := range batches {
		if len(sc.cgroups) > 0 {
			if err := sc.enter(sc.cgroups[i]); err != nil {
				return 0, err
			}
		}
		busy, err := sc.connect(work{Count: count / batches, Parallel: 1})
		if err != nil {
			return 0, err
		}
		took += busy
	}
	return took, nil
}

// enter makes the agent's process that of the agent whose cgroup it is.
func (sc *scene) enter(cgroup string) error {
	err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), fmt.Append(nil, sc.agent.cmd.Process.Pid), 0)
	if err != nil {
		return fmt.Errorf("move the agent: %w", err)
	}
	return nil
}

func (sc *scene) connect(w work) (time.Duration, error) {
	w.To = sc.to
	var done worked
	if err := sc.agent.ask(w, &done); err != nil {
		return 0, err
	}
	if done.Error != "" {
		return 0, errors.New(done.Error)
	}
	return done.Took, nil
}

// programs has the kernel measure the programs. That costs time itself, so the
// rates are measured without.
func (s *stage) programs() (figures []string, err error) {
	each := map[peer]map[string]redirect.Runs{}
	for _, p := range []peer{postern, postern200} {
		if each[p], err = s.scenes[p].runs(); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	fmt.Printf("\n%-12s %12s %12s %12s %8s\n", "program", "per conn.", "ns, 1 agent", fmt.Sprintf("ns, %d", manyAgents), "goal")
	for _, g := range goals {
		one, many := each[postern][g.hook], each[postern200][g.hook]
		goal := "-"
		if g.goal > 0 {
			goal = fmt.Sprintf("%.0f", g.goal)
			figures = append(figures, figure("connect", g.hook, "goal", g.goal/one.Each()))
		}
		fmt.Printf("%-12s %12.1f %12.0f %12.0f %8s ns per %s\n", g.hook, float64(one.Count)/connectionsPerTurn, one.Each(), many.Each(), goal, g.per)
	}
	return figures, nil
}

// runs is what the scene's programs cost in one turn.
func (sc *scene) runs() (map[string]redirect.Runs, error) {
	counting, err := redirect.CountRuns()
	if err != nil {
		return nil, err
	}
	defer counting.Close()
	before, err := redirect.RunsOf(sc.options)
	if err != nil {
		return nil, err
	}
	if _, err := sc.turn(connectionsPerTurn); err != nil {
		return nil, err
	}
	after, err := redirect.RunsOf(sc.options)
	if err != nil {
		return nil, err
	}
	for hook, r := range after {
		after[hook] = r.Since(before[hook])
	}
	return after, nil
}

// burst has one agent connect as fast as it can, and counts: every connection
// must have its record.
func (s *stage) burst() (string, error) {
	sc := s.scenes[postern]
	var before, after served
	if err := sc.between.ask(struct{}{}, &before); err != nil {
		return "", err
	}
	took, err := sc.connect(work{Count: burst, Parallel: burstParallel})
	if err != nil {
		return "", fmt.Errorf("%d connections: %w", burst, err)
	}
	if err := sc.between.ask(struct{}{}, &after); err != nil {
		return "", err
	}
	accepted, claimed := after.Accepted-before.Accepted, after.Claimed-before.Claimed
	fmt.Printf("\nburst: %d connections of one agent, %d at a time, in %s (%.0f in a second); %d accepted, %d claimed\n",
		burst, burstParallel, took.Round(time.Millisecond), perSecond(burst, took), accepted, claimed)
	if accepted != burst || claimed != burst {
		return "", fmt.Errorf("%d connections succeeded, but %d were accepted and %d records claimed", burst, accepted, claimed)
	}
	return figure("connect", "burst", "claimed", float64(claimed)/float64(accepted)), nil
}
