package containers

import (
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestClosedWithItsContainer: when a container ends the guard closes what it had
// open there, and nothing keeps its network namespace: the cable that hung in it
// goes with it.
func TestClosedWithItsContainer(t *testing.T) {
	w := theWorld
	for _, e := range w.engines {
		t.Run(e.name(), func(t *testing.T) {
			b := box{name: "short-" + e.name(), network: "bridge"}
			at := len(w.log(t))
			if _, err := e.up(b); err != nil {
				t.Fatal(err)
			}
			netns := ""
			await(t, "a listener in the container", func() bool {
				for line := range strings.Lines(w.log(t)[at:]) {
					if _, rest, found := strings.Cut(line, `"listener opened" agent=`+e.agent()+" netns="); found {
						netns = strings.Fields(rest)[0]
					}
				}
				return netns != ""
			})
			near, err := output(e.in(b.name, "/bin/cat", "/sys/class/net/eth0/iflink"))
			if err != nil {
				t.Fatal(err)
			}
			if !onHost(near) {
				t.Fatalf("the near end of the cable, %q, is not on the host", near)
			}
			if err := e.remove(b.name); err != nil {
				t.Fatal(err)
			}
			await(t, "the end of the listener", func() bool {
				return strings.Contains(w.log(t)[at:], `"listener closed" netns=`+netns)
			})
			await(t, "the end of the namespace", func() bool { return !onHost(near) })
		})
	}
}

// onHost says whether there is a device of this number: a cable's near end goes
// with its far end.
func onHost(number string) bool {
	index, err := strconv.Atoi(number)
	if err != nil {
		return true // which fails the test
	}
	_, err = net.InterfaceByIndex(index)
	return err == nil
}

// TestCoveredAfterRestarts: a container goes on when Postern's daemon is killed,
// when it was away for so long that the guard gave its listeners up, and when
// the guard was too; with a restart policy it comes back covered when the
// engine was updated.
func TestCoveredAfterRestarts(t *testing.T) {
	w := theWorld
	b := box{name: "stays", network: "bridge", options: []string{"--restart", "always"}}
	if _, err := w.docker.up(b); err != nil {
		t.Fatal(err)
	}
	defer w.docker.remove(b.name)
	reaches := func(after string) {
		t.Helper()
		out, err := output(w.docker.in(b.name, "/bin/client", "query", dsn("orders-db.internal", "verify-full"), "SELECT current_user::text"))
		if err != nil || out != "orders_rw" {
			t.Errorf("after %s: %q, %v\n%s", after, out, err, w.log(t))
		}
		out, err = output(w.docker.in(b.name, "/bin/client", "out", "tcp/203.0.113.2:443", "udp/203.0.113.2:443", "tcp/192.0.2.1:80"))
		if err != nil || strings.Contains(out, "OPEN") {
			t.Errorf("after %s: %q, %v", after, out, err)
		}
		w.quiet(t)
	}
	w.quiet(t)
	reaches("its start")

	must(t, w.killDaemon())
	must(t, w.postern.StartDaemon())
	reaches("a restart of the daemon")

	must(t, w.killDaemon())
	await(t, "the guard's patience", func() bool { return strings.Contains(w.log(t), "connections are refused from now on") })
	opened := strings.Count(w.log(t), "listener opened")
	must(t, w.postern.StartDaemon())
	await(t, "a listener in the container", func() bool { return strings.Count(w.log(t), "listener opened") > opened })
	// By a datagram first: the kernel asks for nothing that has been opened.
	if out, err := output(w.docker.in(b.name, "/bin/client", "lookup", "orders-db.internal")); err != nil {
		t.Errorf("lookup: %q, %v", out, err)
	}
	reaches("a long absence of the daemon")

	w.postern.StopGuard(unix.SIGKILL)
	must(t, w.killDaemon())
	must(t, w.postern.StartGuard())
	must(t, w.postern.StartDaemon())
	await(t, "a listener in the container", func() bool { return strings.Contains(w.log(t), "listener opened") })
	reaches("the death of guard and daemon")

	must(t, w.docker.stopDaemon())
	must(t, w.docker.startDaemon())
	await(t, "the container", func() bool {
		out, err := output(w.docker.command("inspect", "-f", "{{.State.Running}}", b.name))
		return err == nil && out == "true"
	})
	reaches("a restart of the engine")
}

// killDaemon ends Postern's daemon as the kernel would when memory is short.
func (w *world) killDaemon() error {
	err := w.postern.StopDaemon(unix.SIGKILL)
	if _, killed := err.(*exec.ExitError); killed {
		return nil
	}
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
