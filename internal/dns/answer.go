package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// ttl is short, because a name may stop being answered with the next
	// configuration; a virtual address does not change. Real addresses are
	// remembered by it, whatever their own servers say.
	ttl = 30
	// negativeTTL is how long it is remembered that there is no such name or
	// type (RFC 2308), so that a search list does not ask ten times a second.
	negativeTTL = 5
	// maxUDP is the longest answer by datagram, to whoever can take it.
	maxUDP = dns.DefaultMsgSize
	// lookupWait bounds a lookup outside: shorter than the five seconds after
	// which clients ask again.
	lookupWait = 4 * time.Second
	headerSize = 12
)

// reply answers a query in wire form; nil when nothing is to be said. When the
// name has to be looked up outside first, wait does that and returns the answer.
func (s *Server) reply(query []byte, udp bool) (answer []byte, wait func(context.Context) []byte) {
	if len(query) < headerSize || query[2]&0x80 != 0 { // a response is never answered: two servers would go on for ever
		s.refused(Malformed, "")
		return nil, nil
	}
	if opcode := int(query[2]>>3) & 0xf; opcode != dns.OpcodeQuery {
		s.refused(ByType, "")
		return short(query, dns.RcodeNotImplemented), nil
	}
	var q dns.Msg
	if err := q.Unpack(query); err != nil || len(q.Question) != 1 || q.Question[0].Qtype == dns.TypeOPT {
		s.refused(Malformed, "")
		return short(query, dns.RcodeFormatError), nil
	}
	opt, ok := edns(&q)
	if !ok {
		s.refused(Malformed, "")
		return short(query, dns.RcodeFormatError), nil
	}
	a := new(dns.Msg)
	a.SetReply(&q)
	a.RecursionAvailable = true
	size := dns.MaxMsgSize
	if udp {
		size = dns.MinMsgSize
	}
	if opt != nil {
		// What options there are (a client's subnet, cookies) is not looked at, and
		// not sent back or on.
		a.SetEdns0(maxUDP, opt.Do())
		if udp {
			size = min(max(dns.MinMsgSize, int(opt.UDPSize())), maxUDP)
		}
		if opt.Version() != 0 {
			s.refused(Malformed, "")
			a.Rcode = dns.RcodeBadVers
			return packed(a, size), nil
		}
	}
	name, ipv6, outside := s.decide(a, q.Question[0])
	if !outside {
		return packed(a, size), nil
	}
	return nil, func(ctx context.Context) []byte {
		s.outside(ctx, a, name, ipv6)
		return packed(a, size)
	}
}

// edns finds the one OPT record that a query may have (RFC 6891, 6.1.1).
func edns(q *dns.Msg) (opt *dns.OPT, ok bool) {
	for _, rr := range q.Extra {
		o, is := rr.(*dns.OPT)
		if !is {
			continue
		}
		if opt != nil || o.Hdr.Name != "." {
			return nil, false
		}
		opt = o
	}
	return opt, true
}

// short is an answer of a header alone, to what need not be understood.
func short(query []byte, rcode int) []byte {
	if len(query) < headerSize || query[2]&0x80 != 0 {
		return nil
	}
	a := make([]byte, headerSize)
	copy(a, query[:2])
	const response, opcode, recursionDesired = 0x80, 0x78, 0x01
	a[2] = response | query[2]&(opcode|recursionDesired)
	binary.BigEndian.PutUint16(a[2:], binary.BigEndian.Uint16(a[2:])|uint16(rcode))
	return a
}

func packed(a *dns.Msg, size int) []byte {
	// Truncate compresses what would not fit otherwise. What has no data always
	// fits, so it has no pointers into the question and does not depend on it.
	a.Truncate(size)
	out, err := a.Pack()
	if err != nil {
		return nil
	}
	return out
}

// decide fills in the answer to a question. Only addresses and reverse lookups
// are answered with data; every other type of a known name is empty (HTTPS and
// SVCB too, or browsers would try QUIC and encrypted hellos), and of any other
// name there is none. A name whose addresses are known outside only is returned.
func (s *Server) decide(a *dns.Msg, q dns.Question) (name string, ipv6, outside bool) {
	switch {
	case q.Qclass != dns.ClassINET, q.Qtype == dns.TypeAXFR, q.Qtype == dns.TypeIXFR, q.Qtype == dns.TypeMAILA, q.Qtype == dns.TypeMAILB:
		s.refused(ByType, q.Name)
		a.Rcode = dns.RcodeRefused
		return "", false, false
	}
	name, ok := plain(q.Name)
	if !ok {
		s.none(a, q)
		return "", false, false
	}
	if strings.HasSuffix(name, ".in-addr.arpa") || strings.HasSuffix(name, ".ip6.arpa") {
		s.reverse(a, q, name)
		return "", false, false
	}
	if name == localhost || strings.HasSuffix(name, "."+localhost) { // RFC 6761, section 6.3
		s.addresses(a, q, netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
		return "", false, false
	}
	wanted := q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA
	switch s.Grant(name) {
	case Fixed:
		four, six, ok := s.Table().Addresses(name)
		if !ok {
			s.none(a, q)
			break
		}
		s.addresses(a, q, four, six)
	case Wild:
		if !wanted {
			s.empty(a, q)
			break
		}
		four := s.Told.Virtual(name)
		s.addresses(a, q, four, within6(four))
	case Real:
		if wanted {
			return name, q.Qtype == dns.TypeAAAA, true
		}
		s.empty(a, q)
	case Above:
		s.empty(a, q)
	default:
		s.none(a, q)
	}
	return "", false, false
}

const localhost = "localhost"

// plain returns a name in lower case without the final dot. What is no host's
// name, such as one with a dot, a NUL or a byte beyond ASCII inside of a label,
// is not one: dns writes these with a backslash.
func plain(name string) (string, bool) {
	b := []byte(strings.TrimSuffix(name, "."))
	if len(b) == 0 || len(b) > maxName {
		return "", false
	}
	for i, c := range b {
		switch {
		case c >= 'A' && c <= 'Z':
			b[i] = c + 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_':
		case c == '-':
			if i == 0 || i == len(b)-1 || b[i-1] == '.' || b[i+1] == '.' {
				return "", false
			}
		case c == '.':
			if i == 0 || i == len(b)-1 || b[i-1] == '.' {
				return "", false
			}
		default:
			return "", false
		}
	}
	return string(b), true
}

// maxName is the limit of RFC 1035 in its text form.
const maxName = 253

// addresses answers for a name that has one address of each family.
func (s *Server) addresses(a *dns.Msg, q dns.Question, four, six netip.Addr) {
	switch q.Qtype {
	case dns.TypeA:
		a.Answer = []dns.RR{&dns.A{Hdr: header(q), A: four.AsSlice()}}
	case dns.TypeAAAA:
		a.Answer = []dns.RR{&dns.AAAA{Hdr: header(q), AAAA: six.AsSlice()}}
	default:
		s.empty(a, q)
	}
}

// header has the name as it was asked for: some clients vary its case and
// compare (draft-vixie-dnsext-dns0x20).
func header(q dns.Question) dns.RR_Header {
	return dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ttl}
}

// none says that there is no such name.
func (s *Server) none(a *dns.Msg, q dns.Question) {
	s.refused(ByName, q.Name)
	a.Rcode = dns.RcodeNameError
	a.Ns = []dns.RR{authority()}
}

// empty says that a name has nothing of this type.
func (s *Server) empty(a *dns.Msg, q dns.Question) {
	if q.Qtype != dns.TypeA && q.Qtype != dns.TypeAAAA {
		s.refused(ByType, q.Name)
	}
	a.Ns = []dns.RR{authority()}
}

// authority tells clients how long to remember what there is not. It is the
// same for every question.
func authority() dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: negativeTTL},
		Ns:  "postern.invalid.", Mbox: "nobody.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: negativeTTL,
	}
}

// outside fills in the real addresses of a name. They are remembered, so that it
// is known which name was meant when the agent dials one.
func (s *Server) outside(ctx context.Context, a *dns.Msg, name string, ipv6 bool) {
	ctx, cancel := context.WithTimeout(ctx, lookupWait)
	defer cancel()
	q := a.Question[0]
	found, err := s.lookups.of(ctx, lookupKey{name, ipv6}, s.Lookup)
	var missing *net.DNSError
	switch {
	case errors.Is(err, errRate):
		s.refused(Rate, q.Name)
		a.Rcode = dns.RcodeRefused
		return
	case errors.As(err, &missing) && missing.IsNotFound:
		// Of this family there may be none, while the other one has some.
		a.Ns = []dns.RR{authority()}
		return
	case err != nil:
		s.refused(Unresolved, q.Name)
		a.Rcode = dns.RcodeServerFailure
		return
	case len(found) == 0:
		s.refused(Forbidden, q.Name)
		a.Ns = []dns.RR{authority()}
		return
	}
	s.Told.Tell(name, found, time.Now())
	for _, ip := range found {
		if ipv6 {
			a.Answer = append(a.Answer, &dns.AAAA{Hdr: header(q), AAAA: ip.AsSlice()})
		} else {
			a.Answer = append(a.Answer, &dns.A{Hdr: header(q), A: ip.AsSlice()})
		}
	}
}
