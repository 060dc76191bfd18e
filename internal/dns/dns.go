// Package dns answers the agents' name lookups. Every name of a configured
// target has a virtual address of its own, so that the name an agent meant is
// known when it connects, also for protocols that do not say it (PostgreSQL,
// SSH). No query leaves the host but for names whose targets ask for it (real
// addresses): names cannot carry data out.
//
// Table holds the addresses of the names that are configured, Told what one
// agent was told besides: names below wildcards, and real addresses. Memory has
// the Told of all agents and keeps them over a restart. Server answers from
// them. What an agent may know of a name is asked of the caller. Start with
// Server.decide, in answer.go.
package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxTCPQueries bounds one connection over TCP.
	maxTCPQueries = 128
	queryTimeout  = 5 * time.Second
	// maxTCPConnections bounds the connections of an agent that are served at
	// once.
	maxTCPConnections = 64
	// maxLookups bounds the lookups outside that an agent waits for at once.
	maxLookups = 16
	// queriesPerSecond and queryBurst are what one agent may ask. A query costs
	// about 10 µs, so this is two hundredths of a processor; a client that opens
	// a thousand connections a second and looks each up stays below.
	queriesPerSecond = 2000
	queryBurst       = 4000
	// lookupsPerSecond and lookupBurst are the same for lookups that leave the
	// host: what they ask is visible there.
	lookupsPerSecond = 20
	lookupBurst      = 100
)

// Grant is what an agent may know of a name.
type Grant uint8

const (
	// Unknown: for this agent there is no such name.
	Unknown Grant = iota
	// Above: a name of no target, below which there are some.
	Above
	// Fixed: a name that is configured; its address is in the Table.
	Fixed
	// Wild: a name below a configured wildcard; it gets an address when it is
	// asked for.
	Wild
	// Real: a name that is told its real addresses.
	Real
)

// Refusal is why a query has no answer, as a label of metrics.
type Refusal string

// The kinds of refusals.
const (
	ByName     Refusal = "name"       // of no target of the agent's
	ByType     Refusal = "type"       // a type, class or operation that is not answered
	Malformed  Refusal = "malformed"  // no query, or one against the protocol
	Rate       Refusal = "rate"       // more than an agent may ask
	Unresolved Refusal = "unresolved" // the host's resolver does not know either
	Forbidden  Refusal = "address"    // the real addresses are such as nobody may dial
)

// Options of a Server. Its functions are called for every query, from several
// goroutines.
type Options struct {
	Agent string
	// Grant says what the agent may know of a name in lower case, without the
	// final dot.
	Grant func(name string) Grant
	// Table has the addresses in force.
	Table func() *Table
	Told  *Told
	// Lookup asks outside for a name's real addresses of one family. None, and no
	// error, means that there are only such as may not be dialled. It may be nil
	// where no name is Real.
	Lookup func(ctx context.Context, name string, ipv6 bool) ([]netip.Addr, error)
	// Refused is told of every query that was not answered; it may be nil.
	Refused func(Refusal)
	Log     *slog.Logger
}

// Server answers the queries of one agent, wherever they arrive.
type Server struct {
	Options
	queries     *bucket
	lookups     *lookups
	slots       chan struct{} // of lookups
	connections chan struct{}
	complaints  complaints
}

// New returns a server; it starts nothing.
func New(o Options) *Server {
	return &Server{
		Options: o, queries: newBucket(queriesPerSecond, queryBurst), lookups: newLookups(),
		slots: make(chan struct{}, maxLookups), connections: make(chan struct{}, maxTCPConnections),
	}
}

// Run serves sockets until ctx ends; it closes them. Known decides whether
// a datagram's sender, or a connection, is an agent of this policy; nil means
// everybody is. Several Runs of one Server share its limits.
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
		running.Go(func() { s.serveUDP(ctx, c, knownUDP) })
	}
	for _, l := range tcp {
		running.Go(func() { s.serveTCP(ctx, l, knownTCP) })
	}
	running.Wait()
}

func (s *Server) serveUDP(ctx context.Context, c net.PacketConn, known func(netip.AddrPort) bool) {
	var running sync.WaitGroup
	defer running.Wait()
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
		// Over its rate an agent gets no answer: it asks again later, which a
		// refusal would keep it from.
		if !s.queries.take(time.Now()) {
			s.refused(Rate, "")
			continue
		}
		answer, wait := s.reply(buf[:n], true)
		if wait == nil {
			if answer != nil {
				c.WriteTo(answer, from) //nolint:errcheck // the client asks again
			}
			continue
		}
		if !s.enter() {
			s.refused(Rate, "")
			continue
		}
		running.Go(func() {
			defer s.leave()
			if answer := wait(ctx); answer != nil {
				c.WriteTo(answer, from) //nolint:errcheck // the client asks again
			}
		})
	}
}

func (s *Server) enter() bool {
	select {
	case s.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *Server) leave() { <-s.slots }

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

func (s *Server) serveTCP(ctx context.Context, l net.Listener, known func(net.Conn) bool) {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return
		}
		if err != nil {
			continue
		}
		select {
		case s.connections <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		running.Go(func() {
			defer func() { conn.Close(); <-s.connections }()
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
		answer := s.overTCP(ctx, query)
		if answer == nil {
			return
		}
		conn.SetDeadline(time.Now().Add(queryTimeout))
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// overTCP answers one query of a connection, which may wait by itself.
func (s *Server) overTCP(ctx context.Context, query []byte) []byte {
	if !s.queries.take(time.Now()) {
		s.refused(Rate, "")
		return short(query, dns.RcodeRefused)
	}
	answer, wait := s.reply(query, false)
	if wait == nil {
		return answer
	}
	if !s.enter() {
		s.refused(Rate, "")
		return short(query, dns.RcodeRefused)
	}
	defer s.leave()
	return wait(ctx)
}

// refused counts a query without an answer, and tells the log of those that may
// be an attempt at something.
func (s *Server) refused(why Refusal, name string) {
	if s.Refused != nil {
		s.Refused(why)
	}
	if s.Log == nil || why != ByName && why != Rate {
		return
	}
	if suppressed, now := s.complaints.due(time.Now()); now {
		s.Log.Warn("lookups refused", "agent", s.Agent, "kind", string(why), "name", name[:min(len(name), maxLogged)], "suppressed", suppressed)
	}
}
