package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/bpf"
	"github.com/postern/postern/internal/bypass/outside"
)

func local4(port uint16) string { return fmt.Sprintf("127.0.0.1:%d", port) }
func local6(port uint16) string { return fmt.Sprintf("[::1]:%d", port) }
func mapped(port uint16) string { return fmt.Sprintf("[::ffff:127.0.0.1]:%d", port) }

func TestDiallingTheGatewayDirectly(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	own, other := w.listen(lowPolicy), w.listen(highPolicy)
	ownRecords, otherRecords := echo(t, own, own.TCP...), echo(t, other, other.TCP...)
	a := w.agent(cgroup)
	for _, l := range []*Listener{own, other} {
		tcp, udp, dnsTCP := l.Ports()
		// Listing a port of the gateway does not open it.
		w.must(w.kernel.UseLoopback(LoopbackPort{lowPolicy, tcp}, AsIs))
		w.must(w.kernel.UseLoopback(LoopbackPort{lowPolicy, udp}, AsIs))
		for _, port := range []uint16{tcp, dnsTCP} {
			for _, addr := range []string{local4(port), local6(port), mapped(port), fmt.Sprintf("0.0.0.0:%d", port), fmt.Sprintf("[::]:%d", port)} {
				domain := unix.AF_INET
				if netip.MustParseAddrPort(addr).Addr().Is6() {
					domain = unix.AF_INET6
				}
				if errno := a.connect(a.socket(domain, unix.SOCK_STREAM), addr); errno != unix.EPERM {
					t.Errorf("connect to %s: %v, want EPERM", addr, errno)
				}
			}
		}
		if errno := a.sendto(a.socket(unix.AF_INET, unix.SOCK_DGRAM), "x", local4(udp), 0); errno != unix.EPERM {
			t.Errorf("sendto the resolver's port: %v, want EPERM", errno)
		}
	}
	none(t, ownRecords)
	none(t, otherRecords)
}

func TestSquattingOnTheGatewaysPort(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	tcp, udp, _ := l.Ports()
	a := w.agent(cgroup)
	for name, attempt := range map[string]func() (int, string){
		"tcp4": func() (int, string) { return a.socket(unix.AF_INET, unix.SOCK_STREAM), local4(tcp) },
		"tcp6": func() (int, string) { return a.socket(unix.AF_INET6, unix.SOCK_STREAM), local6(tcp) },
		"any":  func() (int, string) { return a.socket(unix.AF_INET6, unix.SOCK_STREAM), fmt.Sprintf("[::]:%d", tcp) },
		"udp4": func() (int, string) { return a.socket(unix.AF_INET, unix.SOCK_DGRAM), local4(udp) },
	} {
		fd, addr := attempt()
		a.set(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		a.set(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		if errno := a.bind(fd, addr); errno != unix.EPERM {
			t.Errorf("%s: bind: %v, want EPERM", name, errno)
		}
	}
	// The gateway is down and a local user who is no agent takes its ports.
	w.must(l.Close())
	var squatter net.Listener
	var resolver net.PacketConn
	w.in(w.host, func() (err error) {
		if squatter, err = net.Listen("tcp4", local4(tcp)); err != nil {
			return err
		}
		resolver, err = net.ListenPacket("udp4", local4(udp))
		return err
	})
	defer squatter.Close()
	defer resolver.Close()
	if errno := a.connect(a.socket(unix.AF_INET, unix.SOCK_STREAM), there4); errno != unix.EPERM {
		t.Errorf("connect while somebody squats: %v, want EPERM", errno)
	}
	if errno := a.sendto(a.socket(unix.AF_INET, unix.SOCK_DGRAM), "q", "203.0.113.53:53", 0); errno != unix.EPERM {
		t.Errorf("query while somebody squats: %v, want EPERM", errno)
	}
	if e := w.event(func(e Event) bool { return e.Kind == Squatted }); e.Remote.String() != there4 {
		t.Errorf("event %+v", e)
	}
}

// pass hands a socket of one agent to another over a Unix socket.
func pass(t *testing.T, from, to *agent, fd int) int {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		os.Chmod(d, 0o777)
	}
	path := filepath.Join(dir, "s")
	taken := make(chan answer)
	go func() { taken <- to.call(call{Op: "take", Addr: path}) }()
	for deadline := time.Now().Add(5 * time.Second); ; {
		if _, err := os.Stat(path + ".ready"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the taker did not come")
		}
		time.Sleep(time.Millisecond)
	}
	os.Chmod(path, 0o777)
	if got := from.call(call{Op: "pass", Addr: path, FD: fd}); got.Errno != 0 {
		t.Fatalf("pass: %v", got.Errno)
	}
	got := <-taken
	if got.Errno != 0 {
		t.Fatalf("take: %v", got.Errno)
	}
	return got.N
}

func TestPassedSocketBetweenAgents(t *testing.T) {
	w := newWorld(t)
	lowGroup, _ := w.cgroup("low", lowPolicy)
	highGroup, _ := w.cgroup("high", highPolicy)
	twin, _ := w.cgroup("twin", lowPolicy) // another agent under the same policy
	low, high := w.listen(lowPolicy), w.listen(highPolicy)
	lowRecords, highRecords := echo(t, low, low.TCP...), echo(t, high, high.TCP...)
	a := w.agent(lowGroup)
	for _, to := range []string{highGroup, twin} {
		b := w.agent(to)
		tcp := pass(t, a, b, a.socket(unix.AF_INET, unix.SOCK_STREAM))
		if errno := b.connect(tcp, there4); errno != unix.EPERM {
			t.Errorf("connect: %v, want EPERM", errno)
		}
		if errno := b.sendto(tcp, "x", there4, unix.MSG_FASTOPEN); errno != unix.EPERM {
			t.Errorf("MSG_FASTOPEN: %v, want EPERM", errno)
		}
		udp := pass(t, a, b, a.socket(unix.AF_INET, unix.SOCK_DGRAM))
		if errno := b.sendto(udp, "x", "203.0.113.53:53", 0); errno != unix.EPERM {
			t.Errorf("sendto: %v, want EPERM", errno)
		}
		if errno := b.bind(tcp, "0.0.0.0:0"); errno != unix.EPERM {
			t.Errorf("bind: %v, want EPERM", errno)
		}
	}
	none(t, lowRecords)
	none(t, highRecords)
}

func TestSocketMadeBeforeAttach(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	records := echo(t, l, l.TCP...)
	w.must(w.kernel.Close())
	w.must(Detach(w.options))
	a := w.agent(cgroup)
	tcp, udp := a.socket(unix.AF_INET, unix.SOCK_STREAM), a.socket(unix.AF_INET, unix.SOCK_DGRAM)
	connected := a.socket(unix.AF_INET, unix.SOCK_DGRAM)
	plain(a)(t, connected, netip.AddrPortFrom(outside4, 9).String())
	_, err := Attach(w.options)
	w.must(err)
	w.kernel, err = OpenPinned(w.options)
	w.must(err)
	defer w.kernel.Close()
	w.cgroup("agent", lowPolicy)
	l2 := w.listen(lowPolicy)
	defer l2.Close()
	if errno := a.connect(tcp, there4); errno != unix.EPERM {
		t.Errorf("connect: %v, want EPERM", errno)
	}
	if errno := a.sendto(udp, "x", "203.0.113.53:53", 0); errno != unix.EPERM {
		t.Errorf("sendto: %v, want EPERM", errno)
	}
	if errno := a.sendto(connected, "x", "", 0); errno != unix.EPERM {
		t.Errorf("send on a socket connected before: %v, want EPERM", errno)
	}
	none(t, records)
	w.quiet()
}

// The low agent takes a source port, has its connection recorded, resets it and
// leaves; the high agent reuses the port at once. What the gateway is told must
// not depend on the port.
func TestSourcePortReuseKeepsAttribution(t *testing.T) {
	w := newWorld(t)
	lowGroup, lowID := w.cgroup("low", lowPolicy)
	highGroup, highID := w.cgroup("high", highPolicy)
	low, high := w.listen(lowPolicy), w.listen(highPolicy)
	a, b := w.agent(lowGroup), w.agent(highGroup)
	for range 20 {
		fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
		if errno := a.bind(fd, "127.0.0.1:0"); errno != 0 {
			t.Fatal(errno)
		}
		port := a.name(fd).Port()
		w.must(w.kernel.UseLoopback(LoopbackPort{highPolicy, port}, AsIs)) // so that high may choose it
		plain(a)(t, fd, there4)
		a.sendto(fd, "forged", "", 0)
		a.call(call{Op: "setsockopt_string", FD: fd, A: unix.SOL_SOCKET, B: unix.SO_LINGER, Data: []byte{1, 0, 0, 0, 0, 0, 0, 0}})
		a.close(fd) // a reset, before anybody accepted
		fd = b.socket(unix.AF_INET, unix.SOCK_STREAM)
		b.set(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		if errno := b.bind(fd, local4(port)); errno != 0 {
			t.Fatalf("bind: %v", errno)
		}
		plain(b)(t, fd, "203.0.113.99:22")
		claim := func(l *Listener, want uint64) {
			t.Helper()
			conn, err := l.TCP[0].Accept()
			w.must(err)
			defer conn.Close()
			if got := conn.RemoteAddr().(*net.TCPAddr).Port; got != int(port) {
				t.Fatalf("from port %d, want %d", got, port)
			}
			if r, err := l.Claim(conn); err != nil || r.PolicyCgroupID != want {
				t.Errorf("recorded as %+v, %v; want cgroup %d", r, err, want)
			}
		}
		claim(high, highID)
		claim(low, lowID)
		b.close(fd)
		w.must(w.kernel.ForgetLoopback(LoopbackPort{highPolicy, port}))
	}
}

// Strangers who find the port are closed, and cannot keep agents out.
func TestConnectionsWithoutTokenAreClosed(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	records := echo(t, l, l.TCP...)
	tcp, _, _ := l.Ports()
	const strangers = 300
	w.in(w.host, func() error {
		for range strangers {
			conn, err := net.Dial("tcp", local4(tcp))
			if err != nil {
				return err
			}
			defer conn.Close()
		}
		return nil
	})
	a := w.agent(cgroup)
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	plain(a)(t, fd, there4)
	a.talk(fd)
	refused := 0
	for range strangers + 1 {
		select {
		case c := <-records:
			if errors.Is(c.err, ErrNoRecord) {
				refused++
			} else if c.err != nil || c.record.Original.String() != there4 {
				t.Errorf("%+v, %v", c.record, c.err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("too few connections")
		}
	}
	if refused != strangers {
		t.Errorf("%d of %d strangers refused", refused, strangers)
	}
}

// A record is claimed once, and only at its own policy's listener.
func TestRecordIsClaimedOnce(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l, other := w.listen(lowPolicy), w.listen(highPolicy)
	a := w.agent(cgroup)
	plain(a)(t, a.socket(unix.AF_INET, unix.SOCK_STREAM), there4)
	conn, err := l.TCP[0].Accept()
	w.must(err)
	defer conn.Close()
	if _, err := l.Claim(conn); err != nil {
		t.Fatal(err)
	}
	if r, err := l.Claim(conn); err == nil {
		t.Errorf("claimed twice: %+v", r)
	}
	plain(a)(t, a.socket(unix.AF_INET, unix.SOCK_STREAM), there4)
	conn, err = l.TCP[0].Accept()
	w.must(err)
	defer conn.Close()
	if _, err := other.Claim(conn); !errors.Is(err, ErrNoRecord) {
		t.Errorf("claimed by another policy's listener: %v", err)
	}
}

func TestEvictedRecordIsClosed(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	a := w.agent(cgroup)
	plain(a)(t, a.socket(unix.AF_INET, unix.SOCK_STREAM), there4)
	conn, err := l.TCP[0].Accept()
	w.must(err)
	defer conn.Close()
	// An LRU map evicts what the flooding CPU can see: each CPU keeps its last
	// insertions to itself, so all of them have to flood.
	flows := w.kernel.maps[bpf.PosternMapFlows]
	for cpu := range runtime.NumCPU() {
		w.must(onOwnThread(func() error { return flood(flows, cpu) }))
	}
	if r, err := l.Claim(conn); !errors.Is(err, ErrNoRecord) {
		t.Errorf("claim after a flood: %+v, %v; want %v", r, err, ErrNoRecord)
	}
}

// flood fills the map three times over with records nobody will claim.
func flood(flows *ebpf.Map, cpu int) error {
	var only unix.CPUSet
	only.Set(cpu)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return err
	}
	tokens := make([]uint64, 4096)
	values := make([]bpf.PosternFlow, len(tokens))
	for n := uint64(0); n < 3*65536; {
		for i := range tokens {
			n++
			tokens[i] = n + uint64(cpu)<<32
		}
		if _, err := flows.BatchUpdate(tokens, values, nil); err != nil {
			return err
		}
	}
	return nil
}

func TestGatewaysOwnTrafficIsNotRedirected(t *testing.T) {
	w, _, records := closed(t)
	var server net.Listener
	w.must(w.outside.InFar(func() (err error) {
		server, err = net.Listen("tcp", netip.AddrPortFrom(outside4, 5432).String())
		return err
	}))
	defer server.Close()
	w.in(w.host, func() error {
		conn, err := net.DialTimeout("tcp", server.Addr().String(), 5*time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	none(t, records)
}

func TestBoundToDevice(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	records := echo(t, l, l.TCP...)
	for _, who := range []string{"nobody", "root"} {
		a := w.agentAs(cgroup, who)
		fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
		if got := a.call(call{Op: "setsockopt_string", FD: fd, A: unix.SOL_SOCKET, B: unix.SO_BINDTODEVICE, Data: []byte(outside.Device)}); got.Errno != 0 {
			t.Fatal(got.Errno)
		}
		errno := a.connect(fd, netip.AddrPortFrom(outside4, 80).String())
		if errno == 0 {
			next(t, records)
		} else if who == "root" {
			t.Errorf("as root: %v", errno)
		}
		udp := a.socket(unix.AF_INET, unix.SOCK_DGRAM)
		a.call(call{Op: "setsockopt_string", FD: udp, A: unix.SOL_SOCKET, B: unix.SO_BINDTODEVICE, Data: []byte(outside.Device)})
		a.sendto(udp, "q", netip.AddrPortFrom(outside4, 53).String(), 0)
	}
	w.quiet()
}

func TestMarkedSocketIsRedirected(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	records := echo(t, l, l.TCP...)
	a := w.agentAs(cgroup, "root")
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	if errno := a.set(fd, unix.SOL_SOCKET, unix.SO_MARK, 42); errno != 0 {
		t.Fatal(errno)
	}
	plain(a)(t, fd, netip.AddrPortFrom(outside4, 80).String())
	next(t, records)
	w.quiet()
}

// A loose source route sends packets to its first hop whatever the destination.
func TestSourceRoute(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	records := echo(t, l, l.TCP...)
	a := w.agentAs(cgroup, "root") // it takes CAP_NET_RAW to ask for one
	via := outside4.As4()
	route := append([]byte{131, 7, 4}, via[:]...)
	route = append(route, 0)
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	if got := a.call(call{Op: "setsockopt_string", FD: fd, A: unix.IPPROTO_IP, B: unix.IP_OPTIONS, Data: route}); got.Errno != 0 {
		t.Fatal(got.Errno)
	}
	if errno := a.connect(fd, there4); errno == 0 {
		t.Error("connected by a source route")
	}
	none(t, records)
	w.quiet()
}

// A policy that is taken away takes open connections with it.
func TestRemovedPolicyEndsConnections(t *testing.T) {
	w := newWorld(t)
	cgroup, id := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	records := echo(t, l, l.TCP...)
	a := w.agent(cgroup)
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	plain(a)(t, fd, there4)
	a.talk(fd)
	next(t, records)
	w.must(w.kernel.RemovePolicy(id))
	a.sendto(fd, "more", "", 0)
	if data, _, errno := a.recv(fd); errno != unix.EAGAIN {
		t.Errorf("recv: %q, %v; want nothing", data, errno)
	}
	if policies, err := w.kernel.Policies(); err != nil || len(policies) != 0 {
		t.Errorf("policies: %v, %v", policies, err)
	}
}
