package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/dns"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/policy"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wire"
	"github.com/postern/postern/pkg/recording"
)

// An agent may know the names of the targets that its policy opens, and of all
// while it is observed; and that there is something above them.
func TestSees(t *testing.T) {
	w := newWorld(t)
	s := w.setup(func(s *Setup) {
		s.Targets[0].Hosts = append(s.Targets[0].Hosts, HostPort{"db.one.example", 5432})
		s.Targets = append(s.Targets,
			&Target{Name: "other", Hosts: []HostPort{{"other-db", 5432}, {"db.two.example", 5432}, {"*.wild.example", 5432}, {"192.0.2.9", 5432}}})
		s.Agents["observed"] = &Agent{Policy: w.policy(), Observe: true, Until: time.Now().Add(time.Hour)}
		s.Agents["no longer"] = &Agent{Policy: w.policy(), Observe: true, Until: time.Now()}
	})
	for _, c := range []struct {
		agent, name string
		want        dns.Grant
	}{
		{"planner", "orders-db", dns.Fixed},
		{"planner", "other-db", dns.Unknown},
		{"planner", "elsewhere", dns.Unknown},
		{"planner", "one.example", dns.Above},
		{"planner", "example", dns.Above},
		{"planner", "two.example", dns.Unknown},
		{"planner", "a.wild.example", dns.Unknown},
		{"planner", "wild.example", dns.Unknown},
		{"planner", "", dns.Unknown},
		{"stranger", "orders-db", dns.Unknown},
		{"observed", "other-db", dns.Fixed},
		{"observed", "two.example", dns.Above},
		{"observed", "a.wild.example", dns.Wild},
		{"observed", "wild.example", dns.Above},
		{"observed", "192.0.2.9", dns.Fixed}, // asked as a name it is none before this is asked
		{"observed", "elsewhere", dns.Unknown},
		{"no longer", "other-db", dns.Unknown},
		{"no longer", "a.wild.example", dns.Unknown},
	} {
		if got := s.Sees(c.agent, c.name); got != c.want {
			t.Errorf("%s sees %s: %d, want %d", c.agent, c.name, got, c.want)
		}
	}
}

// A name that is listed beats a wildcard, and of wildcards the longest counts,
// port by port; what an agent may know of a name follows from that.
func TestWildcards(t *testing.T) {
	w := newWorld(t)
	target := func(name string, hosts ...HostPort) *Target { return &Target{Name: name, Hosts: hosts} }
	s := w.setup(func(s *Setup) {
		s.Targets = []*Target{
			target("all", HostPort{"*.corp.example", 5432}),
			target("db", HostPort{"*.db.corp.example", 5432}, HostPort{"*.db.corp.example", 6432}),
			target("one", HostPort{"one.db.corp.example", 5432}),
			target("real", HostPort{"*.real.corp.example", 5432}),
			target("hidden", HostPort{"hidden.corp.example", 5432}),
		}
		s.Targets[3].Real = true
		for name, visible := range map[string][]string{"planner": {"all", "db", "one", "real"}, "coder": {"db"}} {
			var rules []policy.Rule
			for _, v := range visible {
				rules = append(rules, policy.Rule{Name: v, Target: v, Verbs: []string{"read"}, Allow: true})
			}
			byTarget := map[string]engine.Protocol{}
			for _, v := range s.Targets {
				byTarget[v.Name] = w.lines.protocol()
			}
			set, problems := policy.Compile(policy.Config{Policies: []policy.Source{{Name: "p", Rules: rules}}}, byTarget)
			if set == nil {
				t.Fatal(problems)
			}
			p, _ := set.Policy("p")
			s.Agents[name] = &Agent{Policy: p}
		}
	})
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		name           string
		port           uint16
		target         string
		planner, coder dns.Grant
	}{
		{"a.corp.example", 5432, "all", dns.Wild, dns.Unknown},
		{"a.b.corp.example", 5432, "all", dns.Wild, dns.Unknown},
		{"a.corp.example", 6432, "", dns.Wild, dns.Unknown},
		{"a.db.corp.example", 5432, "db", dns.Wild, dns.Wild},
		{"a.db.corp.example", 6432, "db", dns.Wild, dns.Wild},
		{"db.corp.example", 5432, "all", dns.Wild, dns.Above},
		{"one.db.corp.example", 5432, "one", dns.Fixed, dns.Fixed}, // for the coder by its other port
		{"one.db.corp.example", 6432, "db", dns.Fixed, dns.Fixed},
		{"a.real.corp.example", 5432, "real", dns.Real, dns.Unknown},
		{"hidden.corp.example", 5432, "hidden", dns.Unknown, dns.Unknown}, // the wildcard does not open it
		{"corp.example", 5432, "", dns.Above, dns.Above},
		{"xcorp.example", 5432, "", dns.Unknown, dns.Unknown},
		{"a.corp.example.org", 5432, "", dns.Unknown, dns.Unknown},
	} {
		found := s.target(engine.Flow{Name: c.name, Original: netip.AddrPortFrom(netip.MustParseAddr("198.19.0.1"), c.port)})
		if got := nameOf(found); got != c.target {
			t.Errorf("%s:%d is of target %q, want %q", c.name, c.port, got, c.target)
		}
		if planner, coder := s.Sees("planner", c.name), s.Sees("coder", c.name); planner != c.planner || coder != c.coder {
			t.Errorf("%s is seen as %d and %d, want %d and %d", c.name, planner, coder, c.planner, c.coder)
		}
	}
}

func nameOf(t *Target) string {
	if t == nil {
		return ""
	}
	return t.Name
}

func TestCheck(t *testing.T) {
	at := func(host string, port uint16) *Target { return &Target{Hosts: []HostPort{{host, port}}} }
	realAddresses := func(t *Target) *Target { t.Real = true; return t }
	for _, c := range []struct {
		targets []*Target
		wrong   string
	}{
		{[]*Target{at("a", 1), at("a", 2), at("b", 1), at("*.a", 1), at("*.b.a", 1), at("x.a", 1)}, ""},
		{[]*Target{at("a", 1), at("a", 1)}, "two targets have the host a:1"},
		{[]*Target{at("*.a", 1), at("*.a", 1)}, "two targets have the host *.a:1"},
		{[]*Target{at("*.a", 1), realAddresses(at("*.a", 2))}, "the name *.a, one of them with real_addresses"},
		{[]*Target{realAddresses(at("a", 1)), at("a", 2)}, "the name a, one of them with real_addresses"},
		{[]*Target{realAddresses(at("a", 1)), realAddresses(at("a", 2)), at("*.a", 1)}, ""},
		{[]*Target{realAddresses(at("192.0.2.1", 1)), at("192.0.2.1", 2)}, ""},
	} {
		err := (&Setup{Targets: c.targets}).Check()
		if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%v, want %q", err, c.wrong)
		}
	}
}

// told is what an agent was told, kept nowhere.
func told(t *testing.T) *dns.Told {
	t.Helper()
	m, err := dns.OpenMemory(t.TempDir(), slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	return m.Of("planner")
}

// The name behind an address is the one that the agent was told it for. Where
// that is names of different targets, it is nobody's.
func TestMeant(t *testing.T) {
	table, err := dns.NewTable([]string{"orders-db"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &Setup{Names: table, Targets: []*Target{
		{Name: "a", Real: true, Hosts: []HostPort{{"a1", 5432}, {"a2", 5432}}},
		{Name: "b", Real: true, Hosts: []HostPort{{"b1", 5432}, {"b1", 6432}}},
		{Name: "c", Hosts: []HostPort{{"192.0.2.3", 5432}, {"192.0.2.1", 7432}, {"*.corp.example", 5432}}},
		{Name: "d", Real: true, Hosts: []HostPort{{"d1", 5432}, {"192.0.2.4", 5432}}},
	}}
	memory, now := told(t), time.Now()
	tell := func(name string, ago time.Duration, addresses ...string) {
		for _, a := range addresses {
			memory.Tell(name, []netip.Addr{netip.MustParseAddr(a)}, now.Add(-ago))
		}
	}
	fixed4, fixed6, _ := table.Addresses("orders-db")
	wild := memory.Virtual("w.corp.example")
	tell("a1", 3*time.Second, "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.5")
	tell("a2", 2*time.Second, "192.0.2.1")
	tell("b1", time.Second, "192.0.2.2", "192.0.2.6")
	tell("b1", 10*time.Minute, "192.0.2.5", "192.0.2.7")
	tell("a1", 20*time.Minute, "192.0.2.6", "192.0.2.7")
	tell("d1", time.Second, "192.0.2.4")
	for at, want := range map[string]string{
		fixed4.String() + ":5432":       "orders-db",
		"[" + fixed6.String() + "]:443": "orders-db",
		wild.String() + ":5432":         "w.corp.example",
		"198.19.255.1:5432":             "",   // nobody was told it
		"192.0.2.1:5432":                "a2", // the newest; both names are of one target
		"192.0.2.1:7432":                "",   // listed
		"192.0.2.1:8432":                "a2", // of no target, which is told by name
		"[::ffff:192.0.2.1]:5432":       "a2",
		"192.0.2.2:5432":                "? b1, a1",
		"192.0.2.2:6432":                "b1", // only one of them has this port
		"192.0.2.3:5432":                "? a1, 192.0.2.3",
		"192.0.2.4:5432":                "d1", // told and listed, of one target
		"192.0.2.5:5432":                "a1", // the other answer has expired
		"192.0.2.6:5432":                "b1",
		"192.0.2.7:5432":                "? b1, a1", // both have
		"192.0.2.99:5432":               "",
	} {
		name, unclear := s.Meant(memory, netip.MustParseAddrPort(at))
		if unclear != "" {
			name += "? " + unclear
		}
		if name != want {
			t.Errorf("%s is %q, want %q", at, name, want)
		}
	}
}

// A connection whose name is not clear, or no longer known, is refused, and its
// record says what to do.
func TestUnclearNameIsRefused(t *testing.T) { synctest.Test(t, testUnclearNameIsRefused) }

func testUnclearNameIsRefused(t *testing.T) {
	w := newWorld(t)
	at := netip.MustParseAddrPort("192.0.2.2:5432")
	for session, c := range map[string]struct {
		flow engine.Flow
		why  string
	}{
		"s1": {engine.Flow{Unclear: "b1, a1", Original: at}, "192.0.2.2:5432 is the address of different targets: b1, a1"},
		"s2": {engine.Flow{Original: netip.MustParseAddrPort("198.19.3.4:5432")}, "no name has the address 198.19.3.4 (any more)"},
		"s3": {engine.Flow{Name: "a.corp.example", Original: at}, "no target is configured for a.corp.example:5432"},
		"s4": {engine.Flow{Original: at}, "no target is configured for 192.0.2.2:5432"},
	} {
		c.flow.Session, c.flow.Agent = session, "planner"
		client := w.connectWith(&claimed{flow: c.flow})
		client.ends()
		w.gateway.running.Wait()
		w.recorded(session, "opened planner ", "denial 0 policy ", "end "+c.why)
	}
}

// Below a wildcard the gateway dials the very name that was asked for, resolves
// it at that moment, checks what it finds, and verifies that name.
func TestWildcardIsDialledByTheNameAsked(t *testing.T) {
	verified := make(chan string, 2)
	w := newWorld(t, func(s *Setup) {
		s.Targets[0].Hosts = append(s.Targets[0].Hosts, HostPort{"*.corp.example", 5433})
		s.Targets[0].Credential = func(context.Context, *engine.Flow) (secret.Credential, error) { return secret.Credential{}, nil }
		s.Targets[0].ClientTLS = func(host string) *tls.Config { verified <- host; return nil }
	})
	var mu sync.Mutex
	var asked, dialled []string
	w.gateway.Dialer.Lookup = func(_ context.Context, network, name string) ([]netip.Addr, error) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, name)
		switch {
		case network == "ip6":
			return nil, errors.New("none")
		case name == "evil.corp.example.":
			return []netip.Addr{netip.MustParseAddr("169.254.169.254")}, nil
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.1.2.3")}, nil
	}
	w.gateway.Dialer.Connect = func(_ context.Context, at netip.AddrPort) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		dialled = append(dialled, at.String())
		near, far := net.Pipe()
		far.Close()
		return near, nil
	}
	told := make(chan error, 1)
	w.lines.relay = func(ctx context.Context, _ *wire.Conn, up engine.Upstream, _ engine.Gate) error {
		conn, _, err := up.Conn(ctx)
		if err == nil {
			conn.Close()
		}
		told <- err
		return err
	}
	for i, name := range []string{"shard7.corp.example", "evil.corp.example"} {
		c := w.connectWith(&claimed{flow: engine.Flow{
			Session: fmt.Sprint("s", i), Agent: "planner", Name: name, Original: netip.MustParseAddrPort("198.19.0.8:5433"),
		}})
		c.says("hello app")
		c.hears("welcome")
		c.ends()
		if err := <-told; (err == nil) != (i == 0) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.gateway.running.Wait()
	if got := fmt.Sprint(dialled); got != "[10.1.2.3:5433]" {
		t.Error("dialled", got)
	}
	if got := strings.Join(asked, " "); got != "shard7.corp.example. shard7.corp.example. evil.corp.example. evil.corp.example." {
		t.Error("looked up", got)
	}
	if got := <-verified; got != "shard7.corp.example" || len(verified) != 0 {
		t.Error("verified", got)
	}
	if got := w.upstreamOf("s0"); got != "10.1.2.3:5433" {
		t.Error("on record is", got)
	}
}

// upstreamOf is the address that a session's record says was dialled.
func (w *world) upstreamOf(session string) string {
	r, err := recording.Open(w.path(session))
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	for ev, err := r.Next(); err == nil; ev, err = r.Next() {
		if u, ok := ev.Body.(*recording.Upstream); ok {
			return u.Address
		}
	}
	return ""
}
