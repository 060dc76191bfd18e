package guard

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern/postern/internal/identity"
)

// TestNamed: names come from the files of the engines; what is not there, not
// JSON or too long is no error and no name.
func TestNamed(t *testing.T) {
	root := t.TempDir()
	id := strings.Repeat("ab", 32)
	write := func(at, text string) {
		t.Helper()
		at = filepath.Join(root, at)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	name := func(engine, id string) string {
		c := named(root, identity.Container{Engine: engine, ID: id})
		if c == nil {
			return "none"
		}
		return c.Name
	}
	for _, engine := range []string{"docker", "podman", "containerd"} {
		if got := name(engine, id); got != "" {
			t.Errorf("%s without files: %q", engine, got)
		}
	}
	if got := name("runc", "worker"); got != "none" {
		t.Errorf("a cgroup that is no container of runc: %q", got)
	}
	docker := "var/lib/docker/containers/" + id + "/config.v2.json"
	write(docker, `{"Name":"/eager_ada","State":{}}`)
	write("var/lib/containers/storage/overlay-containers/containers.json", `[{"id":"other","names":["x"]},{"id":"`+id+`","names":["calm_grace","y"]}]`)
	write("var/lib/containers/storage/vfs-containers/containers.json", `not JSON`)
	write("run/runc/worker/state.json", `{}`)
	for engine, want := range map[string]string{"docker": "eager_ada", "podman": "calm_grace"} {
		if got := name(engine, id); got != want {
			t.Errorf("%s: %q, want %q", engine, got, want)
		}
	}
	if got := name("runc", "worker"); got != "worker" {
		t.Errorf("runc: %q", got)
	}
	for _, text := range []string{"{", `{"Name":7}`, `{"Name":"/a"}` + strings.Repeat(" ", maxEngineFile)} {
		write(docker, text)
		if got := name("docker", id); got != "" {
			t.Errorf("from %.20q: %q", text, got)
		}
	}
}
