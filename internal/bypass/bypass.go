// Package bypass is the list of ways around the gateway, as attempts that are
// really made, and the judge of what became of them. The tests, the virtual
// machines of old kernels and `postern verify` on an installed host make the
// same attempts, and docs/security.md has the list as a table.
//
// An attempt is a small function that makes its own system calls inside of a
// policy cgroup (Inside). The judge is outside of it: a server and a sniffer at
// the other end of a cable (package outside), services of a host that agents
// have no business with, the kernel's counters. An attempt that got what it
// wanted returns nil, and nothing is sent but to the addresses that the judge
// gave.
//
// What this package leaves to others: starting the process in its cgroup
// (Judge.Launch). Start reading at Attempt, then Judge.Run; the attempts are in
// the files that are named for what they go by.
package bypass

import (
	"fmt"
	"slices"
)

// Attempt is one way around.
type Attempt struct {
	Name     string // letters, digits and hyphens
	Tries    string // what it does, in one line
	Families []Family
	// Needs is what a host may lack, so that there is nothing to try.
	Needs string
	Must  [3]Must // by tier
	// Unix: it goes by a Unix socket of the host, so that in the tier redirected
	// agents.unix stops it, on Linux 6.7 and later.
	Unix bool

	// clone are the namespaces that its process is started in.
	clone uintptr
	// first makes the first process of the run try it, which has what the launcher
	// left it.
	first bool
	// path is where it wants to go, where that is a file; uid is the agent's.
	path   func(uid int) string
	folder bool
	do     func(t *try) error
}

// Family is what an attempt goes by.
type Family string

// The families; Neither is for what has nothing to do with addresses.
const (
	V4      Family = "v4"
	V6      Family = "v6"
	Neither Family = "-"
)

var (
	both    = []Family{V4, V6}
	only4   = []Family{V4}
	only6   = []Family{V6}
	neither = []Family{Neither}
)

// Tier is how much holds an agent.
type Tier int

// The tiers, see docs/security.md.
const (
	Redirected Tier = iota
	Workspace
	Strict
)

var tierNames = [3]string{"redirected", "workspace", "strict"}

func (t Tier) String() string { return tierNames[t] }

// TierNamed finds a tier by its name.
func TierNamed(name string) (Tier, error) {
	i := slices.Index(tierNames[:], name)
	if i < 0 {
		return 0, fmt.Errorf("%q is no tier; there are: %v", name, tierNames)
	}
	return Tier(i), nil
}

// Hook is what stops an attempt: a kind of denial that the programs count, by
// the names of docs/metrics.md, or something else that holds.
type Hook string

// Kinds that the kernel programs count.
const (
	ByRedirect      Hook = "redirected" // it arrives at the gateway, which refuses
	ByResolver      Hook = "resolved"   // it arrives at the gateway's resolver
	BySocket        Hook = "socket"
	ByNoPolicy      Hook = "no_policy"
	ByForeignSocket Hook = "foreign_socket"
	ByUDP           Hook = "udp"
	ByBind          Hook = "bind"
	ByGatewayPort   Hook = "gateway_port"
	ByNoListener    Hook = "no_listener"
	ByDevice        Hook = "device"
	ByEgress        Hook = "egress"
	ByIngress       Hook = "ingress"
	ByUnix          Hook = "unix"
)

// What else stops attempts.
const (
	ByKernel    Hook = "kernel"    // the kernel's own checks: no capability, another user, the ranges of sysctl
	ByNamespace Hook = "namespace" // what it wants is not in its namespaces
	ByMounts    Hook = "mounts"    // the file is not in its mounts, or read-only
	BySeccomp   Hook = "seccomp"   // the filter of system calls
	ByDaemon    Hook = "daemon"    // the daemon or the guard refuses who asks
	ByLauncher  Hook = "launcher"  // the guard starts runs with nothing that they could use
)

// Counted says whether the programs count it, so that it is known to have
// stopped something.
func (h Hook) Counted() bool {
	return !slices.Contains([]Hook{ByKernel, ByNamespace, ByMounts, BySeccomp, ByDaemon, ByLauncher}, h)
}

// Must is what has to become of an attempt in one tier.
type Must struct {
	By   []Hook // one of these stops it
	Open string // not empty: nothing does, and this is what to do about it
}

// everywhere: the same stops it in every tier.
func everywhere(by ...Hook) [3]Must { return [3]Must{{By: by}, {By: by}, {By: by}} }

// boxed: besides what stops it everywhere, the namespaces and filters of the
// other two tiers do.
func boxed(by []Hook, sandbox ...Hook) [3]Must {
	all := append(slices.Clone(by), sandbox...)
	return [3]Must{{By: by}, {By: all}, {By: all}}
}

func by(hooks ...Hook) []Hook { return hooks }

// openUnlessBoxed: open in the tier redirected, and what to do about that.
func openUnlessBoxed(help string, sandbox ...Hook) [3]Must {
	return [3]Must{{Open: help}, {By: sandbox}, {By: sandbox}}
}

// All is the list, in the order in which it is shown.
func All() []Attempt {
	return slices.Concat(tcpAttempts, nameAttempts, udpAttempts, socketAttempts, bindAttempts,
		passedAttempts, cgroupAttempts, processAttempts, kernelAttempts, serviceAttempts)
}
