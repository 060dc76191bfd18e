package identity

import (
	"strings"
	"testing"
)

// TestContainerIn has the paths that engines give, and what looks like them.
func TestContainerIn(t *testing.T) {
	id, other := strings.Repeat("0123456789abcdef", 4), strings.Repeat("f", 64)
	for _, c := range []struct{ below, engine, id string }{
		{"/" + id, "docker", id},
		{"/docker/" + id, "docker", id},
		{"/docker-" + id + ".scope", "docker", id},
		{"/" + id + "/made/inside", "docker", id},
		{"/" + id + "/docker-" + other + ".scope", "docker", id}, // a container in a container is the outer one's
		{"/libpod-" + id + ".scope", "podman", id},
		{"/libpod-" + id, "podman", id},
		{"/libpod-" + id + ".scope/container", "podman", id},
		{"/libpod_pod_" + other + ".slice/libpod-" + id + ".scope", "podman", id},
		{"/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + id + ".scope", "containerd", id},
		{"/kubepods/burstable/pod1-2/" + id, "containerd", id},
		{"/kubepods.slice/crio-" + id + ".scope", "cri-o", id},
		{"/worker-1", "runc", "worker-1"},
		{"/worker-1/below", "runc", "worker-1"},
		{"/" + id[:63], "runc", id[:63]},
		{"", "", ""},
		{"/", "", ""},
		{"-2/" + id, "", ""}, // another agent's
		{"/..", "", ""},
		{"/.hidden", "", ""},
		{"/a b", "", ""},
		{"/" + strings.Repeat("a", 129), "", ""},
	} {
		got, ok := ContainerIn("/agents/planner"+c.below, "agents/planner")
		if got != (Container{Engine: c.engine, ID: c.id}) || ok != (c.engine != "") {
			t.Errorf("%s: %+v, %t; want %s %s", c.below, got, ok, c.engine, c.id)
		}
	}
}
