package postgres

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wiretest"
)

var (
	sslRequest = special(codeSSL, "")
	gssRequest = special(codeGSS, "")
	hello      = startup(3<<16, "user", "app", "database", "shop")
)

// secured is a world whose agents may speak TLS.
func secured(t *testing.T, auth string) (s *wiretest.Session, clientTLS *tls.Config) {
	t.Helper()
	serverTLS, clientTLS := wiretest.TLS("orders-db.internal")
	clientTLS.NextProtos = []string{alpn}
	return wiretest.Start(t, wiretest.Options{
		Protocol: New(Options{Classifier: &grammar{}}),
		Env: engine.Env{
			Flow: engine.Flow{Agent: "planner", Session: "s1"}, Target: "orders", AgentAuth: auth, ServerTLS: serverTLS,
			Placeholder: secret.Placeholder{User: "app", Database: "shop", Password: secret.New([]byte(placeholderPassword))},
		},
		Login: noPassword, Show: show,
	}), clientTLS
}

// refusedStart plays packets that must end the session before anything is
// dialled; told is whether the agent hears why.
func refusedStart(t *testing.T, told bool, packets ...[]byte) {
	t.Helper()
	wiretest.Play(t, func(t *testing.T) {
		s := (&world{}).start(t)
		s.Client.Say(packets...)
		heard := s.Client.Take()
		if got := len(heard) > 0 && heard[0] == 'E'; got != told || !told && len(heard) > 0 {
			t.Errorf("the agent heard:\n%s", show(heard))
		}
		s.Client.Gone()
		if _, err := s.End(); err == nil || s.Dials() > 0 {
			t.Errorf("%v after %d dials", err, s.Dials())
		}
	})
}

func TestStartupLengths(t *testing.T) {
	for _, n := range []uint32{0, 1, 2, 3, 4, 7, maxStartup + 1, 1<<31 - 1, 1 << 31, 1<<32 - 1} {
		refusedStart(t, true, append(binary.BigEndian.AppendUint32(nil, n), hello[4:]...))
	}
}

func TestSessionMessageLengths(t *testing.T) {
	for name, head := range map[string]uint32{
		"0": 0, "1": 1, "2": 2, "3": 3, "negative": 1<<32 - 1, "most negative": 1 << 31, "2^31-1": 1<<31 - 1, "over 1 GiB": 1<<30 + 1,
		"over the limit": uint32(wiretest.Limits.MessageBytes) + 10,
	} {
		t.Run(name, func(t *testing.T) {
			(&world{}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
				agent.Say(append([]byte{'Q'}, binary.BigEndian.AppendUint32(nil, head)...))
				agent.Take() // why, where it may be told
				agent.Gone()
				up.HearNothing()
				up.Gone()
				if in, _ := s.End(); in.User != "app" {
					t.Error("there was no session")
				}
			})
		})
	}
}

// CVE-2024-27304: a length that wraps at 2^32 makes the rest of a message look
// like messages of its own.
func TestLengthThatWraps(t *testing.T) {
	(&world{}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		inner := query("delete from orders")
		agent.Say(append([]byte{'B', 0, 0, 0, 3}, inner...))
		agent.Gone()
		up.HearNothing()
	})
}

// CVE-2021-23214: bytes before the answer to SSLRequest were put there by
// somebody who could not have seen it.
func TestBytesBufferedBeforeTLSFromAgent(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		s, _ := secured(t, authPassword)
		s.Client.Say(sslRequest, hello)
		if b := s.Client.Take(); len(b) == 0 || b[0] != 'E' {
			t.Errorf("the agent heard:\n%s", show(b))
		}
		s.Client.Gone()
	})
}

func TestSSLRequestTwice(t *testing.T) {
	t.Run("without TLS", func(t *testing.T) {
		wiretest.Play(t, func(t *testing.T) {
			s := (&world{}).start(t)
			s.Client.Say(sslRequest)
			s.Client.Hear([]byte("N"))
			s.Client.Say(sslRequest)
			s.Client.Hear(fatal(malformed("SSLRequest").(*engine.Denial)))
			s.Client.Gone()
		})
	})
	t.Run("inside of TLS", func(t *testing.T) {
		wiretest.Play(t, func(t *testing.T) {
			s, clientTLS := secured(t, authPassword)
			s.Client.Say(sslRequest)
			s.Client.Hear([]byte("S"))
			if _, err := s.Client.Secure(clientTLS); err != nil {
				t.Fatal(err)
			}
			s.Client.Say(sslRequest)
			s.Client.Hear(fatal(malformed("SSLRequest").(*engine.Denial)))
			s.Client.Gone()
		})
	})
}

func TestPlaintextStartupAfterS(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		s, _ := secured(t, authPassword)
		s.Client.Say(sslRequest)
		s.Client.Hear([]byte("S"))
		s.Client.Say(hello)
		if b := s.Client.Take(); bytes.Contains(b, authRequest(authClear)) {
			t.Error("a plaintext start-up was served after the answer S")
		}
		s.Client.Gone()
		if _, err := s.End(); err == nil {
			t.Error("no error")
		}
	})
}

func TestGSSENCIsDeclinedOnce(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		s := (&world{}).start(t)
		s.Client.Say(gssRequest)
		s.Client.Hear([]byte("N"))
		s.Client.Say(gssRequest)
		s.Client.Hear(fatal(malformed("GSSENCRequest").(*engine.Denial)))
		s.Client.Gone()
	})
	refusedStart(t, true, gssRequest, hello)                    // in one segment: before the answer
	refusedStart(t, true, special(codeGSS, "with a body"))      // no such thing
	refusedStart(t, true, special(codeSSL, "with a body"), nil) // no such thing
}

func TestDirectTLS(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		s, clientTLS := secured(t, authPassword)
		state, err := s.Client.Secure(clientTLS)
		if err != nil || state.NegotiatedProtocol != alpn {
			t.Fatalf("ALPN %q, %v", state.NegotiatedProtocol, err)
		}
		s.Client.Say(hello)
		s.Client.Hear(authRequest(authClear))
	})
}

func TestDirectTLSWithoutALPN(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		s, clientTLS := secured(t, authPassword)
		clientTLS.NextProtos = nil
		s.Client.Secure(clientTLS) //nolint:errcheck // the refusal comes after it
		s.Client.Say(hello)
		s.Client.HearNothing()
		s.Client.Gone()
		if _, err := s.End(); err == nil || !strings.Contains(err.Error(), "ALPN") {
			t.Error(err)
		}
	})
}

// Bytes that come with a message of the login were sent by somebody who has not
// seen the answer; the first statement must not be among them.
func TestBytesBeforeLoginIsComplete(t *testing.T) {
	early := &engine.Denial{Code: engine.Malformed, Reason: "bytes were sent before the login was complete"}
	wiretest.Play(t, func(t *testing.T) {
		s := (&world{}).start(t)
		s.Client.Say(hello, query("delete from orders"))
		s.Client.Hear(fatal(early))
		s.Client.Gone()
	})
	wiretest.Play(t, func(t *testing.T) {
		s := (&world{}).start(t)
		s.Client.Say(hello)
		s.Client.Hear(authRequest(authClear))
		s.Client.Say(msg('p', placeholderPassword+"\x00"), query("delete from orders"))
		s.Client.Hear(fatal(early))
		s.Client.Gone()
		if s.Dials() > 0 {
			t.Error("the upstream was dialled")
		}
	})
}

func TestStartupParameters(t *testing.T) {
	for name, tt := range map[string]struct {
		parameters []string
		decisions  map[string]string
		passed     map[string]string
		refused    bool
	}{
		"harmless":              {parameters: []string{"application_name", "psql", "TimeZone", "UTC"}, passed: map[string]string{"application_name": "psql", "timezone": "UTC"}},
		"search_path":           {parameters: []string{"search_path", "evil"}, decisions: map[string]string{"search_path": "evil"}},
		"role":                  {parameters: []string{"role", "admin"}, decisions: map[string]string{"role": "admin"}},
		"session_authorization": {parameters: []string{"session_authorization", "x"}, decisions: map[string]string{"session_authorization": "x"}},
		"replication":           {parameters: []string{"replication", "database"}, decisions: map[string]string{"replication": "database"}},
		"replication off":       {parameters: []string{"replication", "false"}},
		"options":               {parameters: []string{"options", `-c search_path=a\ b -crole=x --statement-timeout=5`}, decisions: map[string]string{"search_path": "a b", "role": "x"}, passed: map[string]string{"statement_timeout": "5"}},
		"options, switches":     {parameters: []string{"options", "-s"}, refused: true},
		"options, half":         {parameters: []string{"options", "-c"}, refused: true},
		"options, no value":     {parameters: []string{"options", "-c role"}, refused: true},
		"options, user":         {parameters: []string{"options", "-c user=postgres"}, refused: true},
		"options, database":     {parameters: []string{"options", "--database=secrets"}, refused: true},
		"options, options":      {parameters: []string{"options", `-c options=-crole=x`}, refused: true},
		"options, replication":  {parameters: []string{"options", "-c replication=on"}, refused: true},
		"options, protocol":     {parameters: []string{"options", "-c _pq_.x=1"}, refused: true},
		"client_encoding":       {parameters: []string{"client_encoding", "UTF-8"}},
		"SJIS":                  {parameters: []string{"client_encoding", "SJIS"}, refused: true},
		"SQL_ASCII":             {parameters: []string{"client_encoding", "SQL_ASCII"}, refused: true},
		"SJIS by options":       {parameters: []string{"options", "-c client_encoding=SJIS"}, refused: true},
		"strings":               {parameters: []string{"standard_conforming_strings", "on"}},
		"strings off":           {parameters: []string{"standard_conforming_strings", "off"}, decisions: map[string]string{"standard_conforming_strings": "off"}},
		"strings by options":    {parameters: []string{"options", "-c standard_conforming_strings=off"}, refused: true},
	} {
		params := map[string]string{"user": "app", "database": "shop"}
		for i := 0; i < len(tt.parameters); i += 2 {
			params[tt.parameters[i]] = tt.parameters[i+1]
		}
		c := &conn{}
		decisions, err := c.admitParameters(params)
		if (err != nil) != tt.refused || !tt.refused && (!maps.Equal(decisions, tt.decisions) || !maps.Equal(c.startup, tt.passed)) {
			t.Errorf("%s: decided %v, passed %v, %v", name, decisions, c.startup, err)
		}
		var d *engine.Denial
		if tt.refused && !errors.As(err, &d) {
			t.Errorf("%s: %v is no denial", name, err)
		}
		up := startupOf(t, c.startupUpstream("real", "orders", decisions))
		if up["user"] != "real" || up["database"] != "orders" || up["client_encoding"] != "UTF8" || up["standard_conforming_strings"] != "on" {
			t.Errorf("%s: upstream hears %v", name, up)
		}
	}
}

func TestStartupDecisionsAreSubmitted(t *testing.T) {
	for _, name := range []string{"search_path", "role", "session_authorization"} {
		wiretest.Play(t, func(t *testing.T) {
			no := &engine.Denial{Rule: "no-set", Reason: "not that"}
			w := &world{decide: denySets(no)}
			s := w.start(t)
			s.Client.Say(startup(3<<16, "user", "app", "database", "shop", name, "evil"))
			s.Client.Hear(authRequest(authClear))
			s.Client.Say(msg('p', placeholderPassword+"\x00"))
			s.Client.Hear(authRequest(authOK), fatal(no))
			s.Client.Gone()
			if s.Dials() > 0 {
				t.Error("the upstream was dialled")
			}
			w.gate.Saw(t, `submit startup "SET `+name+` = \"evil\"; " set(`+name+`)`, "denied")
		})
	}
}

func TestReplicationIsRefused(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		s := (&world{}).start(t)
		s.Client.Say(startup(3<<16, "user", "app", "database", "shop", "replication", "database"))
		s.Client.Hear(authRequest(authClear))
		s.Client.Say(msg('p', placeholderPassword+"\x00"))
		if b := s.Client.Take(); !bytes.Contains(b, []byte("replication connections are not supported")) {
			t.Errorf("the agent heard:\n%s", show(b))
		}
		if s.Dials() > 0 {
			t.Error("the upstream was dialled")
		}
	})
}

func TestMalformedStartup(t *testing.T) {
	refusedStart(t, true, startup(3<<16, "user", "app", "user", "postgres"))          // twice
	refusedStart(t, true, append([]byte{0, 0, 0, 13}, "\x00\x03\x00\x00user\x00"...)) // ends in a name
	refusedStart(t, true, append([]byte{0, 0, 0, 12}, "\x00\x03\x00\x00\x00abc"...))  // bytes after the last NUL
	refusedStart(t, true, startup(2<<16, "user", "app"))                              // protocol 2
	refusedStart(t, true, special(codeCancel, "short"[:3]))                           // no key
	refusedStart(t, true, special(codeCancel, "pid."+strings.Repeat("k", 257)))       // key too long
	refusedStart(t, false, []byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 0})                     // TLS where there is none
}

func TestProtocolNegotiation(t *testing.T) {
	for _, tt := range []struct {
		version    uint32
		parameters []string
		answer     []byte
		minor      int
	}{
		{3 << 16, nil, nil, 0},
		{3<<16 | 2, nil, nil, 2},
		{3<<16 | 9999, nil, negotiate(2, nil), 2},
		{3 << 16, []string{"_pq_.grease", "x"}, negotiate(0, []string{"_pq_.grease"}), 0},
	} {
		c := &conn{}
		client, answered := wiretest.Preloaded(nil)
		packet := startup(tt.version, append([]string{"user", "app"}, tt.parameters...)...)[4:]
		intent, err := c.startupMessage(client, packet)
		client.Close()
		if got := answered(); !bytes.Equal(got, tt.answer) || c.minor != tt.minor || err != nil || intent.User != "app" {
			t.Errorf("%#x: %q, minor %d, %v, %v", tt.version, got, c.minor, intent, err)
		}
		up := c.startupUpstream("real", "orders", nil)
		if v := binary.BigEndian.Uint32(up[4:]); v != uint32(3<<16|tt.minor) {
			t.Errorf("%#x: the upstream hears version %#x", tt.version, v)
		}
	}
}

// A length in the message itself, so that the bytes are not only our own
// encoder's word.
func TestNegotiateProtocolVersionOnTheWire(t *testing.T) {
	want := "v\x00\x00\x00\x14\x00\x03\x00\x02\x00\x00\x00\x01_pq_.x\x00"
	want = "v" + long(len(want)-1) + want[5:]
	if got := negotiate(2, []string{"_pq_.x"}); string(got) != want {
		t.Errorf("%q, want %q", got, want)
	}
}
