package identity

import (
	"path"
	"regexp"
	"strings"
)

// Container is what an engine calls a container.
type Container struct {
	Engine string `json:"engine"`         // docker, podman, cri-o, containerd, runc
	ID     string `json:"id"`             // as the engine has it; 64 hexadecimal digits, of runc a name
	Name   string `json:"name,omitempty"` // empty where it is not known
}

// hexID is the id of a container, of every engine but runc alone.
var hexID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// runcID is what runc takes for an id; a dot at its beginning would be a path.
var runcID = regexp.MustCompile(`^[A-Za-z0-9_+-][A-Za-z0-9_+.-]{0,127}$`)

// prefixes of a cgroup's name, by the engine that gives them. With the systemd
// driver the name ends with .scope.
var prefixes = []struct{ prefix, engine string }{
	{"docker-", "docker"}, {"libpod-", "podman"}, {"crio-", "cri-o"}, {"cri-containerd-", "containerd"},
}

// ContainerIn finds the container that a cgroup is of, or is in, below that of
// its agent, both relative to the cgroup2 root. The first name that is one's
// counts: what is below it was made inside of the container. Engine "runc" is a
// guess, for its cgroups have any name: whoever can asks for its state.
func ContainerIn(cgroup, agent string) (Container, bool) {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(cgroup, "/"), strings.Trim(agent, "/")+"/")
	if !ok {
		return Container{}, false
	}
	names := strings.Split(path.Clean(rest), "/")
	for i, name := range names {
		name = strings.TrimSuffix(name, ".scope")
		if hexID.MatchString(name) {
			// Below a pod it is the kubelet's container, with the driver cgroupfs.
			if i > 0 && strings.HasPrefix(names[i-1], "pod") {
				return Container{Engine: "containerd", ID: name}, true
			}
			return Container{Engine: "docker", ID: name}, true
		}
		for _, p := range prefixes {
			if id, ok := strings.CutPrefix(name, p.prefix); ok && hexID.MatchString(id) {
				return Container{Engine: p.engine, ID: id}, true
			}
		}
	}
	if runcID.MatchString(names[0]) {
		return Container{Engine: "runc", ID: names[0]}, true
	}
	return Container{}, false
}
