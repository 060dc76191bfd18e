package dns

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// world is a server and what it refused.
type world struct {
	*Server
	mu       sync.Mutex
	refusals []string
}

// outsideNames are what the host's resolver of these tests knows.
var outsideNames = map[string][]string{
	"real.internal 4":  {"192.0.2.7", "192.0.2.8"},
	"real.internal 6":  {"2001:db8::7"},
	"only4.internal 4": {"192.0.2.9"},
}

func grants(name string) Grant {
	switch {
	case name == "orders-db.internal", name == "under_score.internal", name == long:
		return Fixed
	case strings.HasSuffix(name, ".corp.example"):
		return Wild
	case name == "real.internal", name == "only4.internal", name == "down.internal", name == "inside.internal", strings.HasSuffix(name, ".many.internal"):
		return Real
	case name == "internal", name == "example", name == "corp.example":
		return Above
	}
	return Unknown // hidden.internal too
}

// long is a name of 253 characters with labels of 63.
var long = strings.Repeat(strings.Repeat("l", 63)+".", 3) + strings.Repeat("m", 61)

func newWorld(t testing.TB, change ...func(*Options)) *world {
	t.Helper()
	table, err := NewTable([]string{"orders-db.internal", "hidden.internal", "under_score.internal", long}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{}
	o := Options{
		Agent: "planner", Grant: grants, Table: func() *Table { return table }, Told: newTold(maxTold, nil),
		Lookup: func(_ context.Context, name string, ipv6 bool) ([]netip.Addr, error) {
			key := name + " 4"
			if ipv6 {
				key = name + " 6"
			}
			switch {
			case name == "down.internal":
				return nil, &net.DNSError{Err: "server misbehaving", Name: name}
			case name == "inside.internal":
				return nil, nil
			case outsideNames[key] == nil:
				return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
			}
			var found []netip.Addr
			for _, a := range outsideNames[key] {
				found = append(found, netip.MustParseAddr(a))
			}
			return found, nil
		},
		Refused: func(why Refusal) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.refusals = append(w.refusals, string(why))
		},
	}
	for _, c := range change {
		c(&o)
	}
	w.Server = New(o)
	return w
}

func (w *world) refusedSince() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := strings.Join(w.refusals, " ")
	w.refusals = nil
	return out
}

// whole answers in wire form, whatever has to be waited for.
func (w *world) whole(ctx context.Context, query []byte, udp bool) []byte {
	answer, wait := w.reply(query, udp)
	if wait != nil {
		return wait(ctx)
	}
	return answer
}

func (w *world) asks(t testing.TB, q *dns.Msg, udp bool) *dns.Msg {
	t.Helper()
	packed, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer := w.whole(t.Context(), packed, udp)
	if answer == nil {
		return nil
	}
	var a dns.Msg
	if err := a.Unpack(answer); err != nil {
		t.Fatalf("%x: %v", answer, err)
	}
	if a.Id != q.Id || !a.Response {
		t.Errorf("answer %v to %v", a.MsgHdr, q.MsgHdr)
	}
	return &a
}

func question(name string, qtype uint16) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	return q
}

// data is what an answer says, in short.
func data(a *dns.Msg) string {
	var out []string
	for _, rr := range a.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			out = append(out, rr.A.String())
		case *dns.AAAA:
			out = append(out, rr.AAAA.String())
		case *dns.PTR:
			out = append(out, rr.Ptr)
		default:
			out = append(out, rr.String())
		}
	}
	return strings.Join(out, " ")
}

func (w *world) table(name string) (string, string) {
	v4, v6, _ := w.Table().Addresses(name)
	return v4.String(), v6.String()
}

// served runs the server on loopback and returns its addresses.
func (w *world) served(t *testing.T) (udp, tcp string) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		w.Run(ctx, []net.PacketConn{c}, []net.Listener{l}, func(netip.AddrPort) bool { return true }, nil)
		close(done)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return c.LocalAddr().String(), l.Addr().String()
}

func TestOverUDPAndTCP(t *testing.T) {
	w := newWorld(t)
	udp, tcp := w.served(t)
	v4, _ := w.table("orders-db.internal")
	for network, at := range map[string]string{"udp": udp, "tcp": tcp} {
		for name, want := range map[string]string{
			"orders-db.internal.": v4, "shard7.corp.example.": home("shard7.corp.example", wild4).String(), "real.internal.": "192.0.2.7 192.0.2.8",
		} {
			q := question(name, dns.TypeA)
			q.SetEdns0(1232, false)
			a, _, err := (&dns.Client{Net: network}).Exchange(q, at)
			if err != nil || data(a) != want {
				t.Errorf("%s: %v %v", network, a, err)
			}
		}
	}
	// Several queries on one connection, the last of which is none.
	conn, err := net.Dial("tcp", tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := dns.Conn{Conn: conn}
	for range 3 {
		c.WriteMsg(question("orders-db.internal.", dns.TypeA))
		if a, err := c.ReadMsg(); err != nil || data(a) != v4 {
			t.Fatal(a, err)
		}
	}
	c.Write([]byte{1, 2, 3})
	if n, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Error("after junk:", n, err)
	}
}

// An answer that does not fit is asked for again over TCP, as resolvers do.
func TestFallbackToTCP(t *testing.T) {
	var many []netip.Addr
	for i := range 32 {
		many = append(many, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	w := newWorld(t, func(o *Options) {
		o.Lookup = func(context.Context, string, bool) ([]netip.Addr, error) { return many, nil }
	})
	udp, tcp := w.served(t)
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		at := map[string]string{"udp": udp, "tcp": tcp}[network]
		return new(net.Dialer).DialContext(ctx, network, at)
	}}
	name := strings.Repeat(strings.Repeat("n", 60)+".", 3) + "many.internal."
	if found, err := r.LookupNetIP(t.Context(), "ip4", name); err != nil || len(found) != len(many) {
		t.Errorf("%d addresses, %v", len(found), err)
	}
	// Go's resolver has EDNS with 1232 bytes; without it, one sees the mark.
	if a, _, err := (&dns.Client{}).Exchange(question(name, dns.TypeA), udp); err != nil || !a.Truncated {
		t.Error(a, err)
	}
}

// What an agent asks for beyond its rate is dropped and counted, and another
// agent's answers do not wait for it.
func TestFloodHarmsOnlyItself(t *testing.T) {
	flooder, other := newWorld(t), newWorld(t)
	flooder.queries = newBucket(1, 10)
	at, _ := flooder.served(t)
	elsewhere, tcp := other.served(t)
	conn, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	query, _ := question("orders-db.internal.", dns.TypeA).Pack()
	flood, stop := context.WithCancel(t.Context())
	var flooding sync.WaitGroup
	flooding.Go(func() {
		for flood.Err() == nil {
			conn.Write(query)
		}
	})
	for range 200 {
		for network, at := range map[string]string{"udp": elsewhere, "tcp": tcp} {
			if _, _, err := (&dns.Client{Net: network, Timeout: 2 * time.Second}).Exchange(question("orders-db.internal.", dns.TypeA), at); err != nil {
				t.Fatal("while another agent floods:", err)
			}
		}
	}
	stop()
	flooding.Wait()
	answers := 0
	for buf := make([]byte, 512); ; answers++ {
		conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := conn.Read(buf); err != nil {
			break
		}
	}
	if answers < 10 || answers > 30 {
		t.Errorf("%d answers to a flood, of a burst of 10", answers)
	}
	if got := flooder.refusedSince(); !strings.HasPrefix(got, "rate rate") || strings.Trim(got, "rate ") != "" {
		t.Errorf("refused %.100q", got)
	}
	if got := other.refusedSince(); got != "" {
		t.Errorf("the other agent was refused %q", got)
	}
}

func TestRateOverTCP(t *testing.T) {
	w := newWorld(t)
	w.queries = newBucket(0, 1)
	query, _ := question("orders-db.internal.", dns.TypeA).Pack()
	if a := w.overTCP(t.Context(), query); a[3]&0xf != dns.RcodeSuccess {
		t.Errorf("%x", a)
	}
	if a := w.overTCP(t.Context(), query); len(a) != headerSize || a[3]&0xf != dns.RcodeRefused || w.refusedSince() != "rate" {
		t.Errorf("%x", a)
	}
}

func TestBucket(t *testing.T) {
	b, now := newBucket(10, 3), time.Now()
	take := func(n int) (taken int) {
		for range n {
			if b.take(now) {
				taken++
			}
		}
		return taken
	}
	if got := take(5); got != 3 {
		t.Error("a burst of", got)
	}
	now = now.Add(250 * time.Millisecond)
	if got := take(5); got != 2 {
		t.Error("after a quarter of a second", got)
	}
	now = now.Add(time.Hour)
	if got := take(5); got != 3 {
		t.Error("after an hour", got)
	}
	now = now.Add(-time.Hour) // the clock was set back
	if got := take(5); got != 0 {
		t.Error("back in time", got)
	}
}

// A flood of names that are nobody's (data in labels) is counted in full, and
// logged once a minute with how many there were.
func TestFloodOfNamesIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w := newWorld(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		ask := func(n int) {
			for i := range n {
				w.asks(t, question(fmt.Sprintf("%s\\000%d.exfil.example.", strings.Repeat("x", 50), i), dns.TypeTXT), true)
			}
		}
		ask(500)
		time.Sleep(complaintEvery - time.Second)
		ask(1)
		if got := strings.Count(log.String(), "\n"); got != 1 {
			t.Errorf("%d lines in the first minute:\n%s", got, &log)
		}
		time.Sleep(2 * time.Second)
		ask(10)
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[1], "agent=planner kind=name") || !strings.Contains(lines[1], "suppressed=500") {
			t.Errorf("logged\n%s", &log)
		}
		if got := strings.Count(w.refusedSince(), "name"); got != 511 {
			t.Errorf("%d are counted", got)
		}
		if len(lines[0]) > 400 || strings.ContainsRune(lines[0], 0) {
			t.Errorf("%q", lines[0])
		}
	})
}
