package containers

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/postern/postern/internal/bypass/outside"
)

// TestStateOfPacketSockets notes what root in a container can do with the
// capabilities that its engine gives it: no program of a cgroup sees AF_PACKET.
// What is open here is what docs/security.md says is open, and how to close it.
func TestStateOfPacketSockets(t *testing.T) {
	w := theWorld
	w.quiet(t)
	for i, c := range []struct {
		engine  engine
		network string
		options []string
		device  string
		open    bool
		outside bool // whether the frame is heard there
		warned  bool // by the guard; elsewhere it has no reason to
	}{
		{w.docker, "bridge", nil, "eth0", true, false, true},
		{w.docker, "bridge", []string{"--cap-drop", "NET_RAW"}, "eth0", false, false, false},
		{w.docker, "bridge", []string{"--user", "65534"}, "eth0", false, false, true},
		{w.docker, "none", nil, "eth0", false, false, false},
		{w.docker, "none", nil, "lo", true, false, false},
		{w.docker, "host", nil, outside.Device, true, true, false},
		{w.docker, "host", []string{"--cap-drop", "NET_RAW"}, outside.Device, false, false, false},
		{w.engines[1], "bridge", nil, "eth0", false, false, false},
		{w.engines[1], "host", nil, outside.Device, false, false, false},
		{w.engines[2], "bridge", nil, "eth0", false, false, false},
	} {
		name := strings.TrimSpace(c.engine.name() + " " + c.network + " " + strings.Join(c.options, " ") + " " + c.device)
		t.Run(name, func(t *testing.T) {
			b := box{name: fmt.Sprint("packets-", i), network: c.network, options: c.options}
			before := strings.Count(w.log(t), "can send past the hooks")
			if _, err := c.engine.up(b); err != nil {
				t.Fatal(err)
			}
			defer c.engine.remove(b.name)
			out, err := output(c.engine.in(b.name, "/bin/client", "out", "frame/"+c.device))
			if err != nil {
				t.Fatal(err)
			}
			if open := strings.Contains(out, " OPEN"); open != c.open {
				t.Errorf("%s; open should be %t", out, c.open)
			}
			frames, err := w.outside.Frames()
			if err != nil || len(frames) > 0 != c.outside {
				t.Errorf("outside arrived %q, %v; anything should be %t", frames, err, c.outside)
			}
			if c.warned {
				await(t, "the guard's warning", func() bool { return strings.Count(w.log(t), "can send past the hooks") > before })
			}
		})
	}
}

// TestEnginesResolver: on a network that somebody made docker has a resolver of
// its own inside of the container, which asks the host's name servers. It
// answers no agent, neither at its address nor at its port.
func TestEnginesResolver(t *testing.T) {
	w := theWorld
	w.quiet(t)
	const network = "made"
	if _, err := output(w.docker.command("network", "create", "--subnet", "198.51.100.0/24", network)); err != nil {
		t.Fatal(err)
	}
	defer output(w.docker.command("network", "rm", network))
	b := box{name: "resolver", network: network}
	if _, err := w.docker.up(b); err != nil {
		t.Fatal(err)
	}
	defer w.docker.remove(b.name)
	resolv, err := output(w.docker.in(b.name, "/bin/cat", "/etc/resolv.conf"))
	if err != nil || !strings.Contains(resolv, "127.0.0.11") {
		t.Fatalf("docker has no resolver there: %q, %v", resolv, err)
	}
	if out, err := output(w.docker.in(b.name, "/bin/client", "lookup", "orders-db.internal")); err != nil {
		t.Errorf("lookup: %q, %v", out, err)
	}
	if out, err := output(w.docker.in(b.name, "/bin/client", "lookup", "data-in-a-name.example.org")); err == nil {
		t.Errorf("a name that is nobody's: %q", out)
	}
	for _, protocol := range []string{"udp", "tcp"} {
		sockets, err := output(w.docker.in(b.name, "/bin/cat", "/proc/net/"+protocol))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, found := strings.Cut(sockets, " 0B00007F:") // 127.0.0.11, as the kernel has it
		if !found {
			t.Fatalf("no socket of docker's resolver:\n%s", sockets)
		}
		port, err := hex.DecodeString(rest[:4])
		if err != nil {
			t.Fatal(err)
		}
		at := fmt.Sprintf("%s/127.0.0.11:%d", protocol, binary.BigEndian.Uint16(port))
		if out, err := output(w.docker.in(b.name, "/bin/client", "out", at)); err != nil || !strings.Contains(out, "closed") {
			t.Errorf("docker's resolver at its port: %q, %v", out, err)
		}
	}
	w.quiet(t)
}
