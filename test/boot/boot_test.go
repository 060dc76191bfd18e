//go:build qemu

package boot

import (
	"bufio"
	"context"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// bootTimeout bounds one test's machine, its reboot included.
const bootTimeout = 8 * time.Minute

// minRuns is how often each container has run in one boot.
const minRuns = 3

// consoleTail is how much of a console a failure shows, in lines.
const consoleTail = 60

// TestReboot boots the machine with containers that start again whenever they
// end, lets it reboot itself, and counts what they got out: nothing, in either
// boot, up to the last moment before the machine goes down. One container has
// the host's network, one a network of its own with a cable; neither unit
// knows of Postern. The programs are late (image/late.conf): what did not wait
// for them would have seconds to itself.
//
// The second boot starts from the image again: no disk keeps what the first
// one did. It is what a restart policy means at boot, for units and bundles are
// there from the beginning; what an engine writes down at run time is not.
func TestReboot(t *testing.T) {
	boots := run(t, 2, "systemd.wants=plain@host.service", "systemd.wants=plain@box.service")
	for i, b := range boots {
		t.Run("boot"+strconv.Itoa(i+1), func(t *testing.T) {
			b.judged(t)
			for _, name := range []string{"plain-host", "plain-box", "required-host", "checked-host"} {
				b.closed(t, name)
			}
			for _, when := range []string{"judged", "final"} {
				if n := b.strange(t, when); n != 0 {
					t.Errorf("%d frames of containers arrived outside (%s)", n, when)
				}
			}
			b.has(t, `check ok=true .*is closed by`)
			b.has(t, `guard ok=true "active"`)
			b.has(t, `start-required ok=true`)
			b.has(t, `start-checked ok=true`)
		})
	}
}

// TestWithoutPrograms boots the same machine with the programs masked, so that
// TestReboot can fail: the containers get out by both networks. One whose unit
// runs `postern-guard check` first does not start.
//
// Requires= alone is noted, not held to anything: systemd refuses to start such
// a unit when asked to, and yet may start it once at boot, when a target wants it.
func TestWithoutPrograms(t *testing.T) {
	b := run(t, 1, "systemd.mask=postern-attach.service", "systemd.wants=ordered@host.service",
		"systemd.wants=ordered@box.service", "systemd.wants=required@host.service", "systemd.wants=checked@host.service")[0]
	b.judged(t)
	for _, name := range []string{"ordered-host", "ordered-box"} {
		for _, way := range ways {
			b.has(t, `container `+name+` times=\d+ try `+way+` open$`)
		}
	}
	if b.strange(t, "judged") == 0 {
		t.Error("nothing arrived outside of containers that were open: the sniffer sees nothing")
	}
	b.has(t, `check ok=false`)
	b.has(t, `guard ok=false`)
	b.has(t, `start-required ok=false .*masked`)
	b.has(t, `start-checked ok=false`)
	if m := b.find(`container checked-.*`); m != nil {
		t.Errorf("a container that looks for the programs ran without them: %s", m[0])
	}
	t.Logf("a unit that only requires the programs: %v; ran: %v", b.find(`state-required.*`), b.find(`container required-.* end$`))
}

// ways are what the program of a container tries, as it writes them.
var ways = []string{"tcp4:443", "udp4:443", "tcp4:53", "udp4:53"}

// transcript is what the guest said in one boot.
type transcript []string

func (b transcript) String() string { return strings.Join(b, "\n") }

func (b transcript) find(pattern string) []string {
	re := regexp.MustCompile(pattern)
	for _, line := range b {
		if m := re.FindStringSubmatch(line); m != nil {
			return m
		}
	}
	return nil
}

func (b transcript) has(t *testing.T, pattern string) {
	t.Helper()
	if b.find(pattern) == nil {
		t.Errorf("the guest did not say %q:\n%s", pattern, b)
	}
}

// judged holds when the guest has looked at everything, and the cable carried
// what was no agent's.
func (b transcript) judged(t *testing.T) {
	t.Helper()
	b.has(t, `probe tcp open$`)
	b.has(t, `frames when=judged strange=\d+ probes=[1-9]`)
	if m := b.find(`FAIL .*`); m != nil {
		t.Error(m[0])
	}
}

// closed holds when a container ran again and again and each of its attempts
// was refused.
func (b transcript) closed(t *testing.T, name string) {
	t.Helper()
	if strings.HasPrefix(name, "plain-") { // others start last, and may be in their first run
		m := b.find(`container ` + name + ` times=(\d+) end$`)
		if m == nil {
			t.Fatalf("%s never ran to its end:\n%s", name, b)
		}
		if n, _ := strconv.Atoi(m[1]); n < minRuns {
			t.Errorf("%s ran %d times, want %d", name, n, minRuns)
		}
		for _, way := range ways {
			b.has(t, `container `+name+` times=\d+ try `+way+` errno=\d+$`)
		}
	}
	if m := b.find(`container ` + name + ` .* open$`); m != nil {
		t.Errorf("got out: %s", m[0])
	}
}

// strange is how many frames arrived that were not the guest's own probe.
func (b transcript) strange(t *testing.T, when string) int {
	t.Helper()
	m := b.find(`frames when=` + when + ` strange=(\d+) `)
	if m == nil {
		t.Fatalf("no count of frames (%s):\n%s", when, b)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// run boots the machine, and lets it reboot until it has been up so many times.
func run(t *testing.T, boots int, arguments ...string) []transcript {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("needs an amd64 machine: the kernel fetched is for amd64")
	}
	image := initrd(t)
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	// One processor: with several emulated at once, the kernel now and then runs
	// code that another one is patching ("Oops: int3").
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", "2500",
		"-nographic", "-nodefaults", "-serial", "stdio", "-net", "none",
		"-kernel", build+"/kernels/6.12/vmlinuz", "-initrd", image, "-append",
		"console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable rdinit=/lib/systemd/systemd systemd.show_status=0 "+
			"systemd.wants=outside.service "+strings.Join(arguments, " "))
	console, err := qemu.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	qemu.Stderr = qemu.Stdout
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	defer qemu.Wait()
	defer qemu.Process.Kill()
	var all []string
	said := make([]transcript, 0, boots)
	for lines := bufio.NewScanner(console); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		all = append(all, line)
		_, words, ok := strings.Cut(line, "guest: ")
		if !ok {
			continue
		}
		if words == "boot" {
			said = append(said, nil)
		}
		if len(said) == 0 {
			break // it failed before it began
		}
		said[len(said)-1] = append(said[len(said)-1], words)
		// The last word of a boot.
		if strings.HasPrefix(words, "frames when=final") && len(said) == boots {
			return said
		}
	}
	t.Fatalf("the machine was up %d times of %d (%v); its console ends:\n%s", len(said), boots, ctx.Err(),
		strings.Join(all[max(0, len(all)-consoleTail):], "\n"))
	return nil
}
