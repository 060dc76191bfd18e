package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
)

// agentCgroup is below the one with the policy, as a run's is.
const agentCgroup = cgroupMount + "/agents/planner/run-1"

// patience bounds every wait; an emulated machine is slow.
const patience = 20 * time.Second

func (g *guest) listen() error {
	if err := os.MkdirAll(agentCgroup, 0o755); err != nil {
		return err
	}
	id, err := identity.CgroupID(cgroupMount + "/agents/planner")
	if err != nil {
		return err
	}
	if g.kernel, err = redirect.OpenPinned(g.options); err != nil {
		return err
	}
	if err := g.kernel.SetPolicy(id, policyID, g.unix); err != nil {
		return err
	}
	g.listener, err = g.kernel.Listen(policyID)
	return err
}

// redirected: a connection to address arrives at the gateway, with a record
// that says where it was going, while the agent sees the peer it asked for.
func (g *guest) redirected(address string) error {
	type result struct {
		record redirect.Record
		err    error
	}
	arrived := make(chan result, 1)
	go func() {
		record, err := g.serve(address)
		arrived <- result{record, err}
	}()
	answer, err := ask(agentCgroup, "tcp", address)
	if err != nil {
		return err
	}
	if want := "peer " + address + " said hello"; answer != want {
		return fmt.Errorf("the agent got %q, want %q", answer, want)
	}
	r := <-arrived
	if r.err != nil {
		return r.err
	}
	return sent(r.record, address)
}

// serve takes one connection of the family of an address, claims its record and
// echoes.
func (g *guest) serve(address string) (redirect.Record, error) {
	family := 0
	if netip.MustParseAddrPort(address).Addr().Is6() {
		family = 1
	}
	conn, err := g.listener.TCP[family].Accept()
	if err != nil {
		return redirect.Record{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return redirect.Record{}, err
	}
	record, err := g.listener.Claim(conn)
	if err != nil {
		return redirect.Record{}, fmt.Errorf("claim: %w", err)
	}
	return record, echo(conn)
}

func echo(conn net.Conn) error {
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	if err == nil {
		_, err = conn.Write(buf[:n])
	}
	if err != nil {
		return fmt.Errorf("echo: %w", err)
	}
	return nil
}

func sent(r redirect.Record, address string) error {
	if r.Original != netip.MustParseAddrPort(address) || r.PolicyID != policyID || r.UID != nobody ||
		r.PID == 0 || r.CgroupID == r.PolicyCgroupID || r.Comm == "" {
		return fmt.Errorf("the record of a call to %s is %+v", address, r)
	}
	return nil
}

// resolved: a query to any name server arrives at the policy's resolver, and
// its answer comes from the name server that was asked.
func (g *guest) resolved(address string, family int) error {
	type result struct {
		from net.Addr
		err  error
	}
	arrived := make(chan result, 1)
	go func() {
		conn := g.listener.DNS.UDP[family]
		buf := make([]byte, 64)
		conn.SetDeadline(time.Now().Add(patience))
		n, from, err := conn.ReadFrom(buf)
		if err == nil {
			_, err = conn.WriteTo(buf[:n], from)
		}
		arrived <- result{from, err}
	}()
	answer, err := ask(agentCgroup, "udp", address)
	if err != nil {
		return err
	}
	if want := "peer " + address + " said hello"; answer != want {
		return fmt.Errorf("the agent got %q, want %q", answer, want)
	}
	r := <-arrived
	if r.err != nil {
		return fmt.Errorf("resolver: %w", r.err)
	}
	record, err := g.listener.Sender(r.from.(*net.UDPAddr).AddrPort())
	if err != nil {
		return fmt.Errorf("sender of the query: %w", err)
	}
	return sent(record, address)
}
