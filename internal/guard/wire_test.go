package guard

import (
	"encoding/binary"
	"fmt"
	"net"
	"testing"
)

// TestLargeRequests: of those that announce a lot, which anybody may, a few are waited
// for at a time; small ones do not wait.
func TestLargeRequests(t *testing.T) {
	guard, _ := attended(t, newRoot(t))
	var announced []net.Conn
	for range maxLarge + 8 {
		conn, err := net.Dial("unix", guard.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(binary.BigEndian.AppendUint32(nil, maxRequest)); err != nil {
			t.Fatal(err)
		}
		announced = append(announced, conn)
	}
	reading := func(want int) {
		t.Helper()
		eventually(t, "large requests", func() error {
			if n := len(largeRequests); n != want {
				return fmt.Errorf("%d are read, want %d", n, want)
			}
			return nil
		})
	}
	reading(maxLarge)
	if _, err := guard.Status(t.Context()); err != nil {
		t.Errorf("a small request: %v", err)
	}
	for _, conn := range announced {
		conn.Close()
	}
	reading(0)
}
