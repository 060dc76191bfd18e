package containers

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/internal/bypass/outside"
)

// networks are those that an operator chooses from.
var networks = []string{"none", "bridge", "host"}

// each runs a test with every engine in every network, in a container that
// stays while it lasts.
func each(t *testing.T, f func(t *testing.T, e engine, b box, id string)) {
	for _, e := range theWorld.engines {
		for _, network := range networks {
			t.Run(e.name()+"/"+network, func(t *testing.T) {
				b := box{name: strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")), network: network}
				id, err := e.up(b)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := e.remove(b.name); err != nil {
						t.Error(err)
					}
				})
				f(t, e, b, id)
			})
		}
	}
}

// TestDatabase: a container reaches PostgreSQL by placeholder, by name and by
// address, and nothing is sent anywhere else.
func TestDatabase(t *testing.T) {
	w := theWorld
	w.quiet(t)
	each(t, func(t *testing.T, e engine, b box, _ string) {
		for host, verify := range map[string]string{"orders-db.internal": "verify-full", outside.Far4.String(): "verify-full"} {
			out, err := output(e.in(b.name, "/bin/client", "query", dsn(host, verify), "SELECT current_user::text"))
			if err != nil || out != "orders_rw" {
				t.Errorf("by %s: %q, %v", host, out, err)
			}
		}
		out, err := output(e.in(b.name, "/bin/client", "query", dsn("orders-db.internal", "verify-full"), "CREATE TABLE t (i int)"))
		if err == nil {
			t.Errorf("a statement that the policy denies: %q", out)
		}
		w.quiet(t)
	})
}

// TestOnlyTheDatabase: everything else is closed, for root in a container with
// the capabilities that its engine gives it.
func TestOnlyTheDatabase(t *testing.T) {
	w := theWorld
	w.quiet(t)
	each(t, func(t *testing.T, e engine, b box, _ string) {
		var attempts []string
		for _, network := range []string{"tcp", "udp"} {
			for _, port := range []uint16{53, 80, 443, 853, 1900} {
				attempts = append(attempts, network+"/"+netip.AddrPortFrom(outside.Far4, port).String(),
					network+"/"+netip.AddrPortFrom(outside.Far6, port).String())
			}
			for _, host := range []string{"127.0.0.1", "[::1]", "192.0.2.1", outside.Near4.String()} {
				attempts = append(attempts, fmt.Sprintf("%s/%s:%d", network, host, w.port))
			}
		}
		for _, kind := range []string{"raw", "icmp", "raw6", "ping", "udplite"} {
			attempts = append(attempts, "socket/"+kind)
		}
		out, err := output(e.in(b.name, append([]string{"/bin/client", "out"}, attempts...)...))
		if err != nil {
			t.Fatal(err)
		}
		if tried := lines(out); len(tried) != len(attempts) {
			t.Fatalf("%d attempts, and of these came back\n%s", len(attempts), out)
		}
		for _, line := range lines(out) {
			// At port 53 it is the gateway's resolver that answers, whoever was asked.
			if strings.Contains(line, " OPEN ") && !strings.Contains(line, ":53 OPEN ") || strings.Contains(line, banner) {
				t.Error(line)
			}
		}
		w.quiet(t)
	})
}

// TestNothingComesIn: a container's server is reached neither from the host
// over the bridge nor from outside.
func TestNothingComesIn(t *testing.T) {
	w := theWorld
	for _, e := range w.engines {
		t.Run(e.name(), func(t *testing.T) {
			b := box{name: "serves-" + e.name(), network: "bridge"}
			if _, err := e.up(b); err != nil {
				t.Fatal(err)
			}
			defer e.remove(b.name)
			server := e.in(b.name, "/bin/client", "listen", "3000")
			out, err := server.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
			defer server.Wait()
			defer server.Process.Kill()
			said := make([]byte, 64)
			if n, err := out.Read(said); err != nil || !strings.HasPrefix(string(said[:n]), "listening") {
				t.Fatalf("%q, %v", said[:n], err)
			}
			own, err := output(e.in(b.name, "/bin/client", "out", "tcp/127.0.0.1:3000"))
			if err != nil || !strings.Contains(own, "a container serves") {
				t.Errorf("its own loopback is the container's: %q, %v", own, err)
			}
			address, err := output(e.in(b.name, "/bin/busybox", "ip", "-4", "-o", "addr", "show", "eth0"))
			if err != nil {
				t.Fatal(err)
			}
			at := strings.Split(strings.Fields(address)[3], "/")[0] + ":3000"
			if heard, err := dialHost(at); err == nil {
				t.Errorf("the host reached %s: %q", at, heard)
			}
		})
	}
}

// TestFirstLookup: the first datagram of a fresh container is answered. Lost
// ones would cost five seconds, which is when resolvers ask again.
func TestFirstLookup(t *testing.T) {
	const rounds = 5
	for _, e := range theWorld.engines {
		for _, network := range networks {
			t.Run(e.name()+"/"+network, func(t *testing.T) {
				for i := range rounds {
					b := box{name: fmt.Sprintf("first-%s-%s-%d", e.name(), network, i), network: network}
					began := time.Now()
					out, err := output(e.run(b, "/bin/client", "lookup", "orders-db.internal"))
					took := time.Since(began)
					if e.name() == "runc" {
						e.remove(b.name)
					}
					if err != nil {
						t.Fatalf("%v\n%s", err, theWorld.log(t))
					}
					fields := strings.Fields(out)
					t.Logf("the lookup took %s; start to end %s", fields[1], took.Round(time.Millisecond))
					if lookup, err := time.ParseDuration(fields[1]); err != nil || lookup > time.Second {
						t.Errorf("the first lookup took %s", fields[1])
					}
				}
			})
		}
	}
}
