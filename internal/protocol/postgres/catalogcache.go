package postgres

import (
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
}

func newCatalogCache() *catalogCache { return &catalogCache{readings: map[string]cachedCatalog{}} }

func (c *catalogCache) load(key string, now time.Time) *catalog {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.readings[key]; ok && now.Sub(r.read) < catalogAge {
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
	c.readings[key] = cachedCatalog{cat, now}
}

func (c *catalogCache) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.readings, key)
}
