package main

import (
	"fmt"
	"slices"
	"time"
)

// figure is a line for whoever compares runs: Postern ÷ peer, more is better.
func figure(bench, row, peer string, ratio float64) string {
	return fmt.Sprintf("figure %s/%s/%s %.3f", bench, row, peer, ratio)
}

// inTurns calls measure for every peer in every round. Each round begins with
// another peer, so that none is always the one that finds the machine warm.
func inTurns(rounds int, peers []peer, measure func(peer) error) error {
	for round := range rounds {
		for i := range peers {
			p := peers[(i+round)%len(peers)]
			if err := measure(p); err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
		}
	}
	return nil
}

func medians(all map[peer][]float64) map[peer]float64 {
	out := map[peer]float64{}
	for p, values := range all {
		slices.Sort(values)
		out[p] = values[len(values)/2]
	}
	return out
}

// perSecond is a rate; of no time at all it is 0, so that nothing divides by it
// unnoticed.
func perSecond(n int, took time.Duration) float64 {
	if took <= 0 {
		return 0
	}
	return float64(n) / took.Seconds()
}
