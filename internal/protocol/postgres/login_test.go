package postgres

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/pbkdf2"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wiretest"
)

// withPassword is a target whose credential has the canary for a password.
var withPassword = engine.Login{Credential: secret.Credential{
	User: "orders_rw", Database: "orders", Password: secret.New([]byte(canary)),
}}

// atLogin brings the agent in and hands over the upstream, which has heard the
// StartupMessage.
func (w *world) atLogin(t *testing.T) *wiretest.Session {
	t.Helper()
	s := w.start(t)
	s.Client.Say(hello)
	s.Client.Hear(authRequest(authClear))
	s.Client.Say(msg('p', placeholderPassword+"\x00"))
	s.Client.Hear(authRequest(authOK))
	startupOf(t, s.Upstream().Take())
	return s
}

// refusesUpstream plays what an upstream says instead of logging the gateway
// in; the session must end, and the agent must hear neither why nor who.
func refusesUpstream(t *testing.T, login engine.Login, reason string, says ...[]byte) {
	t.Helper()
	wiretest.Play(t, func(t *testing.T) {
		s := (&world{login: login}).atLogin(t)
		s.Upstream().Say(says...)
		if heard := s.Upstream().Take(); bytes.Contains(heard, []byte(canary)) {
			t.Error("the upstream was sent the password")
		}
		s.Upstream().Gone()
		heard := s.Client.Take()
		for _, word := range []string{canary, "orders_rw", "db.internal"} {
			if bytes.Contains(heard, []byte(word)) {
				t.Errorf("the agent was told %q:\n%s", word, show(heard))
			}
		}
		if len(heard) == 0 || heard[0] != 'E' {
			t.Errorf("the agent heard:\n%s", show(heard))
		}
		s.Client.Gone()
		if _, err := s.End(); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%v, want %q", err, reason)
		}
		s.NoSecret(secret.New([]byte(canary)))
	})
}

func TestUpstreamSkipsAuthentication(t *testing.T) {
	refusesUpstream(t, withPassword, "without asking for the password", authRequest(authOK), backendKey(1, "key!"), ready('I'))
	refusesUpstream(t, withPassword, "before the login is complete", ready('I'))
	refusesUpstream(t, noPassword, "before the login is complete", backendKey(1, "key!"), ready('I'))
}

// GHSA-95fj-3fxw-g62g: the password, or what it can be guessed from, goes to
// nobody whose certificate was not checked.
func TestUpstreamAsksWeakerMethod(t *testing.T) {
	refusesUpstream(t, withPassword, "clear text", authRequest(authClear))
	refusesUpstream(t, withPassword, "MD5", authRequest(authMD5Code, "salt"))
	refusesUpstream(t, withPassword, "not supported", authRequest(7)) // GSSAPI
	refusesUpstream(t, withPassword, "none of which is supported", authRequest(authSASL, "SCRAM-SHA-1\x00\x00"))
	refusesUpstream(t, noPassword, "has none", authRequest(authSASL, scramPlain+"\x00\x00"))
}

func TestUpstreamMalformedLogin(t *testing.T) {
	for _, n := range []uint32{0, 1, 2, 3, maxLoginMessage + 1, 1<<31 - 1, 1 << 31, 1<<32 - 1} {
		refusesUpstream(t, withPassword, errLength.Error(), append([]byte{'R'}, binary.BigEndian.AppendUint32(nil, n)...))
	}
	refusesUpstream(t, withPassword, "BackendKeyData", backendKey(1, "abc"))
	refusesUpstream(t, withPassword, "BackendKeyData", backendKey(1, strings.Repeat("k", maxCancelKey+1)))
	refusesUpstream(t, withPassword, "AuthenticationSASL", authRequest(authSASL, scramPlain))
	refusesUpstream(t, withPassword, "AuthenticationSASL", authRequest(authSASL, strings.Repeat("X\x00", 100)))
	refusesUpstream(t, withPassword, "unexpected message", row("x"))
	refusesUpstream(t, withPassword, "too much", bytes.Repeat(msg('N', "\x00"), maxLoginMessages))
	refusesUpstream(t, withPassword, "ErrorResponse", msg('E', "SFATAL"))
}

// CVE-2026-6666: an ErrorResponse without a SQLSTATE.
func TestErrorResponseWithoutSQLSTATE(t *testing.T) {
	refusesUpstream(t, withPassword, "refused the login", msg('E', "SFATAL\x00Mno\x00\x00"))
	refusesUpstream(t, withPassword, "refused the login", msg('E', "\x00"))
	(&world{}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(query("select 1"))
		up.Hear(query("select 1"))
		bare := msg('E', "SERROR\x00Mno code\x00\x00")
		up.Say(bare, ready('I'))
		agent.Hear(bare, ready('I'))
	})
}

func TestRealUserHostAndPasswordStayOutOfErrors(t *testing.T) {
	refusesUpstream(t, withPassword, "28P01",
		msg('E', "SFATAL\x00C28P01\x00Mpassword authentication failed for user \"orders_rw\" at db.internal\x00\x00"))
	login := noPassword
	login.Hidden = []string{"db.internal", "10.1.2.3"}
	w := &world{login: login, hide: canary}
	w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(query("select id from orders"))
		up.Hear(query("select id from orders"))
		text := "permission denied for orders_rw from 10.1.2.3 at db.internal with " + canary
		up.Say(msg('N', "SNOTICE\x00C00000\x00M"+text+"\x00\x00"),
			msg('E', "SERROR\x00C42501\x00M"+text+"\x00D"+text+"\x00H"+text+"\x00W"+text+"\x00Z"+text+"\x00\x00"), ready('I'))
		told := "permission denied for app from [upstream] at [upstream] with [hidden]"
		agent.Hear(msg('N', "SNOTICE\x00C00000\x00M"+told+"\x00\x00"),
			msg('E', "SERROR\x00C42501\x00M"+told+"\x00D"+told+"\x00H"+told+"\x00W"+told+"\x00\x00"), ready('I'))
		up.Say(msg('S', "session_authorization\x00orders_rw\x00"), msg('A', "\x00\x00\x00\x01ch\x00"+text+"\x00"))
		agent.Hear(msg('S', "session_authorization\x00app\x00"), msg('A', "\x00\x00\x00\x01ch\x00"+told+"\x00"))
		s.NoSecret(secret.New([]byte(canary)))
	})
}

func TestUpstreamAnswersN(t *testing.T) {
	_, clientTLS := wiretest.TLS("db.internal")
	login := withPassword
	login.TLS = clientTLS
	for _, answer := range []string{"N", "E", "SERROR"} {
		wiretest.Play(t, func(t *testing.T) {
			s := (&world{login: login}).start(t)
			s.Client.Say(hello)
			s.Client.Hear(authRequest(authClear))
			s.Client.Say(msg('p', placeholderPassword+"\x00"))
			s.Client.Hear(authRequest(authOK))
			s.Upstream().Hear(sslRequest)
			s.Upstream().Say([]byte(answer))
			s.Upstream().HearNothing()
			s.Upstream().Gone()
			s.Client.Hear(fatal(unreachable(errors.New("any"))))
			s.Client.Gone()
		})
	}
}

// CVE-2021-23222: what is read behind 'S' was not encrypted.
func TestBytesBufferedBeforeTLSFromUpstream(t *testing.T) {
	_, clientTLS := wiretest.TLS("db.internal")
	login := withPassword
	login.TLS = clientTLS
	wiretest.Play(t, func(t *testing.T) {
		s := (&world{login: login}).start(t)
		s.Client.Say(hello)
		s.Client.Hear(authRequest(authClear))
		s.Client.Say(msg('p', placeholderPassword+"\x00"))
		s.Client.Hear(authRequest(authOK))
		s.Upstream().Hear(sslRequest)
		s.Upstream().Say([]byte("S"), authRequest(authOK), ready('I'))
		s.Upstream().HearNothing()
		s.Upstream().Gone()
		s.Client.Hear(fatal(unreachable(errors.New("any"))))
	})
}

// Over a verified connection the older methods are answered, once.
func TestVerifiedUpstreamMayAskOlderMethods(t *testing.T) {
	for name, tt := range map[string]struct {
		ask    []byte
		answer string
	}{
		"password": {authRequest(authClear), canary},
		"md5":      {authRequest(authMD5Code, "salt"), md5Answer("orders_rw", canary, "salt")},
	} {
		t.Run(name, func(t *testing.T) {
			login := withPassword
			login.Verified = true
			wiretest.Play(t, func(t *testing.T) {
				s := (&world{login: login}).atLogin(t)
				s.Upstream().Say(tt.ask)
				s.Upstream().Hear(msg('p', tt.answer+"\x00"))
				s.Upstream().Say(tt.ask) // twice: to learn it under another salt
				s.Upstream().HearNothing()
				s.Upstream().Gone()
				s.Client.Take()
				s.NoSecret(secret.New([]byte(canary)))
			})
		})
	}
}

// That a password was sent is not that it was accepted.
func TestUpstreamReadyWithoutAuthenticationOk(t *testing.T) {
	login := withPassword
	login.Verified = true
	wiretest.Play(t, func(t *testing.T) {
		s := (&world{login: login}).atLogin(t)
		s.Upstream().Say(authRequest(authClear))
		s.Upstream().Hear(msg('p', canary+"\x00"))
		s.Upstream().Say(backendKey(7, "real"), ready('I'))
		s.Upstream().HearNothing()
		s.Upstream().Gone()
		s.Client.Hear(fatal(unreachable(errors.New("any"))))
	})
}

func md5Answer(user, password, salt string) string {
	inner := md5.Sum([]byte(password + user))
	outer := md5.Sum([]byte(hex.EncodeToString(inner[:]) + salt))
	return "md5" + hex.EncodeToString(outer[:])
}

// scramUpstream is the server's side of RFC 5802, written apart from the code
// under test.
func scramUpstream(password, first string, change func(*string)) (challenge string, verify func(final string) (signature string, ok bool)) {
	bare := first[strings.Index(first, "n=,"):]
	nonce := strings.TrimPrefix(bare, "n=,r=") + "server"
	salt := []byte("0123456789abcdef")
	challenge = "r=" + nonce + ",s=" + base64.StdEncoding.EncodeToString(salt) + ",i=4096"
	change(&challenge)
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	return challenge, func(final string) (string, bool) {
		salted := pbkdf2.Key([]byte(password), salt, 4096, 32, sha256.New)
		without, proof, _ := strings.Cut(final, ",p=")
		auth := bare + "," + challenge + "," + without
		key := mac(salted, "Client Key")
		stored := sha256.Sum256(key)
		want := mac(stored[:], auth)
		for i := range want {
			want[i] ^= key[i]
		}
		return base64.StdEncoding.EncodeToString(mac(mac(salted, "Server Key"), auth)), base64.StdEncoding.EncodeToString(want) == proof
	}
}

func same(*string) {}

// scramFirst takes the SASLInitialResponse that the upstream heard apart.
func scramFirst(t *testing.T, b []byte) string {
	t.Helper()
	r := body(b)
	mechanism, first := string(r.cstring()), string(r.value())
	if b[0] != 'p' || !r.done() || mechanism != scramPlain {
		t.Fatalf("the upstream heard:\n%s", show(b))
	}
	return first
}

func TestUpstreamSCRAM(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		s := (&world{login: withPassword}).atLogin(t)
		up := s.Upstream()
		up.Say(authRequest(authSASL, scramPlus+"\x00"+scramPlain+"\x00\x00"))
		challenge, verify := scramUpstream(canary, scramFirst(t, up.Take()), same)
		up.Say(authRequest(authContinue, challenge))
		final := up.Take()
		signature, ok := verify(string(final[headerBytes:]))
		if !ok {
			t.Fatalf("the proof is wrong: %q", final)
		}
		up.Say(authRequest(authFinal, "v="+signature), authRequest(authOK), backendKey(7, "real"), ready('I'))
		up.Hear(query(catalogQuery(nil)))
		up.Say(catalogAnswer(nil, 'I'))
		if b := s.Client.Take(); b[0] != 'K' {
			t.Errorf("the agent heard:\n%s", show(b))
		}
		s.NoSecret(secret.New([]byte(canary)))
	})
}

// scramRefused plays a SCRAM exchange whose challenge or outcome is hostile.
func scramRefused(t *testing.T, reason string, change func(*string), outcome func(signature string) string) {
	t.Helper()
	wiretest.Play(t, func(t *testing.T) {
		s := (&world{login: withPassword}).atLogin(t)
		up := s.Upstream()
		up.Say(authRequest(authSASL, scramPlain+"\x00\x00"))
		challenge, verify := scramUpstream(canary, scramFirst(t, up.Take()), change)
		up.Say(authRequest(authContinue, challenge))
		if final := up.Take(); outcome != nil && len(final) > 0 {
			signature, _ := verify(string(final[headerBytes:]))
			up.Say(authRequest(authFinal, outcome(signature)), authRequest(authOK), backendKey(7, "real"), ready('I'))
		} else if len(final) > 0 {
			t.Errorf("the upstream heard a proof:\n%s", show(final))
		}
		up.HearNothing()
		up.Gone()
		s.Client.Hear(fatal(unreachable(errors.New("any"))))
		if _, err := s.End(); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%v, want %q", err, reason)
		}
		s.NoSecret(secret.New([]byte(canary)))
	})
}

// CVE-2026-42198
func TestSCRAMHugeIterationCount(t *testing.T) {
	for _, n := range []string{"1000001", "2147483647", "4294967297", "99999999999999999999", "0", "-1", "", "4096x"} {
		scramRefused(t, "iteration count", func(m *string) { *m = strings.Replace(*m, "i=4096", "i="+n, 1) }, nil)
	}
}

// CVE-2026-6665
func TestSCRAMLongNonce(t *testing.T) {
	scramRefused(t, "bytes long", func(m *string) { *m = strings.Replace(*m, "server,", strings.Repeat("s", maxSCRAMField)+",", 1) }, nil)
	scramRefused(t, "bytes long", func(m *string) { *m = strings.Replace(*m, "s=", "s="+strings.Repeat("A", maxSCRAMField), 1) }, nil)
}

// CVE-2026-6664
func TestSCRAMMalformedChallenge(t *testing.T) {
	for _, m := range []string{"", "r", "r=", "r=,s=,i=", "s=AA==,i=4096", "e=other-error", "m=x,r=a,s=b,i=1", ",,,"} {
		scramRefused(t, "SCRAM", func(c *string) { *c = m }, nil)
	}
	scramRefused(t, "extend", func(m *string) { *m = strings.Replace(*m, "server,", ",", 1) }, nil)
	scramRefused(t, "extend", func(m *string) { *m = "r=x" + strings.TrimPrefix(*m, "r=") }, nil)
	scramRefused(t, "salt", func(m *string) { *m = strings.Replace(*m, "s=", "s=*", 1) }, nil)
}

func TestSCRAMWrongServerSignature(t *testing.T) {
	wrong := base64.StdEncoding.EncodeToString(make([]byte, 32))
	scramRefused(t, "does not know the password", same, func(string) string { return "v=" + wrong })
	scramRefused(t, "does not know the password", same, func(s string) string { return "v=" })
	scramRefused(t, "SCRAM", same, func(s string) string { return "e=invalid-proof" })
	scramRefused(t, "SCRAM", same, func(s string) string { return "v=" + s[:10] + "\n" + s[10:] })
}

// Without a signature at all: AuthenticationOk where it is due.
func TestSCRAMWithoutServerSignature(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		s := (&world{login: withPassword}).atLogin(t)
		up := s.Upstream()
		up.Say(authRequest(authSASL, scramPlain+"\x00\x00"))
		challenge, _ := scramUpstream(canary, scramFirst(t, up.Take()), same)
		up.Say(authRequest(authContinue, challenge))
		up.Take()
		up.Say(authRequest(authOK), backendKey(7, "real"), ready('I'))
		up.HearNothing()
		up.Gone()
		s.Client.Hear(fatal(unreachable(errors.New("any"))))
	})
}

// The encoding, and how strings are read, must be what the grammar supposes.
func TestUpstreamInsistsOnAnotherEncoding(t *testing.T) {
	for _, p := range []string{"client_encoding\x00SJIS\x00", "standard_conforming_strings\x00off\x00"} {
		refusesUpstream(t, noPassword, "cannot be understood", authRequest(authOK), msg('S', p), ready('I'))
		(&world{}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
			up.Say(msg('S', p))
			if b := agent.Take(); len(b) == 0 || b[0] != 'E' || !bytes.Contains(b, []byte("cannot be understood")) {
				t.Errorf("the agent heard:\n%s", show(b))
			}
			agent.Gone()
			up.Gone()
		})
	}
}
