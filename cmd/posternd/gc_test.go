package main

import (
	"runtime"
	"runtime/debug"
	"testing"
)

// TestHeadroom: a heap in which little lives has its garbage collected by
// gcHeadroom, not by a part of the little.
func TestHeadroom(t *testing.T) {
	before := debug.SetGCPercent(gcPercent)
	defer debug.SetGCPercent(before)
	set := headroom()
	runtime.GC()
	set()
	live, roots, _, _ := readHeap()
	percent := debug.SetGCPercent(gcPercent)
	if got := uint64(percent) * (live + roots) / 100; got < gcHeadroom*3/4 || got > gcHeadroom*5/4 {
		t.Errorf("%d%% of %d bytes is not about %d", percent, live+roots, gcHeadroom)
	}
	ran := make(chan struct{})
	n := 0
	afterEach(func() {
		if n++; n == 3 {
			close(ran)
		}
	})
	for {
		runtime.GC()
		select {
		case <-ran:
			return
		default:
		}
	}
}
