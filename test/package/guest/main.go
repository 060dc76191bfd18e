// Command guest encrypts its standard input to an age recipient, for the
// machine of test/package, which has no age. The machine's story is in scenario.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"filippo.io/age"
)

func main() {
	if err := encrypt(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func encrypt(args []string) error {
	if len(args) != 2 || args[0] != "encrypt" {
		return fmt.Errorf("%q is not understood", args)
	}
	to, err := age.ParseX25519Recipient(args[1])
	if err != nil {
		return err
	}
	w, err := age.Encrypt(os.Stdout, to)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, os.Stdin)
	return errors.Join(err, w.Close())
}
