//go:build qemu

package pkgtest

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

const (
	// storyTimeout bounds one machine, whose processor is emulated.
	storyTimeout = 15 * time.Minute
	// consoleTail is how much of a console a failure shows, in lines.
	consoleTail = 60
)

// TestPackages plays guest/scenario on each kernel that Postern promises, and
// boots what the machine has written down once more: each line of the scenario
// that checks something is one test here, and none may be missing.
func TestPackages(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("needs an amd64 machine: the kernels fetched are for amd64")
	}
	story, err := os.ReadFile("guest/scenario")
	if err != nil {
		t.Fatal(err)
	}
	first, second, _ := strings.Cut(string(story), "\nrestarted() {")
	second, rest, _ := strings.Cut(second, "\n}\n")
	base := image(t)
	for _, kernel := range kernels(t) {
		t.Run(kernel, func(t *testing.T) {
			initrd, left := withModule(t, kernel, base), filepath.Join(t.TempDir(), "left")
			boot(t, kernel, initrd, left, first+rest)
			if t.Failed() {
				return // what it left may not be whole
			}
			boot(t, kernel, withModule(t, kernel, restarted(t, base, left)), os.DevNull, second)
		})
	}
}

// kernels are those that test/kernel/fetch has fetched. POSTERN_KERNELS names fewer.
func kernels(t *testing.T) []string {
	if names := strings.Fields(os.Getenv("POSTERN_KERNELS")); len(names) > 0 {
		return names
	}
	found, err := filepath.Glob(filepath.Join(build, "kernels/*/vmlinuz"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no kernels: run `make kernels` (%v)", err)
	}
	var names []string
	for _, f := range found {
		names = append(names, filepath.Base(filepath.Dir(f)))
	}
	return names
}

// boot runs the machine until it has said all, and holds it to the checks of a
// part of its story. What it leaves goes to a file.
func boot(t *testing.T, kernel, initrd, left, story string) {
	t.Helper()
	said, console := play(t, kernel, initrd, left)
	checks := regexp.MustCompile(`(?m)^\tcheck (\S+) `).FindAllStringSubmatch(story, -1)
	if len(checks) == 0 {
		t.Fatal("the story has no checks")
	}
	for _, c := range checks {
		t.Run(c[1], func(t *testing.T) {
			switch line, ok := said[c[1]]; {
			case !ok:
				t.Errorf("the machine did not get so far; its console ends:\n%s", strings.Join(console[max(0, len(console)-consoleTail):], "\n"))
			case line != "":
				t.Error(line)
			}
		})
	}
}

// play returns what the machine said of each check, "" when it held, and all of
// its console.
func play(t *testing.T, kernel, initrd, left string) (said map[string]string, console []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), storyTimeout)
	defer cancel()
	// One processor: see test/boot.
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", "4000",
		"-nographic", "-nodefaults", "-serial", "stdio", "-serial", "file:"+left, "-net", "none", "-no-reboot",
		"-kernel", filepath.Join(build, "kernels", kernel, "vmlinuz"), "-initrd", initrd, "-append",
		"console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable rdinit=/lib/systemd/systemd systemd.show_status=0 systemd.getty_auto=no systemd.wants=scenario.service")
	out, err := qemu.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	qemu.Stderr = qemu.Stdout
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	defer qemu.Wait()
	defer qemu.Process.Kill()
	said, began := map[string]string{}, time.Now()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		console = append(console, line)
		_, words, ok := strings.Cut(line, "guest: ")
		verdict, rest, _ := strings.Cut(words, " ")
		if ok {
			t.Logf("%v: %s", time.Since(began).Round(time.Second), words)
		}
		switch {
		case verdict == "ok":
			said[rest] = ""
		case verdict == "FAIL":
			name, why, _ := strings.Cut(rest, ": ")
			said[name] = "failed: " + why
		case words == "end":
			return said, console
		}
	}
	return said, console
}
