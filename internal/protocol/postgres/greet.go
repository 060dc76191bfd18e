package postgres

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgproto3/v2"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wire"
)

const (
	codeCancel = 80877102
	codeSSL    = 80877103
	codeGSS    = 80877104
	majorThree = 3

	// newestMinor is the newest protocol 3 there is (PostgreSQL 18).
	newestMinor = 2
	// maxStartup is PostgreSQL's MAX_STARTUP_PACKET_LENGTH.
	maxStartup = 10000
	// maxCancelKey is what protocol 3.2 allows.
	maxCancelKey = 256
	tlsHandshake = 22 // first byte of a TLS record that holds a ClientHello
)

// alpn is what direct TLS must negotiate (PostgreSQL 17, "Direct SSL").
const alpn = "postgresql"

// Greet implements engine.Engine: TLS, the start-up message, and the agent's
// proof that it holds the placeholder.
func (c *conn) Greet(ctx context.Context, client *wire.Conn) (engine.Intent, error) {
	packet, err := c.startupPacket(ctx, client)
	if err != nil {
		c.tell(client, err)
		return engine.Intent{}, err
	}
	if c.cancel != nil {
		return engine.Intent{Purpose: "cancel"}, nil
	}
	intent, err := c.startupMessage(client, packet)
	if err != nil {
		c.tell(client, err)
		return engine.Intent{}, err
	}
	if err := c.authenticate(client); err != nil {
		c.tell(client, err)
		return intent, err
	}
	return intent, nil
}

// tell answers a start-up that fails with what may be told of it.
func (c *conn) tell(client *wire.Conn, err error) {
	var d *engine.Denial
	if errors.As(err, &d) {
		c.Refuse(client, d)
	}
}

// Refuse implements engine.Engine.
func (c *conn) Refuse(client *wire.Conn, d *engine.Denial) {
	client.Write(appendFatal(nil, d, c.env.Flow.Session)) //nolint:errcheck // the connection is closed next
}

// startupPacket goes through the requests for encryption, each allowed once,
// and returns the StartupMessage; for a CancelRequest it sets c.cancel.
func (c *conn) startupPacket(ctx context.Context, client *wire.Conn) ([]byte, error) {
	first, err := client.Peek(1)
	if err != nil {
		return nil, fmt.Errorf("read the first byte: %w", err)
	}
	if first[0] == tlsHandshake {
		if err := c.startTLS(ctx, client, true); err != nil {
			return nil, err
		}
	}
	askedGSS, askedSSL := false, false
	for {
		packet, err := startupBytes(client)
		if err != nil {
			return nil, err
		}
		switch code := binary.BigEndian.Uint32(packet); code {
		case codeSSL:
			if c.secured || askedSSL || len(packet) != 4 {
				return nil, malformed("SSLRequest")
			}
			askedSSL = true
			if err := c.upgrade(ctx, client); err != nil {
				return nil, err
			}
		case codeGSS:
			if c.secured || askedGSS || len(packet) != 4 {
				return nil, malformed("GSSENCRequest")
			}
			askedGSS = true
			if err := answerByte(client, 'N'); err != nil {
				return nil, err
			}
		case codeCancel:
			if n := len(packet) - 8; n < 4 || n > maxCancelKey {
				return nil, malformed("CancelRequest")
			}
			c.cancel = packet[4:]
			return nil, nil
		default:
			return packet, nil
		}
	}
}

// startupBytes reads one packet without a type byte; the length is checked
// before room is made, and returned is what follows it.
func startupBytes(client *wire.Conn) ([]byte, error) {
	head, err := client.Peek(4)
	if err != nil {
		return nil, fmt.Errorf("read a start-up packet: %w", err)
	}
	n := binary.BigEndian.Uint32(head)
	if n < 8 || n > maxStartup {
		return nil, malformed("start-up")
	}
	client.Discard(4)
	packet, err := client.Exactly(int(n) - 4)
	if err != nil {
		return nil, fmt.Errorf("read a start-up packet: %w", err)
	}
	return packet, nil
}

// answerByte answers a request for encryption. Bytes that are there before the
// answer were put there by somebody who could not have seen it (CVE-2021-23214).
func answerByte(client *wire.Conn, b byte) error {
	if err := client.NothingBuffered(); err != nil {
		return &engine.Denial{Code: engine.Malformed, Reason: "bytes were sent before the answer to a request for encryption"}
	}
	_, err := client.Write([]byte{b})
	return err
}

func (c *conn) upgrade(ctx context.Context, client *wire.Conn) error {
	if c.env.ServerTLS == nil {
		return answerByte(client, 'N')
	}
	if err := answerByte(client, 'S'); err != nil {
		return err
	}
	return c.startTLS(ctx, client, false)
}

// startTLS does the handshake and keeps the binding of the leaf it showed.
func (c *conn) startTLS(ctx context.Context, client *wire.Conn, direct bool) error {
	if c.env.ServerTLS == nil {
		return errors.New("direct TLS without a certificate to show")
	}
	cfg := c.env.ServerTLS.Clone()
	leafOf := cfg.GetCertificate
	cfg.NextProtos = []string{alpn}
	cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		leaf, err := leafOf(hello)
		if err == nil && leaf.Leaf != nil {
			c.binding = endPointBinding(leaf.Certificate[0], leaf.Leaf.SignatureAlgorithm)
		}
		return leaf, err
	}
	if err := client.StartTLSServer(ctx, cfg); err != nil {
		return err
	}
	if direct && client.TLS().NegotiatedProtocol != alpn {
		return errors.New("direct TLS without ALPN " + alpn)
	}
	c.secured = true
	return nil
}

// startupMessage takes protocol version and parameters apart.
func (c *conn) startupMessage(client *wire.Conn, packet []byte) (engine.Intent, error) {
	if err := notEarly(client); err != nil {
		return engine.Intent{}, err
	}
	r := reader{b: packet}
	version := r.uint32()
	if major := version >> 16; major != majorThree {
		return engine.Intent{}, &engine.Denial{
			Code:   engine.Malformed,
			Reason: fmt.Sprintf("protocol version %d.%d is not spoken here", major, version&0xffff),
			Help:   "use a client that speaks PostgreSQL protocol 3",
		}
	}
	params, options, err := startupParameters(&r)
	if err != nil {
		return engine.Intent{}, err
	}
	c.minor = int(version & 0xffff)
	if c.minor == 1 { // never existed as a version of its own
		c.minor = 0
	}
	if c.minor > newestMinor || len(options) > 0 {
		c.minor = min(c.minor, newestMinor)
		if _, err := client.Write(negotiate(c.minor, options)); err != nil {
			return engine.Intent{}, err
		}
	}
	if c.decisions, err = c.admitParameters(params); err != nil {
		return engine.Intent{}, err
	}
	c.known = c.nameIsRight(params["user"], params["database"])
	return engine.Intent{
		Purpose:    engine.PurposeSession,
		User:       params["user"],
		Database:   params["database"],
		Parameters: c.decisions,
	}, nil
}

// startupParameters reads names and values up to the empty name, and sets the
// protocol options (_pq_.*) apart, none of which is known here.
func startupParameters(r *reader) (params map[string]string, options []string, err error) {
	params = map[string]string{}
	for {
		name := string(r.cstring())
		if name == "" {
			break
		}
		value := string(r.cstring())
		if strings.HasPrefix(name, "_pq_.") {
			options = append(options, name)
			continue
		}
		if _, twice := params[name]; twice {
			return nil, nil, malformed("start-up")
		}
		params[name] = value
	}
	if !r.done() {
		return nil, nil, malformed("start-up")
	}
	return params, options, nil
}

// notEarly refuses bytes behind a message of the login: its sender has not seen
// the answer, and what comes after the login must not be somebody else's.
func notEarly(client *wire.Conn) error {
	if client.NothingBuffered() == nil {
		return nil
	}
	return &engine.Denial{Code: engine.Malformed, Reason: "bytes were sent before the login was complete"}
}

// negotiate is NegotiateProtocolVersion, which pgproto3/v2 does not know.
func negotiate(minor int, options []string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(majorThree<<16|minor))
	b = binary.BigEndian.AppendUint32(b, uint32(len(options)))
	for _, o := range options {
		b = append(append(b, o...), 0)
	}
	return appendMessage(nil, 'v', b)
}

// passedParameters are start-up parameters that change how values look or how
// long things may take, and nothing else. They go upstream as they are.
var passedParameters = []string{
	"application_name", "fallback_application_name", "datestyle", "timezone", "intervalstyle", "extra_float_digits",
	"bytea_output", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "client_min_messages",
	"tcp_user_timeout", "geqo", "jit",
}

// admitParameters keeps what may pass in c.startup, returns what policy must
// decide, and refuses what cannot be.
func (c *conn) admitParameters(params map[string]string) (decisions map[string]string, err error) {
	c.startup = map[string]string{}
	decisions = map[string]string{}
	for name, value := range params {
		key := strings.ToLower(name)
		switch {
		case key == "user" || key == "database":
		case key == "client_encoding":
			if !utf8Encoding(value) {
				return nil, &engine.Denial{
					Code:   engine.ByPolicy,
					Reason: fmt.Sprintf("client_encoding %.32q is not supported through the gateway", value),
					Help:   "use UTF8: statements are understood in one encoding only",
				}
			}
		case key == "replication" && falsy(value):
		case key == "replication":
			decisions[key] = value
		case key == "options" && strings.TrimSpace(value) == "":
		case key == "options":
			settings, err := optionSettings(value)
			if err != nil {
				return nil, err
			}
			for k, v := range settings {
				c.sort(k, v, decisions)
			}
		default:
			c.sort(key, value, decisions)
		}
	}
	return decisions, nil
}

func (c *conn) sort(key, value string, decisions map[string]string) {
	if slices.Contains(passedParameters, key) {
		c.startup[key] = value
		return
	}
	if key == "standard_conforming_strings" && !falsy(value) {
		return // it is sent in any case
	}
	decisions[key] = value
}

func utf8Encoding(v string) bool {
	v = strings.ToLower(strings.NewReplacer("-", "", "_", "", " ", "", "'", "").Replace(v))
	return v == "utf8" || v == "unicode" || v == "auto"
}

func falsy(v string) bool {
	switch strings.ToLower(v) {
	case "off", "false", "no", "0", "f", "n", "of", "fa":
		return true
	}
	return false
}

// optionSettings understands the one harmless use of the options parameter:
// "-c name=value" and "--name=value", words separated by blanks, a backslash
// before a character that stands for itself.
func optionSettings(options string) (map[string]string, error) {
	refusal := &engine.Denial{
		Code:   engine.ByPolicy,
		Reason: "the start-up parameter options holds more than -c name=value",
		Help:   "set parameters with SET after connecting",
	}
	settings := map[string]string{}
	words := optionWords(options)
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case w == "-c" && i+1 < len(words):
			i++
			w = words[i]
		case strings.HasPrefix(w, "-c"):
			w = w[2:]
		case strings.HasPrefix(w, "--"):
			w = w[2:]
		default:
			return nil, refusal
		}
		name, value, ok := strings.Cut(w, "=")
		name = strings.ReplaceAll(strings.ToLower(name), "-", "_")
		if !ok || name == "" {
			return nil, refusal
		}
		switch name {
		case "user", "database", "options", "replication":
			return nil, refusal // no settings, but parameters of the login itself
		}
		if strings.HasPrefix(name, "_pq_.") {
			return nil, refusal
		}
		if name == "client_encoding" && !utf8Encoding(value) || name == "standard_conforming_strings" && falsy(value) {
			return nil, refusal
		}
		if name != "client_encoding" {
			settings[name] = value
		}
	}
	return settings, nil
}

func optionWords(s string) []string {
	var words []string
	var word strings.Builder
	in := false
	for i := 0; i < len(s); i++ {
		switch ch := s[i]; {
		case ch == '\\' && i+1 < len(s):
			i++
			word.WriteByte(s[i])
			in = true
		case ch == ' ' || ch >= '\t' && ch <= '\r':
			if in {
				words = append(words, word.String())
				word.Reset()
			}
			in = false
		default:
			word.WriteByte(ch)
			in = true
		}
	}
	if in {
		words = append(words, word.String())
	}
	return words
}

// startupUpstream is the gateway's own StartupMessage. The two last settings
// are what makes the upstream read statements as the grammar does.
func (c *conn) startupUpstream(user, database string, decided map[string]string) []byte {
	params := map[string]string{"user": user, "database": database}
	for k, v := range c.startup {
		params[k] = v
	}
	for k, v := range decided {
		params[k] = v
	}
	params["client_encoding"] = "UTF8"
	params["standard_conforming_strings"] = "on"
	return encode(nil, &pgproto3.StartupMessage{
		ProtocolVersion: uint32(majorThree<<16 | c.minor),
		Parameters:      params,
	})
}
