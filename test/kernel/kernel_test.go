//go:build qemu

package kernel

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// bootTimeout bounds one machine, boot to power off; it takes half a minute
// when nothing else runs.
const bootTimeout = 5 * time.Minute

// consoleTail is how much of a console a failure shows, in lines.
const consoleTail = 40

// TestKernel boots every kernel that fetch has left in build/kernels.
func TestKernel(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("needs an amd64 machine: the kernels fetched are for amd64")
	}
	kernels, err := filepath.Glob("../../build/kernels/*/vmlinuz")
	if err != nil || len(kernels) == 0 {
		t.Fatal("no kernel to boot: run `make test-kernels`, or test/kernel/fetch 5.10")
	}
	guest := buildGuest(t)
	recorded := readRatchet(t)
	for _, kernel := range kernels {
		version := filepath.Base(filepath.Dir(kernel))
		t.Run(version, func(t *testing.T) {
			results, console := boot(t, kernel, buildInitrd(t, guest, filepath.Dir(kernel)))
			for _, r := range results {
				t.Run(r.name, func(t *testing.T) {
					if r.failure != "" {
						t.Error(r.failure)
					}
				})
			}
			t.Run("ratchet", func(t *testing.T) { recorded.check(t, version, instructionsIn(console)) })
			if !strings.Contains(console, "guest: done") {
				t.Errorf("the guest did not finish; its console ends:\n%s", tail(console))
			}
		})
	}
	recorded.write(t)
}

// buildGuest compiles what all machines run.
func buildGuest(t *testing.T) []byte {
	t.Helper()
	guest := filepath.Join(t.TempDir(), "guest")
	build := exec.Command("go", "build", "-trimpath", "-o", guest, "./guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v\n%s", err, out)
	}
	program, err := os.ReadFile(guest)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// buildInitrd makes an archive with the guest as its init, and the modules that
// fetch has left beside the kernel.
func buildInitrd(t *testing.T, guest []byte, kernel string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(kernel, "modules", "*.ko"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no modules: run test/kernel/fetch %s", kernel, filepath.Base(kernel))
	}
	modules := map[string][]byte{}
	for _, f := range files {
		if modules[filepath.Base(f)], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	initrd := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(initrd, archive(guest, modules), 0o600); err != nil {
		t.Fatal(err)
	}
	return initrd
}

// result is one check that the guest reported.
type result struct {
	name    string
	failure string // empty: it held
}

func boot(t *testing.T, kernel, initrd string) (results []result, console string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	// TCG: a kernel is emulated in full, the machine of the test may be a
	// virtual one itself.
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "768",
		"-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-net", "none",
		"-kernel", kernel, "-initrd", initrd,
		// The newest kernel watches its memory from the start (kdamond), and an
		// emulated one was seen to crash in that thread before the test began.
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable damon_stat.enabled=0")
	out, err := qemu.CombinedOutput()
	console = string(out)
	if err != nil {
		t.Fatalf("qemu: %v (%v); its console ends:\n%s", err, ctx.Err(), tail(console))
	}
	lines := bufio.NewScanner(strings.NewReader(console))
	lines.Buffer(nil, len(console)+1)
	for lines.Scan() {
		if r, ok := parse(lines.Text()); ok {
			results = append(results, r)
		}
	}
	return results, console
}

// parse reads `guest: ok NAME` and `guest: FAIL NAME "reason"`.
func parse(line string) (result, bool) {
	_, said, ok := strings.Cut(strings.TrimSpace(line), "guest: ")
	if !ok {
		return result{}, false
	}
	verdict, rest, _ := strings.Cut(said, " ")
	name, reason, _ := strings.Cut(rest, " ")
	switch verdict {
	case "ok":
		return result{name: name}, true
	case "FAIL":
		if text, err := strconv.Unquote(reason); err == nil {
			reason = text
		}
		return result{name: name, failure: "failed: " + reason}, true
	}
	return result{}, false
}

func tail(console string) string {
	lines := strings.Split(strings.TrimSpace(console), "\n")
	return strings.Join(lines[max(0, len(lines)-consoleTail):], "\n")
}
