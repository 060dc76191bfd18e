package vault

import (
	"net"
	"sync"
	"testing"
	"time"
)

// patience is how long another program may take.
const patience = 20 * time.Second

// eventually tries until it works: it is another program that is waited for.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-tick.C
	}
}

// stalled is the address of a server that takes connections and says nothing.
func stalled(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var held []net.Conn
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			held = append(held, c)
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
		for _, c := range held {
			c.Close()
		}
	})
	return l.Addr().String()
}
