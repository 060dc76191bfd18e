// Command guest is what the machine of test/boot runs besides Postern: the
// world outside, which counts what arrives (outside.go), and the program of
// the containers, which tries to reach it (container.go).
package main

import (
	"fmt"
	"os"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 4 && os.Args[1] == "container":
		err = container(os.Args[2], os.Args[3])
	case len(os.Args) == 2 && os.Args[1] == "outside":
		err = outside()
	default:
		err = fmt.Errorf("%q is not understood", os.Args[1:])
	}
	if err != nil {
		fmt.Println("guest: FAIL", err)
		os.Exit(1)
	}
}
