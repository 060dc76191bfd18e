package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// roleSSH is a client of SSH that does its work once, as soon as it starts.
const roleSSH = "ssh"

// sshWork is what such a client does, and how it gets there.
type sshWork struct {
	To       string // host:port
	Jump     string // host:port of a server that it goes through; empty: none
	Key      string // file; empty: it has none
	Count    int    // commands, over all connections
	Parallel int    // connections
	Fresh    bool   // each command has a connection of its own
	Hold     bool   // a shell on each connection, until standard input ends
}

// do prints how many nanoseconds the work took.
func (w *sshWork) do() error {
	config := &ssh.ClientConfig{
		User: "root", HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // what is measured is how long it takes
		Timeout: patience * time.Second,
	}
	if w.Key != "" {
		text, err := os.ReadFile(w.Key)
		if err != nil {
			return err
		}
		signer, err := ssh.ParsePrivateKey(text)
		if err != nil {
			return err
		}
		config.Auth = []ssh.AuthMethod{ssh.PublicKeys(signer)}
	}
	var left atomic.Int64
	left.Store(int64(w.Count))
	failed := make([]error, w.Parallel)
	clients := make([]*sshClient, w.Parallel)
	var all sync.WaitGroup
	start := time.Now()
	for i := range w.Parallel {
		all.Go(func() {
			failed[i] = w.worker(config, &left, &clients[i])
		})
	}
	all.Wait()
	took := time.Since(start)
	if err := errors.Join(failed...); err != nil {
		return err
	}
	fmt.Println(took.Nanoseconds())
	if w.Hold {
		io.Copy(io.Discard, os.Stdin) //nolint:errcheck // its end is all that matters
	}
	for _, c := range clients {
		c.close()
	}
	return nil
}

func (w *sshWork) worker(config *ssh.ClientConfig, left *atomic.Int64, held **sshClient) (err error) {
	for left.Add(-1) >= 0 {
		if *held == nil {
			if *held, err = w.connect(config); err != nil {
				return err
			}
		}
		session, err := (*held).NewSession()
		if err != nil {
			return err
		}
		if w.Hold {
			if _, err := session.StdinPipe(); err != nil {
				return err
			}
			if err := session.Start("cat"); err != nil {
				return err
			}
			continue
		}
		if err := session.Run("true"); err != nil {
			return err
		}
		if w.Fresh {
			(*held).close()
			*held = nil
		}
	}
	return nil
}

// sshClient is a connection, and the one that it goes through.
type sshClient struct {
	*ssh.Client
	jump *ssh.Client
}

func (c *sshClient) close() {
	if c == nil {
		return
	}
	c.Close()
	if c.jump != nil {
		c.jump.Close()
	}
}

func (w *sshWork) connect(config *ssh.ClientConfig) (*sshClient, error) {
	first, err := ssh.Dial("tcp", cmp.Or(w.Jump, w.To), config)
	if err != nil || w.Jump == "" {
		return &sshClient{Client: first}, err
	}
	within, err := first.Dial("tcp", w.To)
	if err != nil {
		return nil, err
	}
	conn, opened, requests, err := ssh.NewClientConn(within, w.To, config)
	if err != nil {
		return nil, err
	}
	return &sshClient{Client: ssh.NewClient(conn, opened, requests), jump: first}, nil
}
