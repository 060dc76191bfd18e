package postgres

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/postern/postern/internal/secret"
)

// The example of RFC 7677, section 3.
const (
	rfcPassword    = "pencil"
	rfcClientFirst = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
	rfcServerFirst = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	rfcClientFinal = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
	rfcServerFinal = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
)

func rfcKeys(t *testing.T) scramKeys {
	t.Helper()
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		t.Fatal(err)
	}
	return deriveKeys(secret.New([]byte(rfcPassword)), salt, 4096)
}

func TestSCRAMClientRFC7677(t *testing.T) {
	derive := func(salt []byte, n int) scramKeys { return deriveKeys(secret.New([]byte(rfcPassword)), salt, n) }
	c := newSCRAMClient(derive, "n,,", nil)
	c.nonce, c.clientBare = "rOprNGfwEbeRWgbNEkqO", "n=user,r=rOprNGfwEbeRWgbNEkqO"
	if got := string(c.first()); got != rfcClientFirst {
		t.Errorf("first: %q", got)
	}
	final, err := c.final([]byte(rfcServerFirst))
	if string(final) != rfcClientFinal || err != nil {
		t.Errorf("final: %q, %v", final, err)
	}
	if err := c.verify([]byte(rfcServerFinal)); err != nil {
		t.Error(err)
	}
	if err := c.verify([]byte(strings.Replace(rfcServerFinal, "6r", "7r", 1))); err == nil {
		t.Error("a wrong signature was accepted")
	}
}

// atFinal is a server that has sent the RFC's server-first-message.
func atFinal(t *testing.T) scramServer {
	return scramServer{
		keys: rfcKeys(t), gs2: []byte("n,,"), clientBare: []byte("n=user,r=rOprNGfwEbeRWgbNEkqO"),
		nonce: "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", serverFirst: []byte(rfcServerFirst),
	}
}

func TestSCRAMServerRFC7677(t *testing.T) {
	s := atFinal(t)
	reply, ok, err := s.final([]byte(rfcClientFinal))
	if string(reply) != rfcServerFinal || !ok || err != nil {
		t.Errorf("%q, %t, %v", reply, ok, err)
	}
}

func TestSCRAMServerFinalRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		from, to  string
		malformed bool
	}{
		"wrong proof":       {"dHzb", "eHzb", false},
		"other binding":     {"c=biws", "c=eSws", true}, // y,,
		"no binding":        {"c=biws,", "", true},
		"binding no base64": {"c=biws", "c=b*ws", true},
		"other nonce":       {"hNlF$k0", "hNlF$k1", true},
		"no proof":          {",p=", ",q=", true},
		"after the proof":   {"ndVQ=", "ndVQ=,x=y", true},
		"proof no base64":   {"p=d", "p=\n", true},
		"short proof":       {"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", "", false},
	} {
		s := atFinal(t)
		reply, ok, err := s.final([]byte(strings.Replace(rfcClientFinal, tt.from, tt.to, 1)))
		if ok || reply != nil || errors.Is(err, errSCRAM) != tt.malformed {
			t.Errorf("%s: %q, %t, %v", name, reply, ok, err)
		}
	}
}

func TestSCRAMServerFirst(t *testing.T) {
	binding := []byte("binding")
	for first, tt := range map[string]struct {
		plus    bool
		binding []byte
		ok      bool
	}{
		"n,,n=,r=abc":                          {ok: true},
		"n,,n=user,r=abc,x=ignored":            {ok: true},
		"y,,n=,r=abc":                          {ok: true},
		"y,,n=,r=abcd":                         {binding: binding}, // it was offered: somebody took it away
		"p=tls-server-end-point,,n=,r=abc":     {plus: true, binding: binding, ok: true},
		"p=tls-server-end-point,,n=,r=abcd":    {binding: binding},
		"p=tls-unique,,n=,r=abc":               {plus: true, binding: binding},
		"n,,n=,r=plus":                         {plus: true, binding: binding},
		"n,a=admin,n=,r=abc":                   {}, // authorisation as somebody else
		"n,,n=,r=":                             {},
		"n,,m=x,n=,r=abc":                      {},
		"n,,n=":                                {},
		"n,":                                   {},
		"":                                     {},
		"n,,n=,r=" + strings.Repeat("x", 1025): {},
	} {
		s := scramServer{keys: rfcKeys(t), binding: tt.binding, plus: tt.plus}
		reply, err := s.first([]byte(first))
		if (err == nil) != tt.ok || tt.ok && !strings.HasPrefix(string(reply), "r=abc") {
			t.Errorf("%.60q: %q, %v", first, reply, err)
		}
	}
}

// A rotated password must not find the keys of the old one.
func TestKeyCache(t *testing.T) {
	k := newKeyCache()
	salt := []byte("salt")
	first := k.derive(secret.New([]byte("one")), salt, 1)
	again := k.derive(secret.New([]byte("one")), salt, 1)
	other := k.derive(secret.New([]byte("two")), salt, 1)
	if string(first.client) != string(again.client) || string(first.client) == string(other.client) || len(k.keys) != 2 {
		t.Errorf("%d keys cached", len(k.keys))
	}
	for i := range 2 * keyCacheSize {
		k.derive(secret.New([]byte("one")), []byte{byte(i), byte(i >> 8)}, 1)
	}
	if len(k.keys) > keyCacheSize {
		t.Errorf("%d keys cached", len(k.keys))
	}
}
