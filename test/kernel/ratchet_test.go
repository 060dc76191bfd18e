//go:build qemu

package kernel

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

// update writes what was measured, for a change that is worth what it costs:
//
//	go test -count=1 -tags=qemu ./test/kernel -update
var update = flag.Bool("update", false, "write the verifier's instruction counts to instructions.json")

// ratchetFile has how many instructions the verifier of each kernel looked at
// for each program.
const ratchetFile = "instructions.json"

// ratchetSlack is by how much a program may grow before somebody has to say
// that it is worth it, in percent.
const ratchetSlack = 10

// ratchet is kernel → program → instructions.
type ratchet map[string]map[string]int

func readRatchet(t *testing.T) ratchet {
	t.Helper()
	r := ratchet{}
	text, err := os.ReadFile(ratchetFile)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil && !*update {
		t.Fatal(err)
	}
	return r
}

// check compares one kernel's counts with those on record.
func (r ratchet) check(t *testing.T, kernel string, measured map[string]int) {
	if len(measured) == 0 {
		t.Fatal("the guest counted nothing")
	}
	if *update {
		r[kernel] = measured
		return
	}
	const how = "go test -count=1 -tags=qemu ./test/kernel -update"
	for program, n := range measured {
		was, ok := r[kernel][program]
		if !ok {
			t.Errorf("%s has no instruction count on record: %s", program, how)
		} else if n*100 > was*(100+ratchetSlack) {
			t.Errorf("%s takes the verifier %d instructions, over %d %% more than the %d on record; if it is worth that: %s", program, n, ratchetSlack, was, how)
		}
	}
	for program := range r[kernel] {
		if _, ok := measured[program]; !ok {
			t.Errorf("%s is on record and no program: %s", program, how)
		}
	}
}

func (r ratchet) write(t *testing.T) {
	t.Helper()
	if !*update {
		return
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ratchetFile, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// instructionsIn reads `guest: instructions PROGRAM COUNT`.
func instructionsIn(console string) map[string]int {
	counts := map[string]int{}
	for line := range strings.Lines(console) {
		_, said, _ := strings.Cut(line, "guest: ")
		var program string
		var n int
		if got, _ := fmt.Sscanf(said, "instructions %s %d", &program, &n); got == 2 {
			counts[program] = n
		}
	}
	return counts
}
