package main

import "testing"

// TestFinds: all of them find something where there is something, and nothing
// where there is not, so that no rate is one of a search that was not made.
// Postern finds one value in ten.
func TestFinds(t *testing.T) {
	all, err := engines()
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range works() {
		for _, e := range all {
			finds := e.run(w)
			if (finds > 0) != w.finds {
				t.Errorf("%s found %d in %s", e.name, finds, w.name)
			}
			if part := float64(finds) / float64(len(w.values)); e.name == "postern" && w.finds && (part < 0.09 || part > 0.11) {
				t.Errorf("%s found something in %.3f of the values of %s", e.name, part, w.name)
			}
		}
	}
}

// TestNothingIsAllocated where nothing is found.
func TestNothingIsAllocated(t *testing.T) {
	run := postern()
	for _, w := range works() {
		if !w.finds {
			if n := testing.AllocsPerRun(3, func() { run(w) }); n > 0 {
				t.Errorf("%s: %v allocations", w.name, n)
			}
		}
	}
}
