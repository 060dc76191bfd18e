package dns

import (
	"cmp"
	"container/list"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// maxTold is the most names that one agent is remembered to have been told,
	// and maxToldInAll the same for all agents together: each has an equal share
	// of it that no other can take.
	maxTold      = 1024
	maxToldInAll = 1 << 16
	// maxReal bounds the real addresses of one of them.
	maxReal = 32
	// freshFor is how long a real address may be used by whoever honours the
	// answer's time to live; remember is how long it is known of the others.
	freshFor = 2 * ttl * time.Second
	remember = time.Hour
)

// Told is what one agent was told that is not in the configuration: the names
// below wildcards that it asked for, and the real addresses of names. When
// there are too many, the one that was used least recently is forgotten.
type Told struct {
	evicted func()

	mu      sync.Mutex
	most    int
	names   map[string]*list.Element // of *told
	recent  *list.List
	virtual map[netip.Addr]*told
	real    map[netip.Addr]map[*told]bool
	changed bool // since it was saved
}

// told is one name.
type told struct {
	name    string
	virtual netip.Addr               // not valid when it has none
	real    map[netip.Addr]time.Time // when it was told last
}

func newTold(most int, evicted func()) *Told {
	return &Told{
		evicted: evicted, most: most, names: map[string]*list.Element{}, recent: list.New(),
		virtual: map[netip.Addr]*told{}, real: map[netip.Addr]map[*told]bool{},
	}
}

// Virtual returns the virtual address of a name below a wildcard, the same for
// every agent and at every time, but where two names of one agent have the same
// hash. The caller has decided that the agent may have it.
func (t *Told) Virtual(name string) netip.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.of(name)
	if n.virtual.IsValid() {
		return n.virtual
	}
	a := home(name, wild4)
	for t.virtual[a] != nil {
		a = following(a, wild4)
	}
	n.virtual, t.virtual[a], t.changed = a, n, true
	return a
}

// Tell notes the real addresses that the agent is told of a name.
func (t *Told) Tell(name string, addresses []netip.Addr, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.of(name)
	for _, a := range addresses {
		if at, ok := n.real[a]; !ok || now.Sub(at) > remember/4 {
			t.changed = true
		}
		t.note(n, a, now)
	}
	for len(n.real) > maxReal {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(n.real)), func(a, b netip.Addr) int { return n.real[a].Compare(n.real[b]) })
		t.unnote(n, oldest)
	}
}

func (t *Told) note(n *told, a netip.Addr, at time.Time) {
	n.real[a] = at
	if t.real[a] == nil {
		t.real[a] = map[*told]bool{}
	}
	t.real[a][n] = true
}

func (t *Told) unnote(n *told, a netip.Addr) {
	delete(n.real, a)
	if delete(t.real[a], n); len(t.real[a]) == 0 {
		delete(t.real, a)
	}
}

// of finds or makes a name's place, at the front; t.mu is held.
func (t *Told) of(name string) *told {
	if e := t.names[name]; e != nil {
		t.recent.MoveToFront(e)
		return e.Value.(*told)
	}
	for t.recent.Len() >= max(1, t.most) {
		t.forget(t.recent.Back())
		if t.evicted != nil {
			t.evicted()
		}
	}
	n := &told{name: name, real: map[netip.Addr]time.Time{}}
	t.names[name] = t.recent.PushFront(n)
	return n
}

func (t *Told) forget(e *list.Element) {
	n := e.Value.(*told)
	t.recent.Remove(e)
	delete(t.names, n.name)
	delete(t.virtual, n.virtual)
	for a := range n.real {
		t.unnote(n, a)
	}
	t.changed = true
}

// Name returns the name below a wildcard that has a virtual address.
func (t *Told) Name(a netip.Addr) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.virtual[within4(a)]
	if n == nil {
		return "", false
	}
	t.recent.MoveToFront(t.names[n.name])
	return n.name, true
}

// Names returns the names that the agent may mean by a real address, the one it
// was told last first. Answers that have expired count only when there is no
// other.
func (t *Told) Names(a netip.Addr, now time.Time) []string {
	a = a.Unmap()
	t.mu.Lock()
	defer t.mu.Unlock()
	var fresh, stale []*told
	for n := range t.real[a] {
		switch age := now.Sub(n.real[a]); {
		case age <= freshFor:
			fresh = append(fresh, n)
		case age <= remember:
			stale = append(stale, n)
		default:
			t.unnote(n, a)
		}
	}
	if len(fresh) == 0 {
		fresh = stale
	}
	slices.SortFunc(fresh, func(x, y *told) int {
		return cmp.Or(y.real[a].Compare(x.real[a]), cmp.Compare(x.name, y.name))
	})
	names := make([]string, len(fresh))
	for i, n := range fresh {
		names[i] = n.name
		t.recent.MoveToFront(t.names[n.name])
	}
	return names
}

// Len is the number of names.
func (t *Told) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.recent.Len()
}
