package gateway

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/internal/dns"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/policy"
)

// target finds the target of a flow: by name where the resolver gave the
// address out, else by the address itself.
func (s *Setup) target(f engine.Flow) *Target {
	switch {
	case f.Unclear != "":
		return nil
	case f.Name != "":
		return s.named(f.Name, f.Original.Port())
	}
	return s.listed(f.Original)
}

// named finds the target that has a name on a port. A name that is listed beats
// a wildcard, and of wildcards the one with the longest suffix counts.
func (s *Setup) named(name string, port uint16) *Target {
	var found *Target
	best := 0
	for _, t := range s.Targets {
		for _, h := range t.Hosts {
			if n := h.covers(name); n > best && h.Port == port {
				found, best = t, n
			}
		}
	}
	return found
}

// listed finds the target that lists an address.
func (s *Setup) listed(at netip.AddrPort) *Target {
	for _, t := range s.Targets {
		for _, h := range t.Hosts {
			if a, err := netip.ParseAddr(h.Host); err == nil && h.Port == at.Port() && a.Unmap() == at.Addr().Unmap() {
				return t
			}
		}
	}
	return nil
}

// covers says how closely a host is a name: not at all (0), by a wildcard (the
// length of its suffix), or exactly, which is more than any wildcard.
func (h HostPort) covers(name string) int {
	if h.Host == name {
		return exactly
	}
	if suffix, wild := strings.CutPrefix(h.Host, "*"); wild && strings.HasSuffix(name, suffix) && len(name) > len(suffix) {
		return len(suffix)
	}
	return 0
}

// exactly is longer than a name can be.
const exactly = 1 << 10

// hostOf is the address of the target that the agent meant: below a wildcard,
// the very name.
func hostOf(f engine.Flow) HostPort {
	if f.Name != "" {
		return HostPort{f.Name, f.Original.Port()}
	}
	return HostPort{f.Original.Addr().Unmap().String(), f.Original.Port()}
}

// Sees says what an agent may know of a name: it is granted when some target
// that the agent's policy opens has it, on the port where that target counts.
func (s *Setup) Sees(agent, name string) dns.Grant {
	a := s.Agents[agent]
	if a == nil {
		return dns.Unknown
	}
	best, realAddresses, admitted, above := 0, false, false, false
	for _, t := range s.Targets {
		for _, h := range t.Hosts {
			n := h.covers(name)
			if n > best {
				best, realAddresses = n, t.Real
			}
			admitted = admitted || n > 0 && s.named(name, h.Port) == t && a.admits(t)
			above = above || strings.HasSuffix(h.Host, "."+name) && a.admits(t)
		}
	}
	switch {
	case !admitted && above:
		return dns.Above
	case !admitted:
		return dns.Unknown
	case realAddresses:
		return dns.Real
	case best == exactly:
		return dns.Fixed
	}
	return dns.Wild
}

// admits says whether the agent may know of a target, whoever it runs for: who
// looks a name up is not known by run.
func (a *Agent) admits(t *Target) bool {
	return a.Policy.Admit(t.Name).Action != policy.Deny || a.observing(time.Now()) ||
		slices.ContainsFunc(a.Roles, func(r RolePolicy) bool { return r.Agent.admits(t) })
}

// Meant finds the name behind an address that an agent dials, from what it was
// told. Where that is two targets' the agent could mean either, and the names
// are returned as unclear; the address of a third that lists it counts as one.
func (s *Setup) Meant(told *dns.Told, at netip.AddrPort) (name, unclear string) {
	if a := at.Addr(); dns.Virtual(a) {
		if name, ok := s.Names.Name(a); ok {
			return name, ""
		}
		name, _ = told.Name(a)
		return name, ""
	}
	names := told.Names(at.Addr(), time.Now())
	var targets []*Target
	var meant []string
	for _, n := range names {
		if t := s.named(n, at.Port()); t != nil {
			targets, meant = append(targets, t), append(meant, n)
		}
	}
	if t := s.listed(at); t != nil {
		targets, meant = append(targets, t), append(meant, "")
	}
	switch {
	case len(meant) == 0 && len(names) > 0:
		return names[0], "" // of no target on this port, which is for the denial to say
	case len(meant) == 0:
		return "", ""
	case slices.ContainsFunc(targets, func(t *Target) bool { return t != targets[0] }):
		if last := len(meant) - 1; meant[last] == "" {
			meant[last] = at.Addr().String()
		}
		return "", strings.Join(meant[:min(len(meant), maxUnclear)], ", ")
	}
	return meant[0], "" // the newest, or none for an address that is only listed
}

// maxUnclear bounds the names in a denial.
const maxUnclear = 8

// Check says why a set of target hosts is ambiguous, if it is: two targets on
// one host and port could not be told apart, and one name has either virtual or
// real addresses. Wildcards that overlap are told apart by their suffixes.
func (s *Setup) Check() error {
	seen, realAddresses := map[HostPort]bool{}, map[string]bool{}
	for _, t := range s.Targets {
		for _, h := range t.Hosts {
			if seen[h] {
				return fmt.Errorf("two targets have the host %s; each needs a host and port of its own", h)
			}
			seen[h] = true
			if _, err := netip.ParseAddr(h.Host); err == nil {
				continue
			}
			if before, ok := realAddresses[h.Host]; ok && before != t.Real {
				return fmt.Errorf("two targets have the name %s, one of them with real_addresses; they need the same", h.Host)
			}
			realAddresses[h.Host] = t.Real
		}
	}
	return nil
}
