package redirect

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"

	"github.com/postern/postern/bpf"
)

// Newer is a feature that newer kernels have and the core does without.
type Newer struct {
	Feature
	Since string `json:"since"` // the version of Linux that has it
	Costs string `json:"costs"` // what is weaker without it
}

// ProbeNewer tries them, by trial as Probe does. It attaches nothing.
func ProbeNewer() []Newer {
	since := func(f Feature, version, costs string) Newer {
		if f.Answer == No {
			f.Help = "run Linux " + version + " or later"
		}
		return Newer{f, version, costs}
	}
	return []Newer{
		since(feature("errno of a refused connect", features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval)), "5.18",
			"a connection that the kernel refuses says EPERM, whatever the upstream would have said"),
		since(feature("hooks for Unix sockets", tryUnix()), "6.7",
			"agents.unix cannot be used: in the tier redirected an agent reaches every Unix socket that its user does"),
		since(probeNetnsCookie(), "5.14",
			"the guard takes its own network namespace for the initial one, and has to run there"),
	}
}

// tryUnix loads the optional programs and lets go of them: they take the hooks,
// the kernel's BTF, and a lockdown that lets programs read it.
func tryUnix() error {
	spec, err := bpf.LoadUnix()
	if err != nil {
		return fmt.Errorf("read the embedded programs: %w", err)
	}
	loaded, err := ebpf.NewCollection(spec)
	if err != nil {
		return fmt.Errorf("%w: %w", ebpf.ErrNotSupported, err)
	}
	loaded.Close()
	return nil
}

func probeNetnsCookie() Feature {
	cookie, err := NetnsCookie()
	switch {
	case err != nil:
		return feature("cookie of a network namespace for programs", err)
	case cookie == 0:
		return feature("cookie of a network namespace for programs", ebpf.ErrNotSupported)
	}
	return feature("cookie of a network namespace for programs", nil)
}
