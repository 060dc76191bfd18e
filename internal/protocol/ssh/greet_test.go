package ssh

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wire"
)

func asks(answers ...string) ssh.AuthMethod {
	return ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
		return answers[:len(questions)], nil
	})
}

// The kernel says who the agent is: it needs no proof, and any key will do. A
// password is the placeholder or a mistake that is told.
func TestAgentLogsIn(t *testing.T) {
	for name, c := range map[string]struct {
		auth    string
		methods []ssh.AuthMethod
		user    string // of the placeholder
		denied  string
	}{
		"nothing":                     {},
		"any key":                     {methods: []ssh.AuthMethod{ssh.PublicKeys(newKey(t).signer)}},
		"the placeholder":             {auth: authPassword, methods: []ssh.AuthMethod{ssh.Password(placeholder)}},
		"the placeholder, asked":      {auth: authPassword, methods: []ssh.AuthMethod{asks(placeholder)}},
		"another password":            {auth: authPassword, methods: []ssh.AuthMethod{ssh.Password("hunter2")}, denied: "the password is not the placeholder for target web"},
		"another password, asked":     {auth: authPassword, methods: []ssh.AuthMethod{asks("hunter2")}, denied: "the password is not the placeholder"},
		"the right one after a wrong": {auth: authPassword, methods: []ssh.AuthMethod{ssh.Password("hunter2"), asks(placeholder)}, denied: "the password is not the placeholder"},
		"the placeholder's user":      {user: "agent"},
		"another user":                {user: "somebody", denied: "the user is not the one of the placeholder"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.env.AgentAuth, w.env.Placeholder.User = c.auth, c.user
			client, banner, err := w.agent(c.methods...)
			if c.denied == "" {
				if err != nil {
					t.Fatal(err)
				}
				if out, _, status := exec(t, client, "true", ""); out != "ran true\n" || status != 0 {
					t.Errorf("%q, status %d", out, status)
				}
				return
			}
			if err == nil {
				t.Fatal("it was let in")
			}
			if !strings.Contains(banner, "postern: "+c.denied) || !strings.Contains(banner, "session s1") {
				t.Errorf("the agent is told %q", banner)
			}
			w.wait()
			var d *engine.Denial
			if !errors.As(w.err, &d) || d.Code != engine.Misuse {
				t.Errorf("the gateway notes %v", w.err)
			}
			if w.dials != 0 {
				t.Error("the upstream was dialled")
			}
		})
	}
}

// Without the kind of proof that the target is configured for, nothing is dialled.
func TestAgentNeedsThePassword(t *testing.T) {
	w := newWorld(t)
	w.env.AgentAuth = authPassword
	if _, _, err := w.agent(ssh.PublicKeys(newKey(t).signer)); err == nil {
		t.Fatal("a key was enough")
	}
	w.wait()
	if w.err == nil || w.dials != 0 {
		t.Error(w.err, w.dials)
	}
}

func TestUnknownAgentAuth(t *testing.T) {
	if _, err := New().New(engine.Env{AgentAuth: "md5"}); err == nil || !strings.Contains(err.Error(), "use any or password") {
		t.Error(err)
	}
}

// A session that is refused as a whole says why where there is room for it.
func TestRefusedSession(t *testing.T) {
	w := newWorld(t)
	w.refuse = &engine.Denial{Code: engine.ByPolicy, Reason: "no rule opens target web", Help: "ask"}
	client := w.mustAgent()
	_, err := client.NewSession()
	var no *ssh.OpenChannelError
	if !errors.As(err, &no) || no.Reason != ssh.Prohibited || !strings.Contains(no.Message, "no rule opens target web") {
		t.Error(err)
	}
}

// An agent that has opened more than the library holds for us before its session is
// refused, and hears nothing of it, leaves nothing behind.
func TestRefusedSessionLeavesNothing(t *testing.T) {
	w := newWorld(t)
	before := runtime.NumGoroutine()
	near, far := socketPair(t)
	e, err := New().New(w.env)
	if err != nil {
		t.Fatal(err)
	}
	client, greeted := wire.New(far), make(chan error)
	go func() {
		_, err := e.Greet(t.Context(), client)
		greeted <- err
	}()
	conn, channels, requests, err := ssh.NewClientConn(near, hostName+":22", &ssh.ClientConfig{User: "agent", HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-greeted; err != nil {
		t.Fatal(err)
	}
	agent := ssh.NewClient(conn, channels, requests)
	var opening sync.WaitGroup
	for range 64 {
		opening.Go(func() { agent.NewSession() }) //nolint:errcheck // it is refused
	}
	time.Sleep(50 * time.Millisecond) // until they are there
	client.SetDeadline(time.Unix(1, 0))
	e.Refuse(client, &engine.Denial{Code: engine.Ended})
	client.Close()
	agent.Close()
	opening.Wait()
	for range 500 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, before it were %d", runtime.NumGoroutine(), before)
}

// What is no SSH, or breaks off, gets no session.
func TestNoSSH(t *testing.T) {
	for _, text := range []string{"", "GET / HTTP/1.1\r\n\r\n", "SSH-1.5-old\r\n", "SSH-2.0-x\r\n\x00\x00\x00\x00", strings.Repeat("x", 1<<16)} {
		w := newWorld(t)
		c := w.start()
		c.Write([]byte(text))
		c.Close()
		w.wait()
		if w.err == nil || w.dials != 0 {
			t.Errorf("%.20q: %v, %d dials", text, w.err, w.dials)
		}
	}
}

func TestVerbsAreDistinct(t *testing.T) {
	verbs := New().Verbs
	for i, v := range verbs {
		if slices.Contains(verbs[i+1:], v) {
			t.Errorf("%s is there twice", v)
		}
	}
}
