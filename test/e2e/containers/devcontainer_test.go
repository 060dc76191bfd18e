package containers

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/postern/postern/internal/bypass/outside"
)

// TestDevcontainer makes one with the options of docs/containers.md, by the reference
// implementation and docker: what is done in it is the agent's, the commands of its
// start included.
func TestDevcontainer(t *testing.T) {
	w := theWorld
	w.quiet(t)
	page, err := os.ReadFile("../../../docs/containers.md")
	if err != nil {
		t.Fatal(err)
	}
	recipe := regexp.MustCompile(`(?s)A devcontainer.*?` + "```json\n(.*?)```").FindSubmatch(page)
	var options map[string]any
	if recipe == nil || json.Unmarshal(recipe[1], &options) != nil {
		t.Fatalf("no recipe in docs/containers.md: %q", recipe)
	}
	args, _ := options["runArgs"].([]any)
	for i, a := range args {
		args[i] = strings.ReplaceAll(a.(string), "agents-planner.slice", parent("dock"))
	}
	if !slices.Contains(args, any("--cgroup-parent="+parent("dock"))) {
		t.Fatalf("the recipe names no parent: %v", args)
	}
	options["runArgs"] = append(args, "--dns=203.0.113.53")
	options["image"] = "agent"
	options["updateRemoteUserUID"] = false // it would build another image
	options["postCreateCommand"] = "/bin/client query '" + dsn("orders-db.internal", "verify-full") + "' 'SELECT current_user::text' > /tmp/created"
	project := filepath.Join(w.dir, "project")
	text, err := json.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(project, ".devcontainer"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(project, ".devcontainer/devcontainer.json"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	devcontainer := func(verb string, args ...string) (string, error) {
		cmd := exec.Command("../clients/node/node_modules/.bin/devcontainer", append([]string{verb, "--workspace-folder", project}, args...)...)
		cmd.Env = append(w.docker.command().Env, "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/bin", "TMPDIR="+w.dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET} // it would ask its makers
		return output(cmd)
	}
	out, err := devcontainer("up")
	if err != nil {
		t.Fatal(err)
	}
	var up struct{ ContainerID string }
	if err := json.Unmarshal([]byte(out), &up); err != nil || up.ContainerID == "" {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := w.docker.remove(up.ContainerID); err != nil {
			t.Error(err)
		}
	})
	for _, command := range [][]string{
		{"/bin/cat", "/tmp/created"},
		{"/bin/client", "query", dsn("orders-db.internal", "verify-full"), "SELECT current_user::text"},
	} {
		if out, err := devcontainer("exec", command...); err != nil || out != "orders_rw" {
			t.Errorf("%v: %q, %v", command[:2], out, err)
		}
	}
	out, err = devcontainer("exec", "/bin/client", "out", "tcp/"+netip.AddrPortFrom(outside.Far4, 443).String(), "udp/"+netip.AddrPortFrom(outside.Far4, 443).String())
	if err != nil || strings.Contains(out, " OPEN ") || len(lines(out)) != 2 {
		t.Errorf("%v: %s", err, out)
	}
	w.quiet(t)
}
