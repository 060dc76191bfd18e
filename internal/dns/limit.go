package dns

import (
	"sync"
	"time"
)

const (
	// complaintEvery is how often an agent's refused lookups are logged. A flood
	// of them carries nothing out, and must not fill the disk either.
	complaintEvery = time.Minute
	// maxLogged bounds the name in it.
	maxLogged = 100
)

// bucket lets so many through per second, and a burst.
type bucket struct {
	rate, burst float64

	mu     sync.Mutex
	tokens float64
	at     time.Time
}

func newBucket(perSecond, burst int) *bucket {
	return &bucket{rate: float64(perSecond), burst: float64(burst), tokens: float64(burst)}
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if past := now.Sub(b.at); past > 0 {
		if !b.at.IsZero() {
			b.tokens = min(b.burst, b.tokens+past.Seconds()*b.rate)
		}
		b.at = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// complaints says when to log, and how much was not logged since.
type complaints struct {
	mu         sync.Mutex
	last       time.Time
	suppressed int
}

func (c *complaints) due(now time.Time) (suppressed int, yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.last.IsZero() && now.Sub(c.last) < complaintEvery {
		c.suppressed++
		return 0, false
	}
	suppressed, c.suppressed, c.last = c.suppressed, 0, now
	return suppressed, true
}
