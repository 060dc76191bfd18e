package postgres

import (
	"strconv"
	"strings"
	"sync"
	"time"
)

// catalogCache shares readings between the sessions of one credential.
type catalogCache struct {
	mu       sync.Mutex
	readings map[string]cachedCatalog
}

type cachedCatalog struct {
	catalog *catalog
	read    time.Time
	old     bool // something has changed since: no session takes it
}

func newCatalogCache() *catalogCache { return &catalogCache{readings: map[string]cachedCatalog{}} }

func (c *catalogCache) load(key string, now time.Time) *catalog {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.readings[key]; ok && !r.old && now.Sub(r.read) < catalogAge {
		return r.catalog
	}
	return nil
}

func (c *catalogCache) store(key string, cat *catalog, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.readings) >= maxCatalogs {
		clear(c.readings)
	}
	c.readings[key] = cachedCatalog{catalog: cat, read: now}
}

// newest returns the reading for a target that was made last, however old.
func (c *catalogCache) newest(target string) (found cachedCatalog) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, r := range c.readings {
		if strings.HasPrefix(key, strconv.Quote(target)+" ") && r.read.After(found.read) {
			found = r
		}
	}
	return found
}

func (c *catalogCache) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.readings[key]; ok {
		r.old = true
		c.readings[key] = r
	}
}
