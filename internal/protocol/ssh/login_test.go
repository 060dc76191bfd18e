package ssh

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wire"
)

// takes makes the upstream take one key, or one authority's certificates, and
// nothing else.
func (w *world) takes(k ssh.PublicKey) {
	w.upstream.PasswordCallback = nil
	checker := &ssh.CertChecker{
		IsUserAuthority: func(a ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), k.Marshal()) },
		UserKeyFallback: func(_ ssh.ConnMetadata, given ssh.PublicKey) (*ssh.Permissions, error) {
			if !bytes.Equal(given.Marshal(), k.Marshal()) {
				return nil, errors.New("no")
			}
			return nil, nil
		},
	}
	w.upstream.PublicKeyCallback = func(m ssh.ConnMetadata, given ssh.PublicKey) (*ssh.Permissions, error) {
		w.certificate, _ = given.(*ssh.Certificate)
		return checker.Authenticate(m, given)
	}
}

// Each kind of credential logs in upstream, with an agent that holds none.
func TestUpstreamLogins(t *testing.T) {
	own := newKey(t)
	for name, prepare := range map[string]func(*world){
		"password": func(*world) {},
		"password, asked for": func(w *world) {
			w.upstream.PasswordCallback = nil
			w.upstream.KeyboardInteractiveCallback = func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
				if a, err := ask("", "", []string{"Password: "}, []bool{false}); err != nil || a[0] != canary {
					return nil, errors.New("no")
				}
				return nil, nil
			}
		},
		"key": func(w *world) {
			w.login.Credential = secret.Credential{User: "deploy", SSH: secret.SSH{Key: secret.New(own.pem(t, ""))}}
			w.takes(own.signer.PublicKey())
		},
		"encrypted key": func(w *world) {
			w.login.Credential = secret.Credential{User: "deploy", SSH: secret.SSH{Key: secret.New(own.pem(t, "pass")), Passphrase: secret.New([]byte("pass"))}}
			w.takes(own.signer.PublicKey())
		},
		"certificate": func(w *world) {
			w.login.Credential = secret.Credential{User: "deploy", SSH: secret.SSH{Authority: secret.New(own.pem(t, "")), Life: time.Minute}}
			w.takes(own.signer.PublicKey())
		},
		"ssh-agent": func(w *world) {
			w.login.Credential = secret.Credential{User: "deploy", SSH: secret.SSH{Agent: keyring(t, own)}}
			w.takes(own.signer.PublicKey())
		},
		"key and then password": func(w *world) {
			w.login.Credential.SSH.Key = secret.New(own.pem(t, ""))
			w.takes(own.signer.PublicKey())
			first := w.upstream.PublicKeyCallback
			w.upstream.PublicKeyCallback = nil
			w.upstream.PublicKeyCallback = func(m ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
				if _, err := first(m, k); err != nil {
					return nil, err
				}
				return nil, &ssh.PartialSuccessError{Next: ssh.ServerAuthCallbacks{PasswordCallback: func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
					if string(p) != canary {
						return nil, errors.New("no")
					}
					return nil, nil
				}}}
			}
		},
		"user of the agent's": func(w *world) {
			w.login.Credential = secret.Credential{SSH: secret.SSH{Key: secret.New(own.pem(t, ""))}}
			w.takes(own.signer.PublicKey())
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			prepare(w)
			client := w.mustAgent()
			if out, told, status := exec(t, client, "true", ""); out != "ran true\n" || status != 0 {
				t.Errorf("%q, %q, status %d", out, told, status)
			}
		})
	}
}

// keyring is an ssh-agent with a key, at the socket that is returned.
func keyring(t *testing.T, k key) string {
	t.Helper()
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: k.private}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				agent.ServeAgent(ring, c)
				c.Close()
			}()
		}
	}()
	return path
}

// A certificate is for one login: short, for these principals, and of a key that
// nobody else has.
func TestCertificatesOfLogins(t *testing.T) {
	authority := newKey(t)
	w := newWorld(t)
	w.login.Credential = secret.Credential{User: "deploy", SSH: secret.SSH{Authority: secret.New(authority.pem(t, "")), Life: time.Minute, Principals: []string{"deploy", "web"}}}
	w.takes(authority.signer.PublicKey())
	exec(t, w.mustAgent(), "true", "")
	c := w.certificate
	if c == nil {
		t.Fatal("there is no certificate")
	}
	life := time.Until(time.Unix(int64(c.ValidBefore), 0))
	if life > time.Minute || life < time.Second || strings.Join(c.ValidPrincipals, " ") != "deploy web" || c.KeyId != "postern deploy" {
		t.Errorf("good for %s, for %q, named %q", life, c.ValidPrincipals, c.KeyId)
	}
	if _, ok := c.Extensions["permit-user-rc"]; ok || len(c.CriticalOptions) != 0 {
		t.Errorf("it permits %v, with %v", c.Extensions, c.CriticalOptions)
	}
}

// What is wrong with a login the agent hears of without any of the credential,
// and operators with the reason.
func TestUpstreamLoginFails(t *testing.T) {
	other := newKey(t)
	for name, c := range map[string]struct {
		prepare func(*world)
		agent   string // what it is told
		log     string
	}{
		"wrong password": {func(w *world) { w.login.Credential.Password = secret.New([]byte("wrong")) }, "did not accept the gateway's login", "unable to authenticate"},
		"wrong key": {func(w *world) {
			w.login.Credential = secret.Credential{User: "deploy", SSH: secret.SSH{Key: secret.New(newKey(t).pem(t, ""))}}
			w.takes(other.signer.PublicKey())
		}, "did not accept", "unable to authenticate"},
		"no key at all": {func(w *world) { w.login.Credential.SSH.Key = secret.New([]byte("nonsense")) }, "did not accept", "no private key in PEM or OpenSSH's format"},
		"key is locked": {func(w *world) { w.login.Credential.SSH.Key = secret.New(other.pem(t, "x")) }, "did not accept", "add credential.passphrase"},
		"no ssh-agent":  {func(w *world) { w.login.Credential.SSH.Agent = "/nonexistent/agent" }, "did not accept", "credential.agent"},
		"a second question": {func(w *world) {
			w.upstream.PasswordCallback = nil
			w.upstream.KeyboardInteractiveCallback = func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
				ask("", "", []string{"Password: ", "Code: "}, []bool{false, true})
				return nil, errors.New("no")
			}
		}, "did not accept", "asks for more than a password"},
		"a password that shows": {func(w *world) {
			w.upstream.PasswordCallback = nil
			w.upstream.KeyboardInteractiveCallback = func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
				a, _ := ask("", "", []string{"Name: "}, []bool{true})
				w.saw("answers %v", a)
				return nil, errors.New("no")
			}
		}, "did not accept", "asks for more than a password"},
		"unknown host key": {func(w *world) { w.login.Known.Lines = []byte("other.internal " + w.hostKey.public()) }, "no host key is known for the upstream", "key is unknown"},
		"other host key":   {func(w *world) { w.login.Known.Lines = []byte(hostName + " " + other.public()) }, "host key is not one that is known", "key mismatch"},
		"other port":       {func(w *world) { w.login.Known.Port = 2222 }, "no host key is known", "key is unknown"},
		"revoked": {func(w *world) {
			w.login.Known.Lines = append(w.login.Known.Lines, []byte("@revoked * "+w.hostKey.public())...)
		}, "is revoked", "key is revoked"},
		"nothing known": {func(w *world) { w.login.Known.Lines = nil }, "no host key is known", "key is unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.prepare(w)
			var log bytes.Buffer
			w.env.Log = slog.New(slog.NewTextHandler(&log, nil))
			client := w.mustAgent()
			out, told, status := exec(t, client, "true", "")
			if out != "" || status != 255 || !strings.Contains(told, c.agent) || !strings.Contains(told, "session s1") {
				t.Errorf("status %d, %q, %q", status, out, told)
			}
			client.Close()
			w.wait()
			if !strings.Contains(log.String(), c.log) {
				t.Errorf("in the log: %s", log.String())
			}
			for _, text := range append(w.asked(), told, log.String()) {
				if strings.Contains(text, canary) {
					t.Errorf("the password is in %q", text)
				}
			}
		})
	}
}

// The key that the upstream shows is one of those that are known: a host that has
// several shows that one.
func TestHostKeyIsChosen(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	second, err := ssh.NewSignerFromSigner(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	authority := newKey(t)
	line := func(k ssh.PublicKey) string {
		if k == nil {
			return " first\n" // the upstream's, see below
		}
		return " " + string(ssh.MarshalAuthorizedKey(k))
	}
	hashed := knownhosts.HashHostname(hostName)
	for name, c := range map[string]struct {
		known     string
		certified bool
		refused   bool
	}{
		"the second":               {known: hostName + line(second.PublicKey())},
		"the first":                {known: hostName + line(nil)},
		"hashed":                   {known: hashed + line(second.PublicKey())},
		"a pattern":                {known: "*.internal,!db.internal" + line(nil)},
		"not for this":             {known: "*.internal,!web.internal" + line(nil), refused: true},
		"authority":                {known: "@cert-authority *.internal" + line(authority.signer.PublicKey()), certified: true},
		"authority, no cert":       {known: "@cert-authority *.internal" + line(authority.signer.PublicKey()), refused: true},
		"authority elsewhere":      {known: "@cert-authority *.example" + line(authority.signer.PublicKey()), certified: true, refused: true},
		"revoked authority":        {known: "@cert-authority *.internal" + line(authority.signer.PublicKey()) + "@revoked *" + line(authority.signer.PublicKey()), certified: true, refused: true},
		"revoked in a certificate": {known: "@cert-authority *.internal" + line(authority.signer.PublicKey()) + "@revoked *" + line(nil), certified: true, refused: true},
		"a comment and rubbish":    {known: "# comment\n\n" + hostName + line(nil) + "rubbish here\n"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.upstream.AddHostKey(second)
			if c.certified {
				signer, err := ssh.NewCertSigner(authority.certify(t, w.hostKey.signer.PublicKey(), hostName), w.hostKey.signer)
				if err != nil {
					t.Fatal(err)
				}
				w.upstream.AddHostKey(signer)
			}
			w.login.Known.Lines = []byte(strings.ReplaceAll(c.known, "first\n", w.hostKey.public()))
			_, told, status := exec(t, w.mustAgent(), "true", "")
			if refused := status == 255; refused != c.refused {
				t.Errorf("status %d: %s", status, told)
			}
		})
	}
}

// An error that quotes the login is in the log without it.
func TestLogHidesTheLogin(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	w.env.Log, w.gate.Hide, w.unreachable = slog.New(slog.NewTextHandler(&log, nil)), canary, errors.New("it said: "+canary)
	_, told, _ := exec(t, w.mustAgent(), "true", "")
	if strings.Contains(log.String()+told, canary) || !strings.Contains(log.String(), "it said: [hidden]") {
		t.Errorf("%s\n%s", log.String(), told)
	}
}

// TestTryLogin is what operators have: the same login, with its error.
func TestTryLogin(t *testing.T) {
	for password, fine := range map[string]bool{canary: true, "wrong": false} {
		w := newWorld(t)
		w.login.Credential.Password = secret.New([]byte(password))
		near, far := socketPair(t)
		go w.serve(far)
		err := New().TryLogin(context.Background(), wire.New(near), w.login, w.env.Limits)
		if (err == nil) != fine || err != nil && strings.Contains(err.Error(), "wrong") {
			t.Error(err)
		}
	}
}

// An upstream that says nothing is given up.
func TestSilentUpstream(t *testing.T) {
	near, far := socketPair(t)
	defer far.Close()
	w := newWorld(t)
	w.env.Limits.Handshake = 50 * time.Millisecond
	if err := New().TryLogin(context.Background(), wire.New(near), w.login, w.env.Limits); err == nil {
		t.Error("it was logged in")
	}
}

// A host key that changes as keys are exchanged again, in the middle of a
// connection, is verified again: what comes by it is nobody's.
func TestHostKeyChangesInMidLife(t *testing.T) {
	const pieces, piece = 128, 32 << 10
	for _, changes := range []bool{false, true} {
		w := newWorld(t)
		var log bytes.Buffer
		w.env.Log = slog.New(slog.NewTextHandler(&log, nil))
		other := newKey(t)
		w.upstream.RekeyThreshold = 64 << 10
		w.run = func(_ string, c ssh.Channel) uint32 {
			if changes {
				w.upstream.AddHostKey(other.signer) // in place of the one of its kind
			}
			for range pieces {
				if _, err := c.Write(make([]byte, piece)); err != nil {
					return 1
				}
			}
			return 0
		}
		client := w.mustAgent()
		s, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.Output("much")
		client.Close()
		w.wait()
		const why = "the upstream's host key is not one that is known for it"
		if whole := len(out) == pieces*piece; whole == changes || (err == nil) == changes || strings.Contains(log.String(), why) != changes {
			t.Errorf("the key changes: %v; %d bytes, %v, the log says %q", changes, len(out), err, log.String())
		}
	}
}

// TestRefusedLoginIsTriedAgain: a login that is refused because its credential was
// changed is tried once more with the new one, and the agent hears nothing of it.
// Nothing is tried again with a host that is not the right one.
func TestRefusedLoginIsTriedAgain(t *testing.T) {
	other := newKey(t)
	for name, c := range map[string]struct {
		prepare func(*world)
		dials   int
		works   bool
	}{
		"another": {func(w *world) { w.login.Credential.Password = secret.New([]byte("old")) }, 2, true},
		"wrong as well": {func(w *world) {
			w.login.Credential.Password = secret.New([]byte("old"))
			w.other.Credential.Password = secret.New([]byte("older"))
		}, 2, false},
		"no other":       {func(w *world) { w.login.Credential.Password = secret.New([]byte("old")); w.other = nil }, 1, false},
		"wrong host key": {func(w *world) { w.login.Known.Lines = []byte(hostName + " " + other.public()) }, 1, false},
		"none needed":    {func(*world) {}, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			second := w.login
			w.other = &second
			c.prepare(w)
			client := w.mustAgent()
			out, told, status := exec(t, client, "true", "")
			if works := status == 0 && out == "ran true\n"; works != c.works {
				t.Errorf("status %d, %q, %q", status, out, told)
			}
			client.Close()
			w.wait()
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.dials != c.dials {
				t.Errorf("dialled %d times, want %d", w.dials, c.dials)
			}
		})
	}
}

// TestSignedByAnIssuer: a certificate that a vault has signed is shown with its
// key.
func TestSignedByAnIssuer(t *testing.T) {
	w := newWorld(t)
	authority, own := newKey(t), newKey(t)
	certificate := &ssh.Certificate{Key: own.signer.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"deploy"}, ValidBefore: ssh.CertTimeInfinity}
	if err := certificate.SignCert(rand.Reader, authority.signer); err != nil {
		t.Fatal(err)
	}
	w.takes(authority.signer.PublicKey())
	w.login.Credential = secret.Credential{User: "deploy", SSH: secret.SSH{Key: secret.New(own.pem(t, "")), Signed: string(ssh.MarshalAuthorizedKey(certificate))}}
	client := w.mustAgent()
	if out, told, status := exec(t, client, "true", ""); status != 0 || out != "ran true\n" {
		t.Errorf("status %d, %q, %q", status, out, told)
	}
	client.Close()
	w.wait()
	for name, text := range map[string]string{
		"nonsense": "ssh-ed25519 nonsense", "a bare key": own.public(),
		"a host's":    string(ssh.MarshalAuthorizedKey(authority.certify(t, own.signer.PublicKey(), "deploy"))),
		"another key": string(ssh.MarshalAuthorizedKey(authority.certify(t, authority.signer.PublicKey(), "deploy"))),
	} {
		if s, err := signed(text, own.signer); err == nil {
			t.Errorf("%s: %v", name, s.PublicKey().Type())
		}
	}
}
