package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

func server(t *testing.T, refused func(string)) *Server {
	t.Helper()
	table, err := NewTable([]string{"orders-db.internal", "hidden.internal"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &Server{Names{
		Allowed: func(name string) bool { return name == "orders-db.internal" },
		Table:   func() *Table { return table },
		Refused: refused,
	}}
}

func TestAnswers(t *testing.T) {
	var refusals []string
	s := server(t, func(kind string) { refusals = append(refusals, kind) })
	v4, v6, _ := s.Names.Table().Addresses("orders-db.internal")
	for _, c := range []struct {
		name    string
		qtype   uint16
		rcode   int
		answer  string
		refused string
	}{
		{"orders-db.internal.", dns.TypeA, dns.RcodeSuccess, v4.String(), ""},
		{"Orders-DB.INTERNAL.", dns.TypeA, dns.RcodeSuccess, v4.String(), ""},
		{"orders-db.internal.", dns.TypeAAAA, dns.RcodeSuccess, v6.String(), ""},
		{"orders-db.internal.", dns.TypeTXT, dns.RcodeSuccess, "", "type"},
		{"orders-db.internal.", dns.TypeHTTPS, dns.RcodeSuccess, "", "type"},
		{"orders-db.internal.", dns.TypeNULL, dns.RcodeSuccess, "", "type"},
		{"hidden.internal.", dns.TypeA, dns.RcodeNameError, "", "name"},
		{"secret.exfil.example.", dns.TypeA, dns.RcodeNameError, "", "name"},
		{"secret.exfil.example.", dns.TypeTXT, dns.RcodeNameError, "", "name"},
		{"localhost.", dns.TypeA, dns.RcodeSuccess, "127.0.0.1", ""},
		{".", dns.TypeNS, dns.RcodeNameError, "", "name"},
	} {
		t.Run(c.name+dns.TypeToString[c.qtype], func(t *testing.T) {
			refusals = nil
			q := new(dns.Msg)
			q.SetQuestion(c.name, c.qtype)
			a := s.answer(q)
			got := ""
			for _, rr := range a.Answer {
				switch rr := rr.(type) {
				case *dns.A:
					got += rr.A.String()
				case *dns.AAAA:
					got += rr.AAAA.String()
				default:
					got += rr.String()
				}
			}
			if a.Rcode != c.rcode || got != c.answer {
				t.Errorf("rcode %s answer %q, want %s %q", dns.RcodeToString[a.Rcode], got, dns.RcodeToString[c.rcode], c.answer)
			}
			if want := fmt.Sprint(refusals); c.refused != "" && want != "["+c.refused+"]" || c.refused == "" && len(refusals) != 0 {
				t.Errorf("refusals %v, want %q", refusals, c.refused)
			}
		})
	}
}

func TestReverse(t *testing.T) {
	s := server(t, nil)
	for name, want := range map[string]string{"orders-db.internal": "orders-db.internal.", "hidden.internal": ""} {
		v4, v6, _ := s.Names.Table().Addresses(name)
		for _, ip := range []netip.Addr{v4, v6} {
			reverse, err := dns.ReverseAddr(ip.String())
			if err != nil {
				t.Fatal(err)
			}
			q := new(dns.Msg)
			q.SetQuestion(reverse, dns.TypePTR)
			a := s.answer(q)
			got := ""
			if len(a.Answer) == 1 {
				got = a.Answer[0].(*dns.PTR).Ptr
			}
			if got != want {
				t.Errorf("PTR of %s (%s) is %q, want %q", ip, name, got, want)
			}
		}
	}
}

// What is not one question of class IN is refused.
func TestOddQueries(t *testing.T) {
	s := server(t, nil)
	two := new(dns.Msg)
	two.SetQuestion("orders-db.internal.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	chaos := new(dns.Msg)
	chaos.SetQuestion("version.bind.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	update := new(dns.Msg)
	update.SetUpdate("internal.")
	for name, q := range map[string]*dns.Msg{"two questions": two, "chaos": chaos, "update": update, "none": new(dns.Msg)} {
		if a := s.answer(q); a.Rcode != dns.RcodeRefused || len(a.Answer) != 0 {
			t.Errorf("%s: %s", name, dns.RcodeToString[a.Rcode])
		}
	}
	response := new(dns.Msg)
	response.SetQuestion("orders-db.internal.", dns.TypeA)
	response.Response = true
	packed, _ := response.Pack()
	if s.reply(packed, true) != nil || s.reply([]byte{1, 2, 3}, true) != nil {
		t.Error("answered what is no query")
	}
}

// The same name has the same address in every table, and neighbours that
// collide get different ones.
func TestTableIsStable(t *testing.T) {
	names := make([]string, 5000)
	for i := range names {
		names[i] = fmt.Sprintf("host%d.internal", i)
	}
	all, err := NewTable(names, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(all.byAddr) != len(names) {
		t.Fatalf("%d addresses for %d names", len(all.byAddr), len(names))
	}
	fewer, err := NewTable(names[:100], all)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names[:100] {
		a, a6, _ := all.Addresses(n)
		b, b6, _ := fewer.Addresses(n)
		if a != b || a6 != b6 || !Virtual(a) || !Virtual(a6) {
			t.Fatalf("%s: %s %s, then %s %s", n, a, a6, b, b6)
		}
		for _, ip := range []netip.Addr{a, a6, netip.AddrFrom16(a.As16())} {
			if back, ok := all.Name(ip); !ok || back != n {
				t.Fatalf("%s leads back to %q", ip, back)
			}
		}
	}
	if _, err := NewTable(make([]string, maxNames+1), nil); err == nil {
		t.Error("a table takes any number of names")
	}
}

func TestOverUDPAndTCP(t *testing.T) {
	s := server(t, nil)
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		s.Run(ctx, []net.PacketConn{udp}, []net.Listener{tcp}, func(netip.AddrPort) bool { return true }, nil)
		close(done)
	}()
	v4, _, _ := s.Names.Table().Addresses("orders-db.internal")
	for network, at := range map[string]string{"udp": udp.LocalAddr().String(), "tcp": tcp.Addr().String()} {
		q := new(dns.Msg)
		q.SetQuestion("orders-db.internal.", dns.TypeA)
		q.SetEdns0(1232, false)
		a, _, err := (&dns.Client{Net: network}).Exchange(q, at)
		if err != nil || len(a.Answer) != 1 || a.Answer[0].(*dns.A).A.String() != v4.String() {
			t.Errorf("%s: %v %v", network, a, err)
		}
	}
	cancel()
	<-done
}

// Whatever comes in: no panic, and an answer is never longer than was asked for.
func FuzzReply(f *testing.F) {
	q := new(dns.Msg)
	q.SetQuestion("orders-db.internal.", dns.TypeA)
	packed, _ := q.Pack()
	f.Add(packed)
	table, err := NewTable([]string{"orders-db.internal"}, nil)
	if err != nil {
		f.Fatal(err)
	}
	s := &Server{Names{Allowed: func(string) bool { return true }, Table: func() *Table { return table }}}
	f.Fuzz(func(t *testing.T, query []byte) {
		answer := s.reply(query, true)
		if answer == nil {
			return
		}
		var a dns.Msg
		if err := a.Unpack(answer); err != nil || !a.Response {
			t.Fatalf("answer %x: %v", answer, err)
		}
	})
}
