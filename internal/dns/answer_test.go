package dns

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestAnswers(t *testing.T) {
	w := newWorld(t)
	v4, v6 := w.table("orders-db.internal")
	wild := home("shard7.corp.example", wild4)
	for _, c := range []struct {
		name    string
		qtype   uint16
		rcode   int
		answer  string
		refused string
	}{
		{"orders-db.internal.", dns.TypeA, dns.RcodeSuccess, v4, ""},
		{"orders-db.internal.", dns.TypeAAAA, dns.RcodeSuccess, v6, ""},
		{"hidden.internal.", dns.TypeA, dns.RcodeNameError, "", "name"},
		{"secret.exfil.example.", dns.TypeA, dns.RcodeNameError, "", "name"},
		{"secret.exfil.example.", dns.TypeTXT, dns.RcodeNameError, "", "name"},
		{".", dns.TypeNS, dns.RcodeNameError, "", "name"},
		// Above the names of targets there is something: a resolver that asks label
		// by label (RFC 9156) must not take the rest for missing.
		{"internal.", dns.TypeA, dns.RcodeSuccess, "", ""},
		{"example.", dns.TypeNS, dns.RcodeSuccess, "", "type"},
		{"shard7.corp.example.", dns.TypeA, dns.RcodeSuccess, wild.String(), ""},
		{"shard7.corp.example.", dns.TypeAAAA, dns.RcodeSuccess, within6(wild).String(), ""},
		{"a.b.corp.example.", dns.TypeA, dns.RcodeSuccess, home("a.b.corp.example", wild4).String(), ""},
		{"corp.example.", dns.TypeA, dns.RcodeSuccess, "", ""},
		{"real.internal.", dns.TypeA, dns.RcodeSuccess, "192.0.2.7 192.0.2.8", ""},
		{"real.internal.", dns.TypeAAAA, dns.RcodeSuccess, "2001:db8::7", ""},
		{"only4.internal.", dns.TypeAAAA, dns.RcodeSuccess, "", ""},
		{"down.internal.", dns.TypeA, dns.RcodeServerFailure, "", "unresolved"},
		{"inside.internal.", dns.TypeA, dns.RcodeSuccess, "", "address"},
		{"localhost.", dns.TypeA, dns.RcodeSuccess, "127.0.0.1", ""},
		{"localhost.", dns.TypeAAAA, dns.RcodeSuccess, "::1", ""},
		{"app.LOCALHOST.", dns.TypeA, dns.RcodeSuccess, "127.0.0.1", ""},
		{"localhost.", dns.TypeTXT, dns.RcodeSuccess, "", "type"},
		{"1.0.0.127.in-addr.arpa.", dns.TypePTR, dns.RcodeSuccess, "localhost.", ""},
		{"1.0.0.127.in-addr.arpa.", dns.TypeTXT, dns.RcodeSuccess, "", "type"},
		{"2.0.0.127.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, "", "name"},
		{"1." + strings.Repeat("0.", 31) + "ip6.arpa.", dns.TypePTR, dns.RcodeSuccess, "localhost.", ""},
	} {
		t.Run(c.name+dns.TypeToString[c.qtype], func(t *testing.T) {
			a := w.asks(t, question(c.name, c.qtype), true)
			if got := data(a); a.Rcode != c.rcode || got != c.answer {
				t.Errorf("rcode %s answer %q, want %s %q", dns.RcodeToString[a.Rcode], got, dns.RcodeToString[c.rcode], c.answer)
			}
			if got := w.refusedSince(); got != c.refused {
				t.Errorf("refused %q, want %q", got, c.refused)
			}
			negative := c.answer == "" && c.rcode != dns.RcodeServerFailure
			if (len(a.Ns) == 1) != negative {
				t.Errorf("authority %v", a.Ns)
			}
			for _, rr := range a.Answer {
				if rr.Header().Ttl != ttl || rr.Header().Name != c.name {
					t.Error(rr)
				}
			}
		})
	}
}

// What is not an address carries nothing, whatever the type is: data, other
// names, or the offer of another way (HTTPS: QUIC and encrypted hellos).
func TestTypes(t *testing.T) {
	w := newWorld(t)
	types := []uint16{
		dns.TypeANY, dns.TypeTXT, dns.TypeNULL, dns.TypeCNAME, dns.TypeDNAME, dns.TypeSVCB, dns.TypeHTTPS, dns.TypeSRV, dns.TypeMX,
		dns.TypeNS, dns.TypeSOA, dns.TypeNAPTR, dns.TypeCAA, dns.TypeDNSKEY, dns.TypeDS, dns.TypeRRSIG, dns.TypeLOC, dns.TypeHINFO, dns.TypePTR,
		dns.TypeURI, dns.TypeTLSA, dns.TypeOPENPGPKEY, dns.TypeEUI64, 0, 65280, 65535,
	}
	for _, name := range []string{"orders-db.internal.", "shard8.corp.example.", "real.internal.", "corp.example."} {
		for _, qtype := range types {
			a := w.asks(t, question(name, qtype), true)
			if a.Rcode != dns.RcodeSuccess || len(a.Answer) != 0 || len(a.Extra) != 0 || len(a.Ns) != 1 {
				t.Errorf("%s %d: %v", name, qtype, a)
			}
			if got := w.refusedSince(); got != "type" {
				t.Errorf("%s %d: refused %q", name, qtype, got)
			}
		}
	}
	if n := w.Told.Len(); n != 0 {
		t.Errorf("%d names have addresses, and none was asked for one", n)
	}
	for _, qtype := range []uint16{dns.TypeAXFR, dns.TypeIXFR, dns.TypeMAILA, dns.TypeMAILB} {
		for _, udp := range []bool{true, false} {
			if a := w.asks(t, question("internal.", qtype), udp); a.Rcode != dns.RcodeRefused || len(a.Answer)+len(a.Ns)+len(a.Extra) != 0 {
				t.Error(a)
			}
			if got := w.refusedSince(); got != "type" {
				t.Errorf("%d: refused %q", qtype, got)
			}
		}
	}
}

// Clients remember for some seconds what there is not (RFC 2308), and only then
// ask again.
func TestNegativeAnswersAreCached(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"nobody.example.", "orders-db.internal."} {
		a := w.asks(t, question(name, dns.TypeMX), true)
		soa, ok := a.Ns[0].(*dns.SOA)
		if !ok || soa.Hdr.Name != "." || soa.Hdr.Ttl != negativeTTL || soa.Minttl != negativeTTL {
			t.Error(a.Ns)
		}
	}
}

// What is not one question of class IN, asked the way that is understood here,
// is told so.
func TestOddQueries(t *testing.T) {
	w := newWorld(t)
	two := question("orders-db.internal.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	class := func(c uint16) *dns.Msg {
		q := question("orders-db.internal.", dns.TypeA)
		q.Question[0].Qclass = c
		return q
	}
	opcode := func(o int) *dns.Msg {
		q := question("orders-db.internal.", dns.TypeA)
		q.Opcode = o
		return q
	}
	option := func(change func(*dns.OPT), more ...dns.RR) *dns.Msg {
		q := question("orders-db.internal.", dns.TypeA)
		q.SetEdns0(1232, true)
		change(q.IsEdns0())
		q.Extra = append(q.Extra, more...)
		return q
	}
	update := new(dns.Msg)
	update.SetUpdate("internal.")
	notify := new(dns.Msg)
	notify.SetNotify("internal.")
	for name, c := range map[string]struct {
		q       *dns.Msg
		rcode   int
		refused string
	}{
		"no question":     {new(dns.Msg), dns.RcodeFormatError, "malformed"},
		"two questions":   {two, dns.RcodeFormatError, "malformed"},
		"type OPT":        {question("orders-db.internal.", dns.TypeOPT), dns.RcodeFormatError, "malformed"},
		"chaos":           {class(dns.ClassCHAOS), dns.RcodeRefused, "type"},
		"hesiod":          {class(dns.ClassHESIOD), dns.RcodeRefused, "type"},
		"any class":       {class(dns.ClassANY), dns.RcodeRefused, "type"},
		"class none":      {class(dns.ClassNONE), dns.RcodeRefused, "type"},
		"update":          {update, dns.RcodeNotImplemented, "type"},
		"notify":          {notify, dns.RcodeNotImplemented, "type"},
		"inverse":         {opcode(dns.OpcodeIQuery), dns.RcodeNotImplemented, "type"},
		"status":          {opcode(dns.OpcodeStatus), dns.RcodeNotImplemented, "type"},
		"stateful":        {opcode(6), dns.RcodeNotImplemented, "type"},
		"opcode 15":       {opcode(15), dns.RcodeNotImplemented, "type"},
		"EDNS version 1":  {option(func(o *dns.OPT) { o.SetVersion(1) }), dns.RcodeBadVers, "malformed"},
		"EDNS twice":      {option(func(*dns.OPT) {}, &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}), dns.RcodeFormatError, "malformed"},
		"EDNS of a name":  {option(func(o *dns.OPT) { o.Hdr.Name = "data.example." }), dns.RcodeFormatError, "malformed"},
		"EDNS version 0":  {option(func(*dns.OPT) {}), dns.RcodeSuccess, ""},
		"signed, unknown": {option(func(*dns.OPT) {}, &dns.TXT{Hdr: dns.RR_Header{Name: "x.", Rrtype: dns.TypeTXT, Class: 1}, Txt: []string{"data"}}), dns.RcodeSuccess, ""},
	} {
		a := w.asks(t, c.q, true)
		if a.Rcode != c.rcode || (len(a.Answer) > 0) != (c.rcode == dns.RcodeSuccess) || a.Opcode != c.q.Opcode {
			t.Errorf("%s: %v", name, a)
		}
		if got := w.refusedSince(); got != c.refused {
			t.Errorf("%s: refused %q, want %q", name, got, c.refused)
		}
		if o := a.IsEdns0(); o != nil && (o.Version() != 0 || !o.Do() || len(o.Option) != 0) {
			t.Errorf("%s: %v", name, o)
		}
	}
}

// What is no query at all is not answered, and one that is cut by its header only.
func TestJunk(t *testing.T) {
	w := newWorld(t)
	response := question("orders-db.internal.", dns.TypeA)
	response.Response = true
	packed, _ := response.Pack()
	for _, junk := range [][]byte{packed, {}, {1, 2, 3}, packed[:11]} {
		if w.whole(t.Context(), junk, true) != nil || short(junk, dns.RcodeRefused) != nil {
			t.Errorf("answered %x, which is no query", junk)
		}
	}
	cut, _ := question("orders-db.internal.", dns.TypeA).Pack()
	if got := w.whole(t.Context(), cut[:20], true); !bytes.Equal(got, []byte{cut[0], cut[1], 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("to a query that is cut: %x", got)
	}
}

// Options (a client's subnet, a cookie, padding, the server's name) are not
// answered, and do not change what is.
func TestOptionsAreIgnored(t *testing.T) {
	w := newWorld(t)
	q := question("real.internal.", dns.TypeA)
	q.SetEdns0(1232, false)
	q.IsEdns0().Option = []dns.EDNS0{
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(203, 0, 113, 0)},
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "24a5ac1223344556"},
		&dns.EDNS0_NSID{Code: dns.EDNS0NSID}, &dns.EDNS0_PADDING{Padding: make([]byte, 64)},
		&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("data")},
	}
	a := w.asks(t, q, true)
	if o := a.IsEdns0(); o == nil || len(o.Option) != 0 || data(a) != "192.0.2.7 192.0.2.8" {
		t.Error(a)
	}
}

// wire is a question whose name has these labels, of any bytes.
func wire(qtype uint16, labels ...string) []byte {
	b := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, l := range labels {
		b = append(append(b, byte(len(l))), l...)
	}
	return append(b, 0, byte(qtype>>8), byte(qtype), 0, 1)
}

// A name is what it is byte for byte, but for the case of its letters; and it
// comes back as it was asked for.
func TestSpellings(t *testing.T) {
	w := newWorld(t)
	v4, _ := w.table("orders-db.internal")
	under, _ := w.table("under_score.internal")
	longest, _ := w.table(long)
	for _, c := range []struct {
		labels []string
		want   string // none: there is no such name
	}{
		{[]string{"orders-db", "internal"}, v4},
		{[]string{"oRdErS-dB", "InTeRnAl"}, v4}, // 0x20
		{[]string{"ORDERS-DB", "INTERNAL"}, v4},
		{[]string{"under_score", "internal"}, under},
		{strings.Split(long, "."), longest},
		{strings.Split(strings.ToUpper(long), "."), longest},
		{[]string{"orders-db.internal"}, ""},                           // a dot inside of a label: \046
		{[]string{"orders-db", "internal."}, ""},                       // the same at its end
		{[]string{"orders-db\x00", "internal"}, ""},                    // NUL: C stops there
		{[]string{"orders-db", "internal", "\x00"}, ""},                //
		{[]string{"\x00orders-db", "internal"}, ""},                    //
		{[]string{"orders-db ", "internal"}, ""},                       //
		{[]string{"orders-db\\", "internal"}, ""},                      //
		{[]string{"orders-db", "internal", "corp", "local"}, ""},       // a search list
		{[]string{"orders-db", "internal", "corp", "example"}, "wild"}, // a search list below a wildcard: that is a name
		{[]string{"2130706433"}, ""},
		{[]string{"0x7f", "1"}, ""},
		{[]string{"127", "1"}, ""},
		{[]string{"127", "0", "0", "1"}, ""},
		{[]string{"0177", "0", "0", "1"}, ""},
		{[]string{"169", "254", "169", "254"}, ""},
		{[]string{"::1"}, ""},
		{[]string{"[::1]"}, ""},
		{[]string{"b\xc3\xbccher", "example"}, ""}, // not an A-label
		{[]string{"\u212Aorp"}, ""},                // KELVIN SIGN, which Unicode folds to k
		{[]string{"-a", "corp", "example"}, ""},
		{[]string{"a-", "corp", "example"}, ""},
		{[]string{"*", "corp", "example"}, ""},
		{[]string{"a b", "corp", "example"}, ""},
		{[]string{"A_1", "corp", "example"}, "wild"},
		{[]string{"xn--bcher-kva", "corp", "example"}, "wild"},
	} {
		query := wire(dns.TypeA, c.labels...)
		answer := w.whole(t.Context(), query, true)
		if !bytes.HasPrefix(answer[headerSize:], query[headerSize:]) {
			t.Errorf("%q comes back as %q", query, answer)
		}
		var a dns.Msg
		if err := a.Unpack(answer); err != nil {
			t.Fatal(err)
		}
		want := c.want
		if want == "wild" {
			want = home(strings.ToLower(strings.Join(c.labels, ".")), wild4).String()
		}
		if got := data(&a); got != want || (want == "") != (a.Rcode == dns.RcodeNameError) {
			t.Errorf("%q is %q (%s), want %q", c.labels, got, dns.RcodeToString[a.Rcode], want)
		}
	}
	// One byte longer than a name can be.
	tooLong := wire(dns.TypeA, append(strings.Split(long, "."), "x")...)
	if a := w.whole(t.Context(), tooLong, true); len(a) != headerSize || a[3]&0xf != dns.RcodeFormatError {
		t.Errorf("a name of 257 bytes: %x", a)
	}
}

func TestReverse(t *testing.T) {
	w := newWorld(t)
	w.asks(t, question("shard7.corp.example.", dns.TypeA), true)
	w.asks(t, question("real.internal.", dns.TypeA), true)
	w.asks(t, question("real.internal.", dns.TypeAAAA), true)
	fixed4, fixed6 := w.table("orders-db.internal")
	hidden4, hidden6 := w.table("hidden.internal")
	wild := home("shard7.corp.example", wild4)
	for ip, want := range map[string]string{
		fixed4: "orders-db.internal.", fixed6: "orders-db.internal.", hidden4: "", hidden6: "",
		wild.String(): "shard7.corp.example.", within6(wild).String(): "shard7.corp.example.", wild.Next().String(): "",
		"192.0.2.7": "real.internal.", "2001:db8::7": "real.internal.", "192.0.2.77": "", "10.0.0.1": "",
	} {
		reverse, err := dns.ReverseAddr(ip)
		if err != nil {
			t.Fatal(err)
		}
		if got := data(w.asks(t, question(reverse, dns.TypePTR), true)); got != want {
			t.Errorf("PTR of %s is %q, want %q", ip, got, want)
		}
	}
	for _, odd := range []string{"01.0.0.127.in-addr.arpa.", "0x1.0.0.127.in-addr.arpa.", "0.0.1.0.0.127.in-addr.arpa.", "in-addr.arpa.", "1.ip6.arpa.", strings.Repeat("0.", 31) + "g.ip6.arpa."} {
		if a := w.asks(t, question(odd, dns.TypePTR), true); a.Rcode != dns.RcodeNameError {
			t.Errorf("%s: %v", odd, a)
		}
	}
	// A name that the agent may no longer see is not told by its address either.
	w.Grant = func(string) Grant { return Unknown }
	for _, ip := range []string{fixed4, wild.String(), "192.0.2.7"} {
		reverse, _ := dns.ReverseAddr(ip)
		if got := data(w.asks(t, question(reverse, dns.TypePTR), true)); got != "" {
			t.Errorf("PTR of %s is %q", ip, got)
		}
	}
}

// An answer is never longer than its client can take; over TCP it is whole.
func TestSizes(t *testing.T) {
	var many []netip.Addr
	for i := range 30 {
		a := netip.MustParseAddr("2001:db8::").As16()
		a[15] = byte(i)
		many = append(many, netip.AddrFrom16(a))
	}
	w := newWorld(t, func(o *Options) {
		o.Lookup = func(context.Context, string, bool) ([]netip.Addr, error) { return many, nil }
	})
	name := strings.Repeat(strings.Repeat("n", 60)+".", 3) + "many.internal."
	for _, c := range []struct {
		edns, most int
		whole      bool
	}{
		{0, 512, false}, {1, 512, false}, {512, 512, false}, {800, 800, false}, {1232, 1232, true}, {4096, 4096, true}, {65535, maxUDP, true},
	} {
		q := question(name, dns.TypeAAAA)
		if c.edns > 0 {
			q.SetEdns0(uint16(c.edns), false)
		}
		packed, _ := q.Pack()
		answer := w.whole(t.Context(), packed, true)
		var a dns.Msg
		if err := a.Unpack(answer); err != nil {
			t.Fatal(err)
		}
		if len(answer) > c.most || a.Truncated == c.whole || c.whole && len(a.Answer) != len(many) {
			t.Errorf("to EDNS %d: %d bytes, truncated %t, %d addresses", c.edns, len(answer), a.Truncated, len(a.Answer))
		}
		a = dns.Msg{}
		if err := a.Unpack(w.whole(t.Context(), packed, false)); err != nil || a.Truncated || len(a.Answer) != len(many) {
			t.Errorf("over TCP, EDNS %d: truncated %t, %d addresses", c.edns, a.Truncated, len(a.Answer))
		}
	}
}
