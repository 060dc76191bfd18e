package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern/postern/internal/identity"
)

// maxEngineFile bounds what is read of an engine's files: podman has all of its
// containers in one.
const maxEngineFile = 8 << 20

// container says which container a cgroup of an agent is of, and what people
// call it, from the files of the engines where Debian has them. Nil: of none.
// The engines' sockets are not asked: the guard speaks to nobody.
func (s *Server) container(cgroup string) (*identity.Container, error) {
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	agent := nearest(cfg.Agents, strings.TrimPrefix(cgroup, "/"))
	if agent == nil {
		return nil, fmt.Errorf("cgroup %q is no agent's", cgroup)
	}
	c, ok := identity.ContainerIn(cgroup, agent.Cgroup)
	if !ok {
		return nil, nil
	}
	return named("/", c), nil
}

// named fills in the name, if it is to be had; what is no container is nil.
func named(root string, c identity.Container) *identity.Container {
	switch c.Engine {
	case "docker":
		c.Name = dockerName(root, c.ID)
	case "podman":
		c.Name = podmanName(root, c.ID)
	case "runc":
		// Any cgroup may have such a name; a container has a state, too.
		if _, err := os.Stat(filepath.Join(root, "run/runc", c.ID, "state.json")); err != nil {
			return nil
		}
		c.Name = c.ID
	}
	return &c
}

// dockerName reads the daemon's own file of the container.
func dockerName(root, id string) string {
	var file struct{ Name string }
	if readJSON(filepath.Join(root, "var/lib/docker/containers", id, "config.v2.json"), &file) != nil {
		return ""
	}
	return strings.TrimPrefix(file.Name, "/")
}

// podmanName searches the storage's list, which has the storage driver in its
// path.
func podmanName(root, id string) string {
	lists, _ := filepath.Glob(filepath.Join(root, "var/lib/containers/storage/*-containers/containers.json"))
	for _, at := range lists {
		var list []struct {
			ID    string   `json:"id"`
			Names []string `json:"names"`
		}
		if readJSON(at, &list) != nil {
			continue
		}
		for _, c := range list {
			if c.ID == id && len(c.Names) > 0 {
				return c.Names[0]
			}
		}
	}
	return ""
}

func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxEngineFile+1))
	if err == nil && len(text) > maxEngineFile {
		err = errors.New("the file is too long")
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return json.Unmarshal(text, v)
}
