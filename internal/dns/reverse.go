package dns

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// reverse answers for addresses whose name the agent was told, or may see.
func (s *Server) reverse(a *dns.Msg, q dns.Question, arpa string) {
	ip, ok := address(arpa)
	name := ""
	if ok {
		name = s.nameOf(ip)
	}
	switch {
	case name == "":
		s.none(a, q)
	case q.Qtype == dns.TypePTR:
		a.Answer = []dns.RR{&dns.PTR{Hdr: header(q), Ptr: dns.Fqdn(name)}}
	default:
		s.refused(ByType, q.Name)
		a.Ns = []dns.RR{authority()}
	}
}

func (s *Server) nameOf(ip netip.Addr) string {
	if ip == netip.IPv6Loopback() || ip == netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		return localhost
	}
	name, ok := s.Table().Name(ip)
	if !ok {
		name, ok = s.Told.Name(ip)
	}
	if !ok {
		if names := s.Told.Names(ip, time.Now()); len(names) > 0 {
			name, ok = names[0], true
		}
	}
	if !ok || s.Grant(name) <= Above {
		return ""
	}
	return name
}

// address takes the name of a reverse lookup apart.
func address(name string) (netip.Addr, bool) {
	labels := strings.Split(name, ".")
	slices.Reverse(labels)
	if len(labels) == 6 && labels[0] == "arpa" && labels[1] == "in-addr" {
		a, err := netip.ParseAddr(strings.Join(labels[2:], "."))
		return a, err == nil
	}
	if len(labels) != 34 || labels[0] != "arpa" || labels[1] != "ip6" {
		return netip.Addr{}, false
	}
	digits := strings.Join(labels[2:], "")
	if len(digits) != 32 {
		return netip.Addr{}, false
	}
	b, err := hex.DecodeString(digits)
	if err != nil {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(b)), true
}
