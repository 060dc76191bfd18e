package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFigure(t *testing.T) {
	if got := figure("connect", "agents-1", "proxy", 2.0/3); got != "figure connect/agents-1/proxy 0.667" {
		t.Error(got)
	}
}

func TestInTurns(t *testing.T) {
	var order []string
	err := inTurns(3, []peer{"a", "b"}, func(p peer) error {
		order = append(order, string(p))
		return nil
	})
	if err != nil || !slices.Equal(order, strings.Fields("a b b a a b")) {
		t.Errorf("order %v, %v", order, err)
	}
	broken := errors.New("broken")
	err = inTurns(3, []peer{"a", "b"}, func(peer) error { return broken })
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "a: ") {
		t.Errorf("error %v", err)
	}
}

func TestMedians(t *testing.T) {
	got := medians(map[peer][]float64{"a": {5, 1, 3}, "b": {7}})
	if got["a"] != 3 || got["b"] != 7 {
		t.Errorf("medians %v", got)
	}
}

func TestPerSecond(t *testing.T) {
	if got := perSecond(500, 250*time.Millisecond); got != 2000 {
		t.Errorf("%v per second, want 2000", got)
	}
	if got := perSecond(500, 0); got != 0 {
		t.Errorf("%v per second in no time, want 0", got)
	}
}
