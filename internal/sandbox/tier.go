package sandbox

import "slices"

// Tier is how much a run is held by besides the kernel programs.
type Tier string

// The tiers, weakest first.
const (
	Redirected Tier = "redirected" // the kernel programs, and nothing else
	Workspace  Tier = "workspace"  // a person's own user and project, in namespaces of the run's own
	Strict     Tier = "strict"     // the same as a user of the agent's own, with nothing of a person's
)

// Tiers are all of them, weakest first.
var Tiers = []Tier{Redirected, Workspace, Strict}

// AtLeast says whether t is as strong as least.
func (t Tier) AtLeast(least Tier) bool { return slices.Index(Tiers, t) >= slices.Index(Tiers, least) }

// Open is what a tier leaves open, in a line, for people.
func (t Tier) Open() string {
	switch t {
	case Workspace:
		return "the project, and what the user may read under /usr, /etc and /opt"
	case Strict:
		return "its mounts, and what its user may read under /usr, /etc and /opt"
	case Redirected:
	}
	return "the host's Unix sockets, vsock, helpers of the same user, files of the user"
}
