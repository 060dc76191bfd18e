package control_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/postern/postern/pkg/control"
)

// A watch that denies what touches a table, and stops. In a program of your own
// the socket is control.DefaultSocket.
func ExampleClient_Watch() {
	socket, stop := standIn()
	defer stop()
	client := control.New(socket)
	done := errors.New("done")
	err := client.Watch(context.Background(), func(a control.Approval) error {
		fmt.Println(a.State, a.ID, a.Effects)
		if a.State != "pending" {
			return nil
		}
		denied, err := client.Deny(context.Background(), a.ID, "payroll is frozen")
		if err != nil {
			return err
		}
		fmt.Println(denied.State, denied.Reason)
		return done
	})
	if err != nil && !errors.Is(err, done) {
		log.Fatal(err)
	}
	// Output:
	// pending 7kq2m0xd [update public.payroll]
	// denied payroll is frozen
}

func ExampleClient_Status() {
	_, err := control.New("/run/postern/no-such.sock").Status(context.Background())
	if errors.Is(err, control.ErrNotRunning) {
		fmt.Println("start it with: systemctl start posternd")
	}
	// Output: start it with: systemctl start posternd
}

// standIn answers as a daemon with one approval would.
func standIn() (socket string, stop func()) {
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		log.Fatal(err)
	}
	socket = filepath.Join(dir, "control.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/approvals", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, `{"id":"7kq2m0xd","state":"pending","effects":["update public.payroll"]}`)
	})
	mux.HandleFunc("POST /v1/approvals/{id}/deny", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, `{"id":"7kq2m0xd","state":"denied","reason":"payroll is frozen"}`)
	})
	server := http.Server{Handler: mux}
	go server.Serve(l)
	return socket, func() {
		server.Close()
		os.RemoveAll(dir)
	}
}
