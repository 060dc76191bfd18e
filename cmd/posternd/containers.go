package main

import (
	"context"
	"sync"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/identity"
)

// maxContainers bounds the cgroups whose containers are remembered.
const maxContainers = 4096

// containers are those of cgroups, as the guard knows them. A cgroup's id is
// never another one's, so an answer holds for as long as it is remembered; a
// container that is renamed meanwhile keeps the name it had.
type containers struct {
	ask func(ctx context.Context, cgroup string) (*identity.Container, error)

	mu    sync.Mutex
	known map[uint64]engine.Container
}

func newContainers(guard interface {
	Container(ctx context.Context, cgroup string) (*identity.Container, error)
},
) *containers {
	return &containers{ask: guard.Container, known: map[uint64]engine.Container{}}
}

// of is the container that a cgroup is of, or nothing. It is for people who
// read a recording, so a guard that is away is no reason to refuse anybody:
// then it is what the path says.
func (c *containers) of(ctx context.Context, id uint64, cgroup, agent string) engine.Container {
	found, ok := identity.ContainerIn(cgroup, agent)
	if !ok {
		return engine.Container{}
	}
	c.mu.Lock()
	known, ok := c.known[id]
	c.mu.Unlock()
	if ok {
		return known
	}
	ctx, cancel := context.WithTimeout(ctx, guardTimeout)
	defer cancel()
	named, err := c.ask(ctx, cgroup)
	switch {
	case err != nil && found.Engine == "runc": // which was a guess
		return engine.Container{}
	case err != nil:
		return engine.Container{Engine: found.Engine, ID: found.ID}
	case named != nil:
		known = engine.Container{Engine: named.Engine, ID: named.ID, Name: named.Name}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxContainers {
		clear(c.known)
	}
	c.known[id] = known
	return known
}
