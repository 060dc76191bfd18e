package ssh

import (
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/channels"
)

// seed adds what OpenSSH's clients and servers send.
func seed(f *testing.F) {
	text := func(s string) []byte { return ssh.Marshal(struct{ S string }{s}) }
	for _, seed := range []struct {
		way     uint8
		kind    string
		payload []byte
	}{
		{0, globalForward, ssh.Marshal(bind{"localhost", 0})},
		{0, globalForwardSocket, text("/run/x")},
		{1, "session", nil},
		{1, channelDirect, ssh.Marshal(connection{"db", 5432, "::1", 9})},
		{1, channelDirectSocket, ssh.Marshal(socket{"/run/docker.sock", "", 0})},
		{2, channelForwarded, ssh.Marshal(connection{"localhost", 80, "", 0})},
		{3, requestExec, text("scp -t /srv")},
		{3, requestSubsystem, text("sftp")},
		{3, requestEnv, append(text("LANG"), text("C")...)},
		{3, requestPty, append(append(text("xterm"), make([]byte, 16)...), text("")...)},
		{3, requestWindow, make([]byte, 16)},
		{3, requestShell, nil},
		{4, answerStatus, []byte{0, 0, 0, 1}},
		{4, answerSignal, append(append(text("TERM"), 0), append(text("words"), text("")...)...)},
	} {
		f.Add(seed.way, seed.kind, seed.payload)
	}
}

// FuzzRequests: whatever either side asks, nothing goes on that the gate was not
// asked about, but for what is known to be harmless.
func FuzzRequests(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, way uint8, kind string, payload []byte) {
		c := newCodec("s1")
		var step channels.Step
		harmless := map[string]bool{}
		switch way % 5 {
		case 0:
			step = c.Global(channels.Agent, kind, payload)
			harmless = map[string]bool{globalCancel: true, globalCancelSocket: true}
		case 1:
			step, _ = c.Open(channels.Agent, kind, payload)
		case 2:
			// Nothing was asked for: the upstream may open nothing.
			if step, _ = c.Open(channels.Upstream, kind, payload); step.Request == nil || step.Request.Refused == nil {
				t.Fatalf("the upstream opens %q", kind)
			}
		case 3:
			step = (&session{codec: c}).Request(kind, payload)
			harmless = map[string]bool{requestEnv: true, requestPty: true, requestWindow: true, requestSignal: true, requestBreak: true, requestEOW: true}
		case 4:
			out, send, _ := (&session{codec: c}).Answer(kind, payload, func([]byte) []byte { return nil })
			// A name that is not known is replaced, and may have been shorter.
			if send && kind == answerSignal && len(out) > len(payload)+len("unknown@postern") {
				t.Fatalf("an answer grew: %q", out)
			}
			return
		}
		goesOn := step.Do != channels.Refuse && step.Do != channels.Grant
		switch {
		case step.Request == nil && goesOn && !harmless[kind]:
			t.Fatalf("%q goes on undecided", kind)
		case step.Request != nil && step.Request.Refused == nil && len(step.Request.Effects) == 0:
			t.Fatalf("%q has no effects", kind)
		case step.Main && step.Request == nil:
			t.Fatalf("%q begins streams undecided", kind)
		}
		if step.Request != nil {
			for _, e := range step.Request.Effects {
				if e.Verb != engine.Unknown && !declared[e.Verb] {
					t.Fatalf("the verb %q is not declared", e.Verb)
				}
			}
			for name := range step.Request.Facts {
				if !declared["fact "+name] {
					t.Fatalf("the fact %q is not declared", name)
				}
			}
		}
	})
}

var declared = func() map[string]bool {
	out := map[string]bool{}
	p := New()
	for _, v := range p.Verbs {
		out[v] = true
	}
	for _, f := range p.Facts {
		out["fact "+f.Name] = true
	}
	return out
}()
