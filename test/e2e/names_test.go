package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern/postern/internal/bypass/outside"
	"github.com/postern/postern/pkg/recording"
	"github.com/postern/postern/test/servers"
)

// at is psql of an agent, by a name on the port where PostgreSQL really is.
func (w *world) at(agent, host, statement string) (string, error) {
	cmd := w.agent(agent, "orders", "psql", "-X", "-A", "-t", "-c", statement)
	cmd.Env = append(cmd.Env, "PGHOST="+host, fmt.Sprint("PGPORT=", w.pg.Port))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// addresses are what an agent's getaddrinfo finds.
func (w *world) addresses(agent, host string) (string, error) {
	out, err := w.postern.Run(agent, "getent", "ahosts", host).CombinedOutput()
	return string(out), err
}

// dialled are the sessions of a target on record: name dialled and address
// reached.
func (w *world) dialled(t *testing.T, target string) (out []string) {
	t.Helper()
	for s, err := range recording.Sessions(filepath.Join(w.postern.State, "recordings"), recording.Filter{Agent: "planner"}) {
		if err != nil {
			t.Fatal(err)
		}
		name := ""
		for _, e := range w.events(t, s.Path) {
			switch b := e.Body.(type) {
			case *recording.Opened:
				if b.Target == target {
					name = b.Name
				}
			case *recording.Upstream:
				if name != "" {
					out = append(out, name+" "+b.Address)
				}
			}
		}
	}
	return out
}

// TestWildcardNames: a run finds a name below a wildcard by getaddrinfo, reaches
// the database through it with a certificate for that very name, and the gateway
// dials what the host's name server says at that moment.
func TestWildcardNames(t *testing.T) {
	w := theWorld
	const name = "shard7.wild.internal"
	out, err := w.addresses("planner", name)
	if err != nil {
		t.Fatal(err, out)
	}
	mustContain(t, out, "198.19.", "fd50:6f73:7465::")
	if n := w.names.Asked()[name]; n != 0 {
		t.Errorf("the name left the host %d times before anybody dialled", n)
	}
	again, err := w.addresses("planner", strings.ToUpper(name))
	if first := strings.Fields(out)[0]; err != nil || !strings.Contains(again, first) {
		t.Errorf("first %s, then %s, %v", first, again, err)
	}
	out, err = w.at("planner", name, "SELECT name FROM customers WHERE id = 1")
	if err != nil || strings.TrimSpace(out) != "Ada" {
		t.Fatalf("%v: %s\n%s", err, out, w.daemonLog())
	}
	if w.names.Asked()[name] == 0 {
		t.Error("the gateway did not resolve the name")
	}
	reached := fmt.Sprint(w.dialled(t, "wild"))
	if !strings.Contains(reached, name+" "+netip.AddrPortFrom(outside.Near6, uint16(w.pg.Port)).String()) {
		t.Errorf("on record is %s", reached)
	}
	if out, err := w.at("planner", "evil.wild.internal", "SELECT 1"); err == nil {
		t.Errorf("a name that leads to loopback was dialled: %s", out)
	}
	if out, err := w.addresses("reader", name); err == nil {
		t.Errorf("the reader may know a wildcard that its policy does not open: %s", out)
	}
	if out, err := w.addresses("planner", "wild.internal"); err == nil {
		t.Errorf("the wildcard's own suffix has addresses: %s", out)
	}
}

// TestRealAddresses: a run is told where a name really is, reaches the database
// there, and two targets at one address are not mixed up.
func TestRealAddresses(t *testing.T) {
	w := theWorld
	out, err := w.addresses("planner", "real-db.internal")
	if err != nil {
		t.Fatal(err, out)
	}
	mustContain(t, out, outside.Near4.String(), outside.Near6.String())
	mustNotContain(t, out, "127.0.0.1", "198.1", "fd50:")
	out, err = w.at("planner", "real-db.internal", "SELECT name FROM customers WHERE id = 1")
	if err != nil || strings.TrimSpace(out) != "Ada" {
		t.Fatalf("%v: %s\n%s", err, out, w.daemonLog())
	}
	reached := fmt.Sprint(w.dialled(t, "real"))
	mustContain(t, reached, "real-db.internal ", fmt.Sprint(":", w.pg.Port))
	// The reader was told nothing: for it the address is nobody's.
	if out, err := w.at("reader", outside.Near4.String(), "SELECT 1"); err == nil {
		t.Errorf("the reader reached a bare address: %s", out)
	}
	w.names.Set("twin-db.internal", outside.Near4)
	if out, err := w.addresses("planner", "twin-db.internal"); err != nil || !strings.Contains(out, outside.Near4.String()) {
		t.Fatal(out, err)
	}
	if out, err := w.at("planner", outside.Near4.String(), "SELECT 1"); err == nil {
		t.Errorf("an address of two targets was taken for one: %s", out)
	}
	mustContain(t, w.daemonLog(), "is the address of different targets: twin-db.internal, real-db.internal")
	mustContain(t, w.metrics(t), "postern_dns_refused_total")
}

// TestResolvConfIsFollowed: the gateway asks the name servers that the host has
// now (a VPN came up), without a restart.
func TestResolvConfIsFollowed(t *testing.T) {
	w := theWorld
	const name = "later.wild.internal"
	vpn, err := servers.StartNames("127.0.0.54:53", map[string][]netip.Addr{name: {outside.Near4}})
	if err != nil {
		t.Fatal(err)
	}
	defer vpn.Stop()
	if out, err := w.at("planner", name, "SELECT 1"); err == nil {
		t.Fatal("it is known already:", out)
	}
	use := func(server string) {
		if err := os.WriteFile(w.resolv, []byte("search corp.example\noptions ndots:5\nnameserver "+server+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	use("127.0.0.54")
	defer use(nameServer)
	var out string
	for deadline := time.Now().Add(30 * time.Second); ; {
		if out, err = w.at("planner", name, "SELECT 1"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v: %s\n%s", err, out, w.daemonLog())
		}
	}
	for asked := range vpn.Asked() {
		if asked != name {
			t.Errorf("the search list was hung onto it: %s", asked)
		}
	}
}

// TestNamesOutliveTheDaemon: a runtime that keeps what it resolved reaches the
// database after a crash of the daemon, without asking again; and the address
// of a name is the same.
func TestNamesOutliveTheDaemon(t *testing.T) {
	w := theWorld
	const name = "shard9.wild.internal"
	w.names.Set(name, outside.Near4)
	before, err := w.addresses("planner", name)
	if err != nil {
		t.Fatal(before, err)
	}
	kept := filepath.Join(w.postern.State, "names", "planner.json")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if b, _ := os.ReadFile(kept); strings.Contains(string(b), name) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("what the agent was told is not kept")
		}
	}
	w.postern.StopDaemon(syscall.SIGKILL) //nolint:errcheck // it says that it was killed
	if err := w.postern.StartDaemon(); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"198.19.", "fd50:"} {
		i := strings.Index(before, address)
		if i < 0 {
			t.Fatal(before)
		}
		cmd := w.agent("planner", "orders", "psql", "-X", "-A", "-t", "-c", "SELECT name FROM customers WHERE id = 1")
		cmd.Env = append(cmd.Env, "PGHOST="+name, "PGHOSTADDR="+strings.Fields(before[i:])[0], fmt.Sprint("PGPORT=", w.pg.Port))
		if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "Ada" {
			t.Errorf("%v: %s\n%s", err, out, w.daemonLog())
		}
	}
	if after, err := w.addresses("planner", name); err != nil || after != before {
		t.Errorf("%s, then %s, %v", before, after, err)
	}
}
