package redirect

import (
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/bpf"
)

func itoa(port uint16) string { return strconv.Itoa(int(port)) }

// foretelling attaches programs that let connections wait for an answer.
func foretelling(t *testing.T) (w *world, a *agent, l *Listener) {
	t.Helper()
	w = newWorld(t)
	w.must(Detach(w.options))
	w.options.Foretell = true
	_, err := Attach(w.options)
	w.must(err)
	w.kernel.Close()
	w.kernel, err = OpenPinned(w.options)
	w.must(err)
	t.Cleanup(func() { w.kernel.Close() })
	w.in(w.host, w.kernel.SetHome)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	return w, w.agent(cgroup), w.listen(lowPolicy)
}

// answer answers the next connection that asks.
func (w *world) answer(verdict Verdict) <-chan Ask {
	asked := make(chan Ask, 1)
	go func() {
		a := w.ask(func(a Ask) bool { return !a.Listener })
		if err := w.kernel.Answer(a.Record.Token, verdict, 3*time.Second); err != nil {
			w.t.Error(err)
		}
		asked <- a
	}()
	return asked
}

func TestConnectWaitsForTheUpstream(t *testing.T) {
	w, a, l := foretelling(t)
	records := echo(t, l, l.TCP...)
	for _, there := range []string{there4, there6, thereMapped} {
		family := unix.AF_INET6
		if there == there4 {
			family = unix.AF_INET
		}
		asked := w.answer(Refuse)
		if errno := a.connect(a.socket(family, unix.SOCK_STREAM), there); errno != unix.ECONNREFUSED {
			t.Errorf("connect to %s, whose upstream refuses: %v, want ECONNREFUSED", there, errno)
		}
		if r := (<-asked).Record; r.Token == 0 || r.PolicyID != lowPolicy || r.Original.Port() != 5432 {
			t.Errorf("asked %+v", r)
		}
		none(t, records)
		asked = w.answer(Go)
		fd := a.socket(family, unix.SOCK_STREAM)
		if errno := a.connect(fd, there); errno != 0 {
			t.Fatalf("connect to %s, whose upstream answers: %v", there, errno)
		}
		a.talk(fd)
		if r := next(t, records); r.Token != (<-asked).Record.Token {
			t.Errorf("the record %+v is not the one that asked", r)
		}
	}
}

// Without an answer a connection goes on to the gateway, soon.
func TestConnectDoesNotWaitForever(t *testing.T) {
	_, a, l := foretelling(t)
	records := echo(t, l, l.TCP...)
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	if errno := a.connect(fd, there4); errno != 0 {
		t.Fatalf("connect: %v", errno)
	}
	a.talk(fd)
	next(t, records)
}

// An upstream that takes its time is waited for as long as the agent does.
func TestConnectWaitsForASlowUpstream(t *testing.T) {
	w, a, l := foretelling(t)
	records := echo(t, l, l.TCP...)
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	asked := w.answer(Wait)
	answered, done := make(chan time.Time, 1), make(chan struct{})
	defer func() { <-done }()
	go func() {
		defer close(done)
		token := (<-asked).Record.Token
		time.Sleep(time.Second)
		answered <- time.Now()
		if err := w.kernel.Answer(token, Go, 0); err != nil {
			t.Error(err)
		}
	}()
	a.call(call{Op: "setsockopt_timeout", FD: fd, A: 20})
	if errno := a.connect(fd, there4); errno != 0 {
		t.Fatalf("connect: %v", errno)
	}
	select {
	case <-answered:
	default:
		t.Error("connected before the upstream was known to answer")
	}
	a.talk(fd)
	next(t, records)
}

// What came of a destination a moment ago need not be found out again.
func TestDestinationIsRemembered(t *testing.T) {
	w, a, l := foretelling(t)
	records := echo(t, l, l.TCP...)
	to := netip.MustParseAddrPort(there4)
	for _, want := range []unix.Errno{unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EACCES, unix.ETIMEDOUT} {
		w.must(w.kernel.Remember(lowPolicy, to, want, time.Minute))
		if errno := a.connect(a.socket(unix.AF_INET, unix.SOCK_STREAM), there4); errno != want {
			t.Errorf("connect: %v, want %v", errno, want)
		}
	}
	none(t, records)
	w.must(w.kernel.Remember(lowPolicy, to, 0, time.Minute))
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	if errno := a.connect(fd, there4); errno != 0 {
		t.Fatalf("connect to what answers: %v", errno)
	}
	a.talk(fd)
	next(t, records)
	w.must(w.kernel.Remember(lowPolicy, to, unix.ECONNREFUSED, -time.Second))
	asked := w.answer(Go)
	if errno := a.connect(a.socket(unix.AF_INET, unix.SOCK_STREAM), there4); errno != 0 {
		t.Errorf("connect when what was known is old: %v", errno)
	}
	<-asked
	if stats, err := w.kernel.Stats(); err != nil || stats[Unreachable] != 5 {
		t.Errorf("stats %v, %v", stats, err)
	}
}

// While the glass is broken agents go where they want; afterwards what they
// had open is dead.
func TestBrokenGlass(t *testing.T) {
	w := newWorld(t)
	cgroup, id := w.cgroup("agent", lowPolicy)
	other, _ := w.cgroup("other", highPolicy)
	w.listen(lowPolicy)
	w.listen(highPolicy)
	var server net.Listener
	w.must(w.outside.InFar(func() (err error) {
		server, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: outside4.AsSlice()})
		return err
	}))
	defer server.Close()
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte("outside"))
			defer conn.Close()
		}
	}()
	a := w.agent(cgroup)
	w.must(w.kernel.BreakGlass(id, 2*time.Second))
	if broken, err := w.kernel.Broken(); err != nil || len(broken) != 1 || time.Until(broken[id]) > 2*time.Second {
		t.Errorf("broken: %v, %v", broken, err)
	}
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	if errno := a.connect(fd, server.Addr().String()); errno != 0 {
		t.Fatalf("connect through broken glass: %v", errno)
	}
	if data, _, errno := a.recv(fd); data != "outside" {
		t.Fatalf("received %q, %v", data, errno)
	}
	if e := w.event(func(e Event) bool { return e.Kind == Glass }); e.Remote.String() != server.Addr().String() || e.TGID == 0 {
		t.Errorf("event %+v", e)
	}
	b := w.agent(other)
	if errno := b.connect(b.socket(unix.AF_INET, unix.SOCK_STREAM), server.Addr().String()); errno != 0 {
		t.Errorf("another agent is not redirected: %v", errno)
	}
	w.must(w.kernel.BreakGlass(id, 0))
	if errno := a.connect(a.socket(unix.AF_INET, unix.SOCK_STREAM), server.Addr().String()); errno != 0 {
		t.Errorf("connect after the glass was mended: %v", errno)
	}
	stats, err := w.kernel.Stats()
	w.must(err)
	before := stats[Egress]
	a.sendto(fd, "more", "", 0)
	if data, _, errno := a.recv(fd); errno != unix.EAGAIN {
		t.Errorf("received %q, %v after the glass was mended", data, errno)
	}
	if stats, err = w.kernel.Stats(); err != nil || stats[Egress] == before || stats[Glass] != 1 {
		t.Errorf("stats %v, %v", stats, err)
	}
}

// TestGlassIsMendedForAll: who ends it for everybody ends it for single agents too.
func TestGlassIsMendedForAll(t *testing.T) {
	w := newWorld(t)
	_, one := w.cgroup("agent", lowPolicy)
	_, two := w.cgroup("other", highPolicy)
	for _, id := range []uint64{one, two, Everybody} {
		w.must(w.kernel.BreakGlass(id, time.Hour))
	}
	w.must(w.kernel.BreakGlass(one, 0))
	if broken, err := w.kernel.Broken(); err != nil || len(broken) != 2 {
		t.Errorf("after one agent's was mended: %v, %v", broken, err)
	}
	w.must(w.kernel.BreakGlass(Everybody, 0))
	if broken, err := w.kernel.Broken(); err != nil || len(broken) != 0 {
		t.Errorf("after all was mended: %v, %v", broken, err)
	}
}

// It ends by itself.
func TestBrokenGlassEnds(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	w.listen(lowPolicy)
	a := w.agent(cgroup)
	w.must(w.kernel.BreakGlass(Everybody, time.Millisecond))
	time.Sleep(5 * time.Millisecond)
	if errno := a.connect(a.socket(unix.AF_INET, unix.SOCK_STREAM), net.JoinHostPort(outside4.String(), "9")); errno != 0 {
		t.Errorf("connect: %v, want the gateway", errno)
	}
	if broken, err := w.kernel.Broken(); err != nil || len(broken) != 0 {
		t.Errorf("broken: %v, %v", broken, err)
	}
	w.quiet()
}

// Over the rate of connections a policy is denied, and others are not.
func TestFloodIsDenied(t *testing.T) {
	w := newWorld(t)
	cgroup, id := w.cgroup("agent", lowPolicy)
	other, _ := w.cgroup("other", highPolicy)
	w.listen(lowPolicy)
	w.listen(highPolicy)
	a, b := w.agent(cgroup), w.agent(other)
	paces, err := ebpf.LoadPinnedMap(filepath.Join(w.options.maps(), bpf.PosternMapPaces), nil)
	w.must(err)
	defer paces.Close()
	// As if it had made the connections of this second and the next ones.
	var now unix.Timespec
	w.must(unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	denied := unix.Errno(0)
	for second := uint64(now.Sec); denied == 0 && second < uint64(now.Sec)+10; second++ {
		w.must(paces.Put(id, bpf.PosternLimit{Second: second, Sent: 20_000}))
		denied = a.connect(a.socket(unix.AF_INET, unix.SOCK_STREAM), there4)
	}
	if denied != unix.EPERM {
		t.Errorf("connect over the rate: %v, want EPERM", denied)
	}
	if e := w.event(func(e Event) bool { return e.Kind == Flood }); e.PolicyCgroupID != id {
		t.Errorf("event %+v", e)
	}
	if errno := b.connect(b.socket(unix.AF_INET, unix.SOCK_STREAM), there4); errno != 0 {
		t.Errorf("another agent's connect: %v", errno)
	}
	w.must(paces.Put(id, bpf.PosternLimit{Second: 1, Sent: 20_000}))
	if errno := a.connect(a.socket(unix.AF_INET, unix.SOCK_STREAM), there4); errno != 0 {
		t.Errorf("connect in another second: %v", errno)
	}
}
