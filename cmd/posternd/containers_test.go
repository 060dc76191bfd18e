package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/identity"
)

// TestContainers: the guard is asked once for each cgroup; without it the path
// has to do, and a cgroup of any name is no container.
func TestContainers(t *testing.T) {
	id := strings.Repeat("ab", 32)
	asked := 0
	var answer *identity.Container
	var away error
	c := &containers{known: map[uint64]engine.Container{}, ask: func(context.Context, string) (*identity.Container, error) {
		asked++
		return answer, away
	}}
	of := func(cgroup uint64, name string) engine.Container {
		return c.of(t.Context(), cgroup, "/agents/a"+name, "agents/a")
	}
	away = errors.New("the guard is away")
	if got := of(1, "/docker-"+id+".scope"); got != (engine.Container{Engine: "docker", ID: id}) {
		t.Errorf("without the guard: %+v", got)
	}
	if got := of(2, "/a-service"); got != (engine.Container{}) {
		t.Errorf("a guess: %+v", got)
	}
	away, answer = nil, &identity.Container{Engine: "docker", ID: id, Name: "ada"}
	for range 2 {
		if got := of(1, "/docker-"+id+".scope"); got != (engine.Container{Engine: "docker", ID: id, Name: "ada"}) || asked != 3 {
			t.Errorf("%+v, asked %d times", got, asked)
		}
	}
	answer = nil
	for range 2 {
		if got := of(2, "/a-service"); got != (engine.Container{}) || asked != 4 {
			t.Errorf("%+v, asked %d times", got, asked)
		}
	}
	if got := of(3, ""); got != (engine.Container{}) || asked != 4 {
		t.Errorf("the agent's own cgroup: %+v, asked %d times", got, asked)
	}
}
