package postgres

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"

	"github.com/xdg-go/stringprep"
	"golang.org/x/crypto/pbkdf2"

	"github.com/postern/postern/internal/secret"
)

// SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, RFC 5802 and 7677, as PostgreSQL
// speaks them: the user name in the messages is empty or ignored, the channel
// binding is tls-server-end-point (RFC 5929). Both roles are here: the gateway
// is the agent's server and the upstream's client.

const (
	scramPlain = "SCRAM-SHA-256"
	scramPlus  = "SCRAM-SHA-256-PLUS"

	// scramIterations is PostgreSQL's default, toward the agent. A placeholder
	// is no human's password: the work factor guards nothing here.
	scramIterations = 4096
	// maxIterations bounds what an upstream may make us compute: about 0.2 s
	// (CVE-2026-42198 is a server that asks for 2^31).
	maxIterations = 1_000_000
	// maxSCRAMField bounds a nonce, a salt and every other attribute
	// (CVE-2026-6665). PostgreSQL's own are under 100 bytes.
	maxSCRAMField = 1024
	nonceBytes    = 18
)

var errSCRAM = errors.New("malformed SCRAM message")

// scramKeys is what a password becomes; the password itself is not kept.
type scramKeys struct {
	salt       []byte
	iterations int
	client     []byte // ClientKey
	server     []byte // ServerKey
}

func deriveKeys(password secret.Secret, salt []byte, iterations int) scramKeys {
	salted := pbkdf2.Key(prepared(password.Reveal()), salt, iterations, sha256.Size, sha256.New)
	defer clear(salted)
	return scramKeys{salt, iterations, sum(salted, "Client Key"), sum(salted, "Server Key")}
}

func sum(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

func (k scramKeys) storedKey() []byte {
	h := sha256.Sum256(k.client)
	return h[:]
}

// proof is ClientKey XOR HMAC(StoredKey, authMessage).
func (k scramKeys) proof(authMessage string) []byte {
	signature := sum(k.storedKey(), authMessage)
	subtle.XORBytes(signature, signature, k.client)
	return signature
}

func (k scramKeys) serverSignature(authMessage string) []byte { return sum(k.server, authMessage) }

func nonce() string {
	b := make([]byte, nonceBytes)
	rand.Read(b)
	return base64.StdEncoding.EncodeToString(b)
}

// attribute takes "k=value," or "k=value" from the front of s.
func attribute(s []byte, k byte) (value, rest []byte, err error) {
	if len(s) < 2 || s[0] != k || s[1] != '=' {
		return nil, nil, fmt.Errorf("%w: attribute %q is missing", errSCRAM, k)
	}
	value, rest, _ = bytes.Cut(s[2:], []byte{','})
	if len(value) > maxSCRAMField {
		return nil, nil, fmt.Errorf("%w: attribute %q is %d bytes long", errSCRAM, k, len(value))
	}
	return value, rest, nil
}

func decode64(b []byte) ([]byte, error) {
	out, err := base64.StdEncoding.Strict().DecodeString(string(b))
	if err != nil || bytes.ContainsAny(b, "\r\n") { // which Go's decoder skips
		return nil, fmt.Errorf("%w: base64", errSCRAM)
	}
	return out, nil
}

// scramServer is the gateway's side toward the agent.
type scramServer struct {
	keys    scramKeys
	binding []byte // tls-server-end-point of our own leaf, nil without TLS
	plus    bool   // the mechanism the agent chose

	gs2, clientBare, serverFirst []byte
	nonce                        string
}

// first takes client-first-message and returns server-first-message.
func (s *scramServer) first(m []byte) ([]byte, error) {
	flag, rest, found := bytes.Cut(m, []byte{','})
	authzid, bare, found2 := bytes.Cut(rest, []byte{','})
	if !found || !found2 || len(authzid) != 0 {
		return nil, fmt.Errorf("%w: GS2 header", errSCRAM)
	}
	switch string(flag) {
	case "n", "y":
		if s.plus {
			return nil, fmt.Errorf("%w: %s without channel binding", errSCRAM, scramPlus)
		}
		if flag[0] == 'y' && s.binding != nil {
			return nil, fmt.Errorf("%w: the client saw no %s though it was offered", errSCRAM, scramPlus)
		}
	case "p=tls-server-end-point":
		if !s.plus {
			return nil, fmt.Errorf("%w: channel binding without %s", errSCRAM, scramPlus)
		}
	default:
		return nil, fmt.Errorf("%w: GS2 flag", errSCRAM)
	}
	s.gs2 = append([]byte(nil), m[:len(m)-len(bare)]...)
	s.clientBare = append([]byte(nil), bare...)
	_, rest, err := attribute(bare, 'n')
	if err != nil {
		return nil, err
	}
	clientNonce, _, err := attribute(rest, 'r')
	if err != nil {
		return nil, err
	}
	if len(clientNonce) == 0 {
		return nil, fmt.Errorf("%w: empty nonce", errSCRAM)
	}
	s.nonce = string(clientNonce) + nonce()
	s.serverFirst = fmt.Appendf(nil, "r=%s,s=%s,i=%d", s.nonce, base64.StdEncoding.EncodeToString(s.keys.salt), s.keys.iterations)
	return s.serverFirst, nil
}

// final takes client-final-message; ok says whether the proof is right, and
// reply is server-final-message.
func (s *scramServer) final(m []byte) (reply []byte, ok bool, err error) {
	binding, rest, err := attribute(m, 'c')
	if err != nil {
		return nil, false, err
	}
	got, err := decode64(binding)
	if err != nil {
		return nil, false, err
	}
	want := append([]byte(nil), s.gs2...)
	if s.plus {
		want = append(want, s.binding...)
	}
	if !bytes.Equal(got, want) {
		return nil, false, fmt.Errorf("%w: channel binding does not match", errSCRAM)
	}
	theirs, rest, err := attribute(rest, 'r')
	if err != nil {
		return nil, false, err
	}
	if string(theirs) != s.nonce {
		return nil, false, fmt.Errorf("%w: nonce does not match", errSCRAM)
	}
	proof64, rest, err := attribute(rest, 'p')
	if err != nil {
		return nil, false, err
	}
	if len(rest) != 0 {
		return nil, false, fmt.Errorf("%w: attributes after the proof", errSCRAM)
	}
	proof, err := decode64(proof64)
	if err != nil {
		return nil, false, err
	}
	withoutProof := m[:len(m)-len(proof64)-len(",p=")]
	auth := string(s.clientBare) + "," + string(s.serverFirst) + "," + string(withoutProof)
	if subtle.ConstantTimeCompare(proof, s.keys.proof(auth)) != 1 {
		return nil, false, nil
	}
	return fmt.Appendf(nil, "v=%s", base64.StdEncoding.EncodeToString(s.keys.serverSignature(auth))), true, nil
}

// scramClient is the gateway's side toward the upstream.
type scramClient struct {
	derive  func(salt []byte, iterations int) scramKeys
	gs2     string
	binding []byte // of the upstream's certificate, with plus

	nonce, clientBare string
	serverSignature   []byte
}

func newSCRAMClient(derive func([]byte, int) scramKeys, gs2 string, binding []byte) *scramClient {
	c := &scramClient{derive: derive, gs2: gs2, binding: binding, nonce: nonce()}
	c.clientBare = "n=,r=" + c.nonce
	return c
}

func (c *scramClient) first() []byte { return []byte(c.gs2 + c.clientBare) }

// final takes server-first-message and returns client-final-message.
func (c *scramClient) final(m []byte) ([]byte, error) {
	theirNonce, rest, err := attribute(m, 'r')
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(theirNonce, []byte(c.nonce)) || len(theirNonce) == len(c.nonce) {
		return nil, fmt.Errorf("%w: the server's nonce does not extend ours", errSCRAM)
	}
	salt64, rest, err := attribute(rest, 's')
	if err != nil {
		return nil, err
	}
	salt, err := decode64(salt64)
	if err != nil || len(salt) == 0 {
		return nil, fmt.Errorf("%w: salt", errSCRAM)
	}
	count, _, err := attribute(rest, 'i')
	if err != nil {
		return nil, err
	}
	iterations, err := strconv.Atoi(string(count))
	if err != nil || iterations < 1 || iterations > maxIterations {
		return nil, fmt.Errorf("%w: iteration count out of range (1 to %d)", errSCRAM, maxIterations)
	}
	keys := c.derive(salt, iterations)
	without := "c=" + base64.StdEncoding.EncodeToString(append([]byte(c.gs2), c.binding...)) + ",r=" + string(theirNonce)
	auth := c.clientBare + "," + string(m) + "," + without
	c.serverSignature = keys.serverSignature(auth)
	return []byte(without + ",p=" + base64.StdEncoding.EncodeToString(keys.proof(auth))), nil
}

// verify takes server-final-message: the server proves that it knows the
// password too.
func (c *scramClient) verify(m []byte) error {
	v, _, err := attribute(m, 'v')
	if err != nil {
		return err
	}
	got, err := decode64(v)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(got, c.serverSignature) != 1 {
		return errors.New("the server's SCRAM signature is wrong: it does not know the password")
	}
	return nil
}

// endPointBinding is tls-server-end-point (RFC 5929 §4.1): the hash of the
// server's certificate by its signature's hash, MD5 and SHA-1 replaced by
// SHA-256. It is nil for signatures without one hash, such as Ed25519, as with
// PostgreSQL's own libpq.
func endPointBinding(raw []byte, algorithm x509.SignatureAlgorithm) []byte {
	var h hash.Hash
	switch algorithm {
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		h = sha512.New384()
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		h = sha512.New()
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1,
		x509.SHA256WithRSA, x509.ECDSAWithSHA256, x509.SHA256WithRSAPSS, x509.DSAWithSHA256:
		h = sha256.New()
	default:
		return nil
	}
	h.Write(raw)
	return h.Sum(nil)
}

// upstreamBinding is the binding of the server's certificate.
func upstreamBinding(s *tls.ConnectionState) []byte {
	if s == nil || len(s.PeerCertificates) == 0 {
		return nil
	}
	c := s.PeerCertificates[0]
	return endPointBinding(c.Raw, c.SignatureAlgorithm)
}

// prepared is SASLprep (RFC 4013) where it applies; like PostgreSQL, a password
// that it does not accept is used as it is.
func prepared(password []byte) []byte {
	for _, c := range password {
		if c >= 0x80 {
			if p, err := stringprep.SASLprep.Prepare(string(password)); err == nil {
				return []byte(p)
			}
			break
		}
	}
	return password
}
