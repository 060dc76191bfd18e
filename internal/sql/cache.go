package sql

import (
	"hash/maphash"
	"sync"
	"time"
)

const (
	// DefaultCacheBytes bounds the cache: about ten thousand statements.
	DefaultCacheBytes = 32 << 20
	// shards keep sessions from waiting for each other; a lookup holds the lock
	// of one for some 100 ns.
	shards = 16
	// stackShape is the shape that needs no allocation.
	stackShape = 512
	// overhead is what an entry takes besides its key and the answer's strings.
	overhead = 1024
)

// cache remembers answers by exact text and by shape, the least recently used
// go first. A nil statement remembers until when the text is not to be tried
// again, because it cost a worker its life.
type cache struct {
	seed   maphash.Seed
	shards [shards]shard
}

type shard struct {
	mu     sync.Mutex
	texts  map[string]*entry
	shapes map[string]*entry
	first  *entry // the most recently used; a ring
	bytes  int
	limit  int
}

type entry struct {
	key        string
	shape      bool
	statement  *Statement
	until      time.Time
	bytes      int
	prev, next *entry
}

func newCache(bytes int) *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i] = shard{texts: map[string]*entry{}, shapes: map[string]*entry{}, limit: bytes / shards}
	}
	return c
}

// get returns what is remembered of a text: a statement, or poisoned.
func (c *cache) get(text string, now func() time.Time) (s *Statement, poisoned bool) {
	var room [stackShape]byte
	if shape, ok := appendShape(room[:0], text); ok {
		h := &c.shards[maphash.Bytes(c.seed, shape)%shards]
		h.mu.Lock()
		if e := h.shapes[string(shape)]; e != nil {
			h.touch(e)
			s = e.statement
		}
		h.mu.Unlock()
		if s != nil {
			return s, false
		}
	}
	h := &c.shards[maphash.String(c.seed, text)%shards]
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.texts[text]
	switch {
	case e == nil:
		return nil, false
	case e.statement == nil && !now().Before(e.until):
		h.drop(e)
		return nil, false
	}
	h.touch(e)
	return e.statement, e.statement == nil
}

// put remembers an answer, for the whole shape where it does not depend on
// numbers. It returns the statement to use, which is an earlier one when
// another got there first: equal statements are equal pointers.
func (c *cache) put(text string, s *Statement, size int) *Statement {
	if !s.ByLiterals {
		if shape, ok := appendShape(nil, text); ok {
			return c.insert(&entry{key: string(shape), shape: true, statement: s}, size)
		}
	}
	return c.insert(&entry{key: text, statement: s}, size)
}

// poison remembers that a text is not to be tried again before until.
func (c *cache) poison(text string, until time.Time) {
	c.insert(&entry{key: text, until: until}, 0)
}

func (c *cache) insert(e *entry, size int) *Statement {
	// The decoded answer takes some three times the encoded one.
	e.bytes = overhead + 2*len(e.key) + 3*size
	h := &c.shards[maphash.String(c.seed, e.key)%shards]
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.of(e)[e.key]; old != nil {
		if old.statement != nil {
			return old.statement
		}
		h.drop(old)
	}
	if e.bytes > h.limit {
		return e.statement
	}
	h.of(e)[e.key] = e
	h.bytes += e.bytes
	h.link(e)
	for h.bytes > h.limit {
		h.drop(h.first.prev)
	}
	return e.statement
}

func (h *shard) of(e *entry) map[string]*entry {
	if e.shape {
		return h.shapes
	}
	return h.texts
}

func (h *shard) link(e *entry) {
	if h.first == nil {
		e.prev, e.next = e, e
	} else {
		e.prev, e.next = h.first.prev, h.first
		e.prev.next, e.next.prev = e, e
	}
	h.first = e
}

func (h *shard) unlink(e *entry) {
	if e.next == e {
		h.first = nil
		return
	}
	e.prev.next, e.next.prev = e.next, e.prev
	if h.first == e {
		h.first = e.next
	}
}

func (h *shard) touch(e *entry) {
	if h.first != e {
		h.unlink(e)
		h.link(e)
	}
}

func (h *shard) drop(e *entry) {
	h.unlink(e)
	delete(h.of(e), e.key)
	h.bytes -= e.bytes
}
