package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/postern/postern/internal/config"
)

// maxExposure is what systemd-analyze may find the daemon to be, of 10.
const maxExposure = 2.0

// tree is a root with the units where they are installed, and programs for
// systemd to find.
func tree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range []string{"usr/sbin/posternd", "usr/sbin/postern-guard", "usr/bin/kill", "bin/kill", "usr/bin/true"} {
		put(t, filepath.Join(root, name), "#!/bin/sh\n", 0o755)
	}
	for _, pattern := range []string{"systemd/*.service", "systemd/*.slice", "systemd/*.d/*.conf"} {
		for _, from := range glob(t, pattern) {
			put(t, filepath.Join(root, "usr/lib/systemd/system", strings.TrimPrefix(from, "systemd/")), read(t, from), 0o644)
		}
	}
	put(t, filepath.Join(root, "usr/lib/systemd/system/agent.service"), read(t, "examples/agent.service"), 0o644)
	for _, target := range []string{"sysinit.target", "local-fs.target", "shutdown.target", "basic.target", "multi-user.target", "network.target"} {
		put(t, filepath.Join(root, "usr/lib/systemd/system", target), "[Unit]\nDescription=one of systemd's\nDefaultDependencies=no\n", 0o644)
	}
	put(t, filepath.Join(root, "usr/lib/systemd/system/user@1000.service"), "[Service]\nExecStart=/usr/bin/true\n", 0o644)
	put(t, filepath.Join(root, "usr/lib/systemd/system/user@1000.service.d/postern.conf"), read(t, "examples/user-slice.conf"), 0o644)
	return root
}

func TestUnitsAreUnderstood(t *testing.T) {
	root := tree(t)
	for _, unit := range []string{
		"postern-attach.service", "postern-guard.service", "posternd.service", "agents.slice",
		"agents-worker.slice", "agent.service", "user@1000.service",
	} {
		// The man pages are another package's affair.
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--root="+root, unit).CombinedOutput()
		if err != nil || len(strings.TrimSpace(string(out))) > 0 {
			t.Errorf("%s: %v: %s", unit, err, out)
		}
	}
	// What is written wrongly is found: the test would see it.
	put(t, filepath.Join(root, "usr/lib/systemd/system/wrong.service"), "[Service]\nExecStart=/usr/bin/true\nRestratSec=1\n", 0o644)
	if out, _ := exec.Command("systemd-analyze", "verify", "--man=no", "--root="+root, "wrong.service").CombinedOutput(); !strings.Contains(string(out), "RestratSec") {
		t.Errorf("a mistake was not found: %s", out)
	}
}

func TestTheDaemonIsSandboxed(t *testing.T) {
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--root="+tree(t), "posternd.service").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m := regexp.MustCompile(`Overall exposure level for posternd\.service: ([0-9.]+)`).FindStringSubmatch(string(out))
	if m == nil {
		t.Fatalf("no level in %s", out)
	}
	if level, err := strconv.ParseFloat(m[1], 64); err != nil || level > maxExposure {
		t.Errorf("exposure %s, want at most %.1f:\n%s", m[1], maxExposure, out)
	}
}

// TestNobodyIsStoppedWithTheDaemon: a unit that required the daemon or the guard
// would be stopped when they restart, and agents with it.
func TestNobodyIsStoppedWithTheDaemon(t *testing.T) {
	units := append(glob(t, "systemd/*.service"), glob(t, "systemd/*.slice")...)
	strong := regexp.MustCompile(`(?m)^(Requires|BindsTo|PartOf|Requisite)=.*\b(posternd|postern-guard)\.service`)
	for _, unit := range append(units, glob(t, "examples/*")...) {
		if m := strong.FindString(read(t, unit)); m != "" {
			t.Errorf("%s: %s: an agent would be stopped with it", unit, m)
		}
	}
	for unit, line := range map[string]string{
		"systemd/postern-attach.service": "RefuseManualStop=yes",
		"systemd/postern-guard.service":  "RestartKillSignal=SIGKILL",
		"systemd/agents.slice":           "Requires=postern-attach.service",
	} {
		if !strings.Contains(read(t, unit), "\n"+line+"\n") {
			t.Errorf("%s lacks %s", unit, line)
		}
	}
}

// TestPlaces: units, tmpfiles and defaults of the configuration mean the same.
func TestPlaces(t *testing.T) {
	for _, dir := range []string{filepath.Dir(config.DefaultControlSocket), config.DefaultStateDir} {
		if !strings.Contains(read(t, "systemd/postern.tmpfiles"), "d "+dir+" ") {
			t.Errorf("systemd/postern.tmpfiles does not make %s", dir)
		}
	}
	preset := read(t, "systemd/90-postern.preset")
	for _, unit := range glob(t, "systemd/*.service") {
		if !strings.Contains(preset, "enable "+filepath.Base(unit)+"\n") {
			t.Errorf("the preset does not enable %s", unit)
		}
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		t.Fatalf("%s: nothing there (%v)", pattern, err)
	}
	return found
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func put(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
