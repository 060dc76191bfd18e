package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/postern/postern/bpf"
)

// optional are hooks that newer kernels have (6.7). Where they are missing the
// core holds as it does; what they would add is in Status.
var optional = []hook{
	{name: "connect_unix", attach: ebpf.AttachCgroupUnixConnect},
	{name: "sendmsg_unix", attach: ebpf.AttachCgroupUnixSendmsg},
}

// attachOptional attaches what the kernel has of the optional hooks. Their
// absence is reported and no error.
func attachOptional(o Options, cgroup *os.File, cgroupID uint64, report *Report) error {
	spec, err := bpf.LoadUnix()
	if err != nil {
		return fmt.Errorf("read the embedded programs: %w", err)
	}
	for name, m := range spec.Maps {
		if slices.Contains(slices.Concat(daemonMaps, guardMaps, innerMaps), name) {
			m.Pinning = ebpf.PinByName
		}
	}
	loaded, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: o.maps()}})
	if err != nil {
		report.Missing = fmt.Sprintf("Unix sockets are not held (Linux 6.7 with BTF can): %v", err)
		return nil
	}
	defer loaded.Close()
	var own Report
	for _, h := range optional {
		if err := h.ensure(o, cgroup, cgroupID, loaded.Programs["postern_"+h.name], &own); err != nil {
			return fmt.Errorf("attach %s to %s: %w", h.name, o.Cgroup, err)
		}
	}
	report.Optional = slices.Concat(own.Attached, own.Updated, own.Kept)
	return nil
}

// optionalState is which of the optional hooks hold the cgroup.
func optionalState(o Options, cgroupID uint64) (states []LinkState, problems []Problem) {
	states = []LinkState{}
	for _, h := range optional {
		state, err := h.state(o)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			problems = append(problems, Problem{h.name, err.Error()})
		case state.CgroupID != cgroupID:
			problems = append(problems, Problem{h.name, "attached to a cgroup that was made anew: run `postern-guard attach`"})
		default:
			states = append(states, state)
		}
	}
	return states, problems
}

// removeOptional removes their pins.
func removeOptional(o Options) error {
	var errs []error
	for _, h := range optional {
		if err := os.Remove(filepath.Join(o.links(), h.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("detach %s: %w", h.name, err))
		}
	}
	return errors.Join(errs...)
}
