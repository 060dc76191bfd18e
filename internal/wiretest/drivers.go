package wiretest

import (
	"flag"
	"fmt"
	"testing"
)

// Driver is how sessions are relayed in a run of a package's transcripts, which
// are the same for all of them.
type Driver int

const (
	Goroutines Driver = iota // two for each session
	Bouncing                 // a loop, which every request leaves because nothing is known of it at first
	Looping                  // a loop, which only requests leave that wait for people
)

func (d Driver) String() string { return [...]string{"goroutines", "bouncing", "looping"}[d] }

// EachDriver runs the tests once per driver; what is fuzzed, measured or only
// listed, with the first alone. It is called by TestMain, use before each run.
func EachDriver(m *testing.M, use func(Driver)) (code int) {
	flag.Parse()
	for d := Goroutines; d <= Looping; d++ {
		use(d)
		if code = m.Run(); code != 0 {
			fmt.Printf("with the driver %s\n", d)
			return code
		}
		if given("test.fuzz") || given("test.bench") || given("test.list") {
			break
		}
	}
	return code
}

func given(name string) bool { return flag.Lookup(name).Value.String() != "" }
