package redirect

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/cilium/ebpf"

	"github.com/postern/postern/bpf"
)

// processed is what the verifier says last.
var processed = regexp.MustCompile(`processed (\d+) insns`)

// Instructions loads the programs, attaches nothing, and returns how many
// instructions the verifier looked at for each: what they cost to load, and how
// far they are from its limit of a million. Those of the optional hooks are among
// them where the kernel has the hooks.
func Instructions() (map[string]int, error) {
	spec, err := specFor(Options{Foretell: true})
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	if err := count(counts, spec); err != nil {
		return nil, err
	}
	optional, err := bpf.LoadUnix()
	if err != nil {
		return nil, fmt.Errorf("read the embedded programs: %w", err)
	}
	if err := count(counts, optional); err != nil && !errors.Is(err, errNotLoaded) {
		return nil, err
	}
	return counts, nil
}

var errNotLoaded = errors.New("load the programs")

func count(counts map[string]int, spec *ebpf.CollectionSpec) error {
	loaded, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errNotLoaded, err)
	}
	defer loaded.Close()
	for name, program := range loaded.Programs {
		found := processed.FindStringSubmatch(program.VerifierLog)
		if found == nil {
			return fmt.Errorf("the verifier says nothing of what %s cost: %.200q", name, program.VerifierLog)
		}
		if counts[name], err = strconv.Atoi(found[1]); err != nil {
			return err
		}
	}
	return nil
}
