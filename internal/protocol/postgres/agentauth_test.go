package postgres

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wiretest"
)

var misused = (&conn{env: engine.Env{Target: "orders"}}).misuse().(*engine.Denial)

// loginAs plays a start-up with this user, database and password and returns
// what the agent heard last.
func loginAs(t *testing.T, auth, user, database, password string) (heard []byte) {
	t.Helper()
	wiretest.Play(t, func(t *testing.T) {
		s := (&world{auth: auth}).start(t)
		s.Client.Say(startup(3<<16, "user", user, "database", database))
		ask := s.Client.Take()
		r := body(ask)
		switch code := r.uint32(); code {
		case authClear:
			s.Client.Say(msg('p', password+"\x00"))
		case authMD5Code:
			s.Client.Say(msg('p', md5Answer(user, password, string(r.b))+"\x00"))
		case authSASL:
			const first = "n,,n=,r=agent-nonce"
			s.Client.Say(msg('p', scramPlain+"\x00"+long(len(first))+first))
			challenge := s.Client.Take()[9:]
			s.Client.Say(msg('p', agentFinal(password, first, string(challenge), "biws")))
		default:
			t.Fatalf("asked %d", code)
		}
		heard = s.Client.Take()
		if dialled := s.Dials() > 0; dialled != bytes.HasSuffix(heard, authRequest(authOK)) {
			t.Errorf("dialled %t, heard\n%s", dialled, show(heard))
		}
		if s.Dials() > 0 && bytes.Contains(s.Upstream().Take(), []byte(password)) {
			t.Error("the placeholder reached the upstream")
		}
	})
	return heard
}

// agentFinal is a client-final-message with its proof.
func agentFinal(password, first, challenge, binding string) string {
	c := newSCRAMClient(func(salt []byte, n int) scramKeys { return deriveKeys(secret.New([]byte(password)), salt, n) }, "n,,", nil)
	fields := strings.Split(challenge, ",")
	salt, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(fields[1], "s="))
	without := "c=" + binding + "," + fields[0]
	proof := c.derive(salt, scramIterations).proof(first[strings.Index(first, "n=,"):] + "," + challenge + "," + without)
	return without + ",p=" + base64.StdEncoding.EncodeToString(proof)
}

func TestAgentHoldsThePlaceholder(t *testing.T) {
	for _, auth := range []string{authSCRAM, authMD5, authPassword} {
		if heard := loginAs(t, auth, "app", "shop", placeholderPassword); !bytes.HasSuffix(heard, authRequest(authOK)) {
			t.Errorf("%s: the agent heard:\n%s", auth, show(heard))
		}
	}
}

// Whatever is wrong, the words are the same, and after the same exchange.
func TestPlaceholderMisuse(t *testing.T) {
	for _, auth := range []string{authSCRAM, authMD5, authPassword} {
		for name, login := range map[string][3]string{
			"password":       {"app", "shop", "guess"},
			"empty password": {"app", "shop", ""},
			"user":           {"postgres", "shop", placeholderPassword},
			"database":       {"app", "secrets", placeholderPassword},
			"no database":    {"app", "", placeholderPassword},
		} {
			if heard := loginAs(t, auth, login[0], login[1], login[2]); !bytes.Equal(heard, fatal(misused)) {
				t.Errorf("%s, wrong %s: the agent heard:\n%s", auth, name, show(heard))
			}
		}
	}
	if text := string(fatal(misused)); strings.Contains(text, placeholderPassword) || strings.Contains(text, "app") {
		t.Error("the denial names the placeholder")
	}
}

func TestPasswordMessageLengths(t *testing.T) {
	for _, m := range [][]byte{
		{'p', 0, 0, 0, 0},
		{'p', 0, 0, 0, 3},
		{'p', 0xff, 0xff, 0xff, 0xff},
		{'p', 0x7f, 0xff, 0xff, 0xff},
		{'p', 0, 0, 0x20, 1},
		{'Q', 0, 0, 0, 5},
		msg('p', "no NUL"), msg('p', "a\x00b\x00"),
	} {
		wiretest.Play(t, func(t *testing.T) {
			s := (&world{}).start(t)
			s.Client.Say(hello)
			s.Client.Hear(authRequest(authClear))
			s.Client.Say(m)
			s.Client.Hear(fatal(malformed("password").(*engine.Denial)))
			s.Client.Gone()
			if s.Dials() > 0 {
				t.Error("the upstream was dialled")
			}
		})
	}
}

// With channel binding the proof is worth nothing on another connection.
func TestAgentSCRAMPlus(t *testing.T) {
	for _, right := range []bool{true, false} {
		wiretest.Play(t, func(t *testing.T) {
			s, clientTLS := secured(t, authSCRAM)
			state, err := s.Client.Secure(clientTLS)
			if err != nil {
				t.Fatal(err)
			}
			s.Client.Say(hello)
			s.Client.Hear(authRequest(authSASL, scramPlus+"\x00"+scramPlain+"\x00\x00"))
			const gs2 = "p=tls-server-end-point,,"
			const first = gs2 + "n=,r=agent-nonce"
			s.Client.Say(msg('p', scramPlus+"\x00"+long(len(first))+first))
			challenge := s.Client.Take()[9:]
			bound := bindingOf(state)
			if !right {
				bound = bindingOf(elsewhere(t))
			}
			binding := base64.StdEncoding.EncodeToString(append([]byte(gs2), bound...))
			s.Client.Say(msg('p', agentFinal(placeholderPassword, first, string(challenge), binding)))
			if heard := s.Client.Take(); bytes.HasSuffix(heard, authRequest(authOK)) != right {
				t.Errorf("right binding %t: the agent heard:\n%s", right, show(heard))
			}
			if s.Dials() > 0 {
				s.Upstream().Take()
			}
		})
	}
}

func bindingOf(s tls.ConnectionState) []byte {
	return endPointBinding(s.PeerCertificates[0].Raw, s.PeerCertificates[0].SignatureAlgorithm)
}

// elsewhere is a connection to a server with another certificate.
func elsewhere(t *testing.T) tls.ConnectionState {
	s, clientTLS := secured(t, authSCRAM)
	state, err := s.Client.Secure(clientTLS)
	if err != nil {
		t.Fatal(err)
	}
	return state
}
