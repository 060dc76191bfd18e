package guard

import (
	"maps"
	"path/filepath"
	"strings"
	"sync"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/identity"
)

// cgroupIDs are the ids of agents' cgroups as the daemons were last told, by
// path relative to the cgroup2 root.
type cgroupIDs struct {
	mu sync.Mutex
	of map[string]uint64
}

func (c *cgroupIDs) set(relative string, id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[string]uint64{}
	}
	c.of[relative] = id
}

func (c *cgroupIDs) all() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.of)
}

// stale says whether an agent's cgroup that is dir or below it has another id by
// now. One that is not there has none.
func (c *cgroupIDs) stale(mount, dir string, agents []config.Agent) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range agents {
		told, known := c.of[a.Cgroup]
		if !known || a.Cgroup != dir && !strings.HasPrefix(a.Cgroup, dir+"/") {
			continue
		}
		if id, err := identity.CgroupID(filepath.Join(mount, a.Cgroup)); err == nil && id != told {
			return true
		}
	}
	return false
}
