package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// gcPercent is half of Go's default. Most of what lives belongs to sessions on
	// which nothing happens, and little is allocated for one on which much does.
	gcPercent = 50
	// gcHeadroom is how much may be allocated at least before it is collected. Of a
	// daemon in which little lives, files at 100 MB/s would have the collector run a
	// hundred times a second.
	gcHeadroom = 32 << 20
)

// tuneGC has garbage collected when gcPercent of what lives has been allocated, or
// gcHeadroom, whichever is more. Who sets GOGC decides that by himself.
func tuneGC() {
	if os.Getenv("GOGC") != "" {
		return
	}
	now := 0
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	var after func()
	after = func() {
		metrics.Read(live)
		percent := int(max(gcPercent, gcHeadroom*100/max(live[0].Value.Uint64(), 1<<20)))
		if d := percent - now; d > percent/8 || -d > percent/8 {
			now = percent
			debug.SetGCPercent(percent)
		}
		each := new(cycle)
		runtime.SetFinalizer(each, func(*cycle) { after() })
	}
	after()
}

// cycle is garbage at once: its finalizer runs after each collection.
type cycle struct{ _ [16]byte }
