package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// system is a root with units and a configuration.
func system(t *testing.T, files map[string]string) (dir string, cli func(args ...string) (string, error)) {
	t.Helper()
	dir = t.TempDir()
	files["postern.yaml"] = "agents:\n  - {name: planner, cgroup: agents.slice/agents-planner.slice, policy: p}\n" +
		"  - {name: coder, cgroup: agents.slice/coder, policy: p}\n  - {name: other, cgroup: agents.slice/agents-other.slice, policy: p}\npolicies: [{name: p, rules: []}]\n"
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, func(args ...string) (string, error) {
		out, err := postern(append(args, "--config", dir+"/postern.yaml", "--root", dir)...).CombinedOutput()
		return string(out), err
	}
}

func adoptArgs(unit, agent string, more ...string) []string {
	return append([]string{"adopt", unit, "--agent", agent}, more...)
}

func TestAdopt(t *testing.T) {
	dir, run := system(t, map[string]string{
		"usr/lib/systemd/system/worker.service":          "[Service]\nExecStart=/usr/bin/worker\nUser=worker\n",
		"usr/lib/systemd/system/worker.service.d/a.conf": "[Service]\nNice=1\n",
		"usr/lib/systemd/system/job@.service":            "[Service]\nDynamicUser=yes\n",
	})
	file := dir + "/etc/systemd/system/worker.service.d/zz-postern.conf"
	out, err := run(adoptArgs("worker", "planner", "--dry-run")...)
	if _, missing := os.Stat(file); err != nil || missing == nil || !strings.Contains(out, "Slice=agents-planner.slice") {
		t.Fatal(out, err)
	}
	for range 2 { // again is the same
		if out, err = run(adoptArgs("worker", "planner")...); err != nil || !strings.Contains(out, "systemctl restart worker.service") {
			t.Fatal(out, err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nSlice=agents-planner.slice\n", "\nExecStartPre=+/usr/sbin/postern-guard check\n", "PGSSLROOTCERT=/run/postern/root.pem", "\nBindReadOnlyPaths=/var/lib/postern/trust:/run/postern\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	if out, err := run(adoptArgs("worker.service", "other")...); err == nil || !strings.Contains(out, "agent planner has adopted it") {
		t.Error(out, err)
	}
	if out, err := run(adoptArgs("job@7.service", "planner", "--json")...); err != nil || !strings.Contains(out, `"slice": "agents-planner.slice"`) {
		t.Error(out, err)
	}
	if out, err := run("release", "worker"); err != nil || !strings.Contains(out, "no agent from its next start on") {
		t.Error(out, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(file)); len(left) > 0 {
		t.Error(left)
	}
	if out, err := run("release", "worker"); err == nil || !strings.Contains(out, "is not adopted") {
		t.Error(out, err)
	}
}

func TestAdoptRefuses(t *testing.T) {
	dir, run := system(t, map[string]string{
		"etc/systemd/system/root.service":             "[Service]\nExecStart=/bin/true\n",
		"etc/systemd/system/uid0.service":             "[Service]\nUser=0\n",
		"etc/systemd/system/late.service":             "[Service]\nUser=worker\n",
		"etc/systemd/system/late.service.d/user.conf": "[Service]\nUser=root\n",
		// Drop-ins count by their names, whatever directory they are in.
		"etc/systemd/system/order.service":                 "[Service]\nUser=worker\n",
		"usr/lib/systemd/system/order.service.d/90-x.conf": "[Service]\nUser=root\n",
		"etc/systemd/system/order.service.d/10-y.conf":     "[Service]\nUser=worker\n",
		"etc/systemd/system/plus.service":                  "[Service]\nUser=worker\nExecStart=-+/bin/true\n",
		"etc/systemd/system/daemon.service":                "[Service]\nUser=postern\n",
		"etc/systemd/system/fine.service":                  "[Service]\nUser=worker\n",
		"etc/systemd/system/theirs.service":                "[Service]\nUser=worker\n",
	})
	for _, c := range []struct{ unit, agent, want string }{
		{"root", "planner", "runs as root"},
		{"uid0", "planner", "runs as root"},
		{"late", "planner", "runs as root"},
		{"order", "planner", "runs as root"},
		{"plus", "planner", "begins with + or !"},
		{"daemon", "planner", "the daemon's user"},
		{"fine", "coder", "is no slice"},
		{"fine", "nobody", `no agent "nobody"`},
		{"missing", "planner", "there is no unit"},
		{"a.socket", "planner", "is no service"},
		{"posternd", "planner", "Postern's own"},
		{"../x.service", "planner", "is no name"},
	} {
		if out, err := run(adoptArgs(c.unit, c.agent)...); err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v %s", c.unit, err, out)
		}
	}
	if found, _ := filepath.Glob(dir + "/etc/systemd/system/*/*-postern.conf"); len(found) > 0 {
		t.Error(found)
	}
	// A file of somebody else's is not removed.
	theirs := dir + "/etc/systemd/system/theirs.service.d/zz-postern.conf"
	if err := os.MkdirAll(filepath.Dir(theirs), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(theirs, []byte("[Service]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := run("release", "theirs"); err == nil || !strings.Contains(out, "is not adopted") {
		t.Error(out, err)
	}
}

// TestAdoptAfterOthers: what an earlier version wrote gives way to a name that no
// other drop-in comes after, and is released too.
func TestAdoptAfterOthers(t *testing.T) {
	const folder = "etc/systemd/system/worker.service.d/"
	before := adoptedFirst + "planner\n[Service]\nSlice=agents-planner.slice\n"
	dir, run := system(t, map[string]string{
		"etc/systemd/system/worker.service": "[Service]\nUser=worker\n", folder + "override.conf": "[Service]\nNice=1\n", folder + "50-postern.conf": before,
	})
	if out, err := run(adoptArgs("worker", "planner")...); err != nil {
		t.Fatal(out, err)
	}
	names := func() string {
		found, _ := filepath.Glob(filepath.Join(dir, folder, "*"))
		for i := range found {
			found[i] = filepath.Base(found[i])
		}
		return strings.Join(found, " ")
	}
	if got := names(); got != "override.conf zz-postern.conf" {
		t.Error(got)
	}
	if err := os.Rename(filepath.Join(dir, folder, "zz-postern.conf"), filepath.Join(dir, folder, "50-postern.conf")); err != nil {
		t.Fatal(err)
	}
	if out, err := run("release", "worker"); err != nil || names() != "override.conf" {
		t.Error(out, err, names())
	}
}
