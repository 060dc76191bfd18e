// Package dns answers the agents' name lookups. Every name of a configured
// target has a virtual address of its own, so that the name an agent meant is
// known when it connects, also for protocols that do not say it (PostgreSQL,
// SSH). No query leaves the host: names cannot carry data out.
//
// Table holds the addresses, Server answers from it. Which names an agent may
// see is asked of the caller. Start with Server.answer.
package dns

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// ttl is short, because a name may stop being answered with the next
	// configuration; its address does not change.
	ttl = 30
	// maxTCPQueries bounds one connection over TCP.
	maxTCPQueries = 128
	queryTimeout  = 5 * time.Second
	// maxTCPConnections bounds the connections that are served at once.
	maxTCPConnections = 64
)

// Names says what an agent may look up. Both are called for every query.
type Names struct {
	// Allowed reports whether the name, in lower case without the final dot, is
	// that of a target the agent's policy knows.
	Allowed func(name string) bool
	// Table has the addresses in force.
	Table func() *Table
	// Refused is told of every query that was not answered, by kind: "name",
	// "type" or "malformed". It may be nil.
	Refused func(kind string)
}

// Server answers the queries of one agent.
type Server struct{ Names Names }

// Run serves the sockets until ctx ends; it closes them. Known decides whether
// a datagram's sender, or a connection, is an agent of this policy; nil means
// everybody is.
func (s *Server) Run(ctx context.Context, udp []net.PacketConn, tcp []net.Listener, knownUDP func(netip.AddrPort) bool, knownTCP func(net.Conn) bool) {
	stop := context.AfterFunc(ctx, func() {
		for _, c := range udp {
			c.Close()
		}
		for _, l := range tcp {
			l.Close()
		}
	})
	defer stop()
	var running sync.WaitGroup
	for _, c := range udp {
		running.Go(func() { s.serveUDP(c, knownUDP) })
	}
	for _, l := range tcp {
		running.Go(func() { s.serveTCP(ctx, l, knownTCP) })
	}
	running.Wait()
}

func (s *Server) serveUDP(c net.PacketConn, known func(netip.AddrPort) bool) {
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an answer that nobody waited for
		}
		at, ok := from.(*net.UDPAddr)
		if !ok || known != nil && !known(unmapped(at.AddrPort())) {
			continue
		}
		if answer := s.reply(buf[:n], true); answer != nil {
			c.WriteTo(answer, from) //nolint:errcheck // the client asks again
		}
	}
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

func (s *Server) serveTCP(ctx context.Context, l net.Listener, known func(net.Conn) bool) {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, maxTCPConnections)
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return
		}
		if err != nil {
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		running.Go(func() {
			defer func() { conn.Close(); <-slots }()
			if known == nil || known(conn) {
				s.connection(ctx, conn)
			}
		})
	}
}

func (s *Server) connection(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c := dns.Conn{Conn: conn}
	for range maxTCPQueries {
		conn.SetDeadline(time.Now().Add(queryTimeout))
		query, err := c.ReadMsgHeader(nil)
		if err != nil {
			return
		}
		answer := s.reply(query, false)
		if answer == nil {
			return
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// reply answers a query in wire form; nil when it is none.
func (s *Server) reply(query []byte, udp bool) []byte {
	var q dns.Msg
	if err := q.Unpack(query); err != nil || q.Response {
		s.refused("malformed")
		return nil
	}
	a := s.answer(&q)
	size := dns.MaxMsgSize
	if udp {
		size = dns.MinMsgSize
	}
	if o := q.IsEdns0(); o != nil {
		a.SetEdns0(dns.DefaultMsgSize, false)
		if udp {
			size = max(dns.MinMsgSize, int(o.UDPSize()))
		}
	}
	a.Truncate(size)
	packed, err := a.Pack()
	if err != nil {
		s.refused("malformed")
		return nil
	}
	return packed
}

// answer decides a query. Only addresses and reverse lookups are answered with
// data; every other type of a known name is empty, and of any other name there
// is none.
func (s *Server) answer(q *dns.Msg) *dns.Msg {
	a := new(dns.Msg)
	a.SetReply(q)
	a.RecursionAvailable = true
	a.Compress = true
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 || q.Question[0].Qclass != dns.ClassINET {
		s.refused("type")
		a.Rcode = dns.RcodeRefused
		return a
	}
	question := q.Question[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	table := s.Names.Table()
	if question.Qtype == dns.TypePTR {
		return s.reverse(a, question, table)
	}
	if name == "localhost" {
		return loopback(a, question)
	}
	v4, v6, ok := table.Addresses(name)
	if !ok || !s.Names.Allowed(name) {
		s.refused("name")
		a.Rcode = dns.RcodeNameError
		return a
	}
	header := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: ttl}
	switch question.Qtype {
	case dns.TypeA:
		a.Answer = []dns.RR{&dns.A{Hdr: header, A: v4.AsSlice()}}
	case dns.TypeAAAA:
		a.Answer = []dns.RR{&dns.AAAA{Hdr: header, AAAA: v6.AsSlice()}}
	default:
		s.refused("type")
	}
	return a
}

func loopback(a *dns.Msg, q dns.Question) *dns.Msg {
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ttl}
	switch q.Qtype {
	case dns.TypeA:
		a.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(127, 0, 0, 1)}}
	case dns.TypeAAAA:
		a.Answer = []dns.RR{&dns.AAAA{Hdr: header, AAAA: net.IPv6loopback}}
	}
	return a
}

// reverse answers for virtual addresses whose name the agent may see.
func (s *Server) reverse(a *dns.Msg, q dns.Question, table *Table) *dns.Msg {
	if ip, ok := address(q.Name); ok {
		if name, ok := table.Name(ip); ok && s.Names.Allowed(name) {
			header := dns.RR_Header{Name: q.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ttl}
			a.Answer = []dns.RR{&dns.PTR{Hdr: header, Ptr: dns.Fqdn(name)}}
			return a
		}
	}
	s.refused("name")
	a.Rcode = dns.RcodeNameError
	return a
}

func (s *Server) refused(kind string) {
	if s.Names.Refused != nil {
		s.Names.Refused(kind)
	}
}

// address takes the name of a reverse lookup apart.
func address(name string) (netip.Addr, bool) {
	labels := dns.SplitDomainName(strings.ToLower(name))
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
