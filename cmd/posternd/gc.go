package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// gcPercent is half of Go's default. Most of what lives belongs to sessions on
	// which nothing happens, and little is allocated for one on which much does.
	gcPercent = 50
	// gcHeadroom is how much may be allocated at least before it is collected. Of a
	// daemon in which little lives, files at 100 MB/s would have the collector run a
	// hundred times a second.
	gcHeadroom = 32 << 20
	// gcQuiet is after how long without a collection garbage is collected, and its
	// memory given back, where it is more than gcLeft.
	gcQuiet = time.Second
	gcLeft  = 2 << 20
)

// heap are what the collector counts, in bytes, and how often it has run.
var heap = []string{"/gc/heap/live:bytes", "/gc/scan/stack:bytes", "/gc/scan/globals:bytes", "/memory/classes/heap/objects:bytes", "/gc/cycles/total:gc-cycles"}

func readHeap() (live, roots, objects, cycles uint64) {
	s := make([]metrics.Sample, len(heap))
	for i, name := range heap {
		s[i].Name = name
	}
	metrics.Read(s)
	return s[0].Value.Uint64(), s[1].Value.Uint64() + s[2].Value.Uint64(), s[3].Value.Uint64(), s[4].Value.Uint64()
}

// tuneGC has garbage collected when gcPercent of what lives has been allocated, or
// gcHeadroom, whichever is more, and when nothing happens. Who sets GOGC decides
// that by himself.
func tuneGC(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	afterEach(headroom())
	go func() {
		ticks := time.NewTicker(gcQuiet)
		defer ticks.Stop()
		var before uint64
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticks.C:
			}
			live, _, objects, cycles := readHeap()
			if cycles == before && objects > live+gcLeft {
				debug.FreeOSMemory()
			}
			before = cycles
		}
	}()
}

// headroom returns what sets the collector's percentage by what lives now.
func headroom() func() {
	now := 0
	return func() {
		live, roots, _, _ := readHeap()
		percent := int(max(gcPercent, gcHeadroom*100/max(live+roots, 1<<20)))
		if d := percent - now; d > percent/8 || -d > percent/8 {
			now = percent
			debug.SetGCPercent(percent)
		}
	}
}

// afterEach calls f now and after each collection.
func afterEach(f func()) {
	f()
	runtime.SetFinalizer(new(cycle), func(*cycle) { afterEach(f) })
}

// cycle is garbage at once: its finalizer runs after the next collection.
type cycle struct{ _ [16]byte }
