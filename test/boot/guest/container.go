package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// life is how long the program of a container runs before it ends, to be
// started again.
const life = time.Second

// pace is between two rounds: the processor is emulated.
const pace = 20 * time.Millisecond

// patience is how long one attempt of a container may take.
const patience = 200 * time.Millisecond

// container tries to get out, from its first instruction until it ends, and
// writes what came of each attempt into a file that outlives it.
func container(name, address string) error {
	log, err := os.OpenFile(filepath.Join("/tries", name), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	for end := time.Now().Add(life); time.Now().Before(end); time.Sleep(pace) {
		for _, port := range []string{"443", "53"} {
			for _, network := range []string{"tcp4", "udp4"} {
				fmt.Fprintf(log, "try %s:%s %s\n", network, port, try(network, net.JoinHostPort(address, port), patience))
			}
		}
	}
	_, err = fmt.Fprintln(log, "end")
	return err
}

// try sends something, and says by which errno it did not go out, or "open".
func try(network, address string, within time.Duration) string {
	c, err := net.DialTimeout(network, address, within)
	if err == nil {
		_, err = c.Write([]byte("canary"))
		c.Close()
	}
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case err == nil:
		return "open"
	case errors.As(err, &errno):
		return fmt.Sprintf("errno=%d", int(errno))
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return err.Error()
}
