package dns

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// sections are where the parts of a message are, by hand.
func sections(t *testing.T, m []byte) (question, rest []byte) {
	t.Helper()
	end := headerSize
	if m[5] == 1 {
		for m[end] != 0 {
			end += int(m[end]) + 1
		}
		end += 5
	}
	return m[headerSize:end], m[end:]
}

// Whatever comes in: an answer is as long as was asked for at most, its question
// is the one that was asked, and what is refused or empty says the same to
// everybody, so that no byte of a question is anywhere but in its own section.
func FuzzReply(f *testing.F) {
	for _, name := range []string{"orders-db.internal.", "a.corp.example.", "real.internal.", "secret.exfil.example.", "localhost.", "1.0.0.127.in-addr.arpa."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypePTR, dns.TypeAXFR} {
			q := question(name, qtype)
			packed, _ := q.Pack()
			f.Add(packed)
			q.SetEdns0(700, true)
			q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("data")}}
			packed, _ = q.Pack()
			f.Add(packed)
		}
	}
	f.Add(wire(dns.TypeA, "orders-db\x00", "internal."))
	soa := make([]byte, 128)
	n, err := dns.PackRR(authority(), soa, 0, nil, false)
	if err != nil {
		f.Fatal(err)
	}
	soa = soa[:n]
	w := newWorld(f)
	f.Fuzz(func(t *testing.T, query []byte) {
		for _, udp := range []bool{true, false} {
			w.lookups = newLookups()
			answer := w.whole(t.Context(), query, udp)
			if answer == nil {
				continue
			}
			var q, a dns.Msg
			if err := a.Unpack(answer); err != nil || !a.Response {
				t.Fatalf("answer %x: %v", answer, err)
			}
			most := dns.MaxMsgSize
			if udp {
				most = dns.MinMsgSize
				if q.Unpack(query) == nil && q.IsEdns0() != nil {
					most = max(most, min(maxUDP, int(q.IsEdns0().UDPSize())))
				}
			}
			if len(answer) > most || !bytes.Equal(answer[:2], query[:2]) {
				t.Fatalf("%d bytes to who takes %d: %x", len(answer), most, answer)
			}
			asked, rest := sections(t, answer)
			if err := q.Unpack(query); err == nil && len(a.Question) == 1 && q.Question[0] != a.Question[0] {
				t.Fatalf("asked %v, told %v", q.Question, a.Question)
			} else if err != nil && len(asked) > 0 {
				t.Fatalf("a question comes back that could not be read: %x", answer)
			}
			if len(a.Answer) > 0 {
				saysAddresses(t, &a)
				continue
			}
			rest = bytes.TrimPrefix(rest, soa)
			if o := a.IsEdns0(); o != nil {
				constant := []byte{0, 0, 41, maxUDP >> 8, maxUDP & 0xff, byte(a.Rcode >> 4), 0, 0, 0, 0, 0}
				if o.Do() {
					constant[7] = 0x80
				}
				rest = bytes.TrimPrefix(rest, constant)
			}
			if len(rest) != 0 {
				t.Fatalf("behind the question is %x", rest)
			}
		}
	})
}

// saysAddresses checks that an answer has nothing but addresses, and the names of some.
func saysAddresses(t *testing.T, a *dns.Msg) {
	t.Helper()
	q := a.Question[0]
	if a.Rcode != dns.RcodeSuccess || len(a.Ns) != 0 || len(a.Extra) > 1 {
		t.Fatal(a)
	}
	for _, rr := range a.Answer {
		if rr.Header().Name != q.Name || rr.Header().Rrtype != q.Qtype || !slices.Contains([]uint16{dns.TypeA, dns.TypeAAAA, dns.TypePTR}, q.Qtype) {
			t.Fatal(a)
		}
		if p, ok := rr.(*dns.PTR); ok && p.Ptr != "localhost." && grants(strings.TrimSuffix(p.Ptr, ".")) <= Above {
			t.Fatal(a)
		}
	}
}
