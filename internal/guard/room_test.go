package guard

import "testing"

// TestSlotMoves: who has root's uid and is an agent (in a container, where the kernel
// lets it connect) leaves the room of root and the daemon for that of strangers, and
// gets none where that is full.
func TestSlotMoves(t *testing.T) {
	roots, strangers := make(chan struct{}, 1), make(chan struct{}, 1)
	roots <- struct{}{}
	held := &slot{roots}
	if !held.move(strangers) || len(roots) != 0 || len(strangers) != 1 {
		t.Errorf("%d have root's room, %d the others'", len(roots), len(strangers))
	}
	if !held.move(strangers) || len(strangers) != 1 {
		t.Error("who is there already needs no other")
	}
	roots <- struct{}{}
	if second := (&slot{roots}); second.move(strangers) || len(roots) != 1 {
		t.Error("there was no room")
	}
	held.leave()
	if len(strangers) != 0 {
		t.Error("it was not given back")
	}
}

// TestNoMoreRuns: a host has so many at most.
func TestNoMoreRuns(t *testing.T) {
	var r liveRuns
	for range maxRuns {
		if !r.enter() {
			t.Fatal("there is room")
		}
	}
	if r.enter() {
		t.Errorf("more than %d", maxRuns)
	}
	r.leave()
	if !r.enter() {
		t.Error("a run that ended still counts")
	}
}
