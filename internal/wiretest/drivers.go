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

// EachDriver runs the tests once per driver, and a fuzz target with the first
// only. It is called by TestMain, use before each run.
func EachDriver(m *testing.M, use func(Driver)) (code int) {
	flag.Parse()
	for d := Goroutines; d <= Looping; d++ {
		use(d)
		if code = m.Run(); code != 0 {
			fmt.Printf("with the driver %s\n", d)
			return code
		}
		if flag.Lookup("test.fuzz").Value.String() != "" || flag.Lookup("test.bench").Value.String() != "" {
			break
		}
	}
	return code
}
