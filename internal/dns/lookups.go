package dns

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"
)

// maxCached bounds the lookups of one agent whose results are kept.
const maxCached = 512

// errRate is returned for more lookups than an agent may make outside.
var errRate = errors.New("too many lookups outside")

// lookups are those of one agent outside. One that is asked for twice at once is
// made once, and its result is kept for as long as the agent is told it holds.
type lookups struct {
	rate *bucket

	mu    sync.Mutex
	byKey map[lookupKey]*lookup
}

type lookupKey struct {
	name string
	ipv6 bool
}

type lookup struct {
	done  chan struct{} // closed when the rest is set
	found []netip.Addr
	err   error
	until time.Time
}

func newLookups() *lookups {
	return &lookups{rate: newBucket(lookupsPerSecond, lookupBurst), byKey: map[lookupKey]*lookup{}}
}

// of returns the result of a lookup; ask makes it.
func (l *lookups) of(ctx context.Context, key lookupKey, ask func(context.Context, string, bool) ([]netip.Addr, error)) ([]netip.Addr, error) {
	now := time.Now()
	l.mu.Lock()
	k := l.byKey[key]
	if k != nil && !k.over(now) {
		l.mu.Unlock()
		select {
		case <-k.done:
			return k.found, k.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if !l.rate.take(now) || k == nil && !l.room(now) {
		l.mu.Unlock()
		return nil, errRate
	}
	k = &lookup{done: make(chan struct{})}
	l.byKey[key] = k
	l.mu.Unlock()
	k.found, k.err = ask(ctx, key.name, key.ipv6)
	keep := ttl * time.Second
	if k.err != nil || len(k.found) == 0 {
		keep = negativeTTL * time.Second
	}
	k.until = time.Now().Add(keep)
	close(k.done)
	return k.found, k.err
}

// over reports whether a result is there and no longer good.
func (k *lookup) over(now time.Time) bool {
	select {
	case <-k.done:
		return now.After(k.until)
	default:
		return false
	}
}

// room makes room for one more; l.mu is held.
func (l *lookups) room(now time.Time) bool {
	if len(l.byKey) < maxCached {
		return true
	}
	for key, k := range l.byKey {
		if k.over(now) {
			delete(l.byKey, key)
		}
	}
	for key, k := range l.byKey {
		if len(l.byKey) < maxCached {
			break
		}
		select {
		case <-k.done: // any will do: it is asked for again
			delete(l.byKey, key)
		default:
		}
	}
	return len(l.byKey) < maxCached
}
