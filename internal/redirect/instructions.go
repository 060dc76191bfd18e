package redirect

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/cilium/ebpf"
)

// processed is what the verifier says last.
var processed = regexp.MustCompile(`processed (\d+) insns`)

// Instructions loads the programs, attaches nothing, and returns how many
// instructions the verifier looked at for each: what they cost to load, and how
// far they are from its limit of a million.
func Instructions() (map[string]int, error) {
	spec, err := specFor(Options{Foretell: true})
	if err != nil {
		return nil, err
	}
	loaded, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	if err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	defer loaded.Close()
	counts := map[string]int{}
	for name, program := range loaded.Programs {
		found := processed.FindStringSubmatch(program.VerifierLog)
		if found == nil {
			return nil, fmt.Errorf("the verifier says nothing of what %s cost: %.200q", name, program.VerifierLog)
		}
		if counts[name], err = strconv.Atoi(found[1]); err != nil {
			return nil, err
		}
	}
	return counts, nil
}
