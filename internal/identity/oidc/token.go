package oidc

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"math"
	"slices"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"

	"github.com/postern/postern/internal/secret"
)

const (
	// maxToken bounds a token before it is looked at; those with two hundred
	// groups are about 10 KiB, and HTTP headers rarely hold more than this.
	maxToken = 16 << 10
	// maxKeyID bounds the name of a key in a header.
	maxKeyID = 512
	// maxLife is how far away exp may be: beyond that it is no date but a mistake
	// (milliseconds for seconds).
	maxLife = 10 * 365 * 24 * time.Hour
	// maxTokenID bounds a jti that is kept; a longer one is replaced by a digest.
	maxTokenID = 128
	// digestLength is what of a digest stands for a token, in bytes.
	digestLength = 12
)

// purpose is what a token is to be accepted for.
type purpose struct {
	login bool   // an ID token that we asked for
	nonce string // that it must have; empty: any
}

// Verify says who the bearer of a token is. The issuer is chosen by the token's
// own iss among those configured before anybody is asked anything. Its errors
// are those of this package, for errors.Is. When the provider's keys are to be
// fetched first, it takes up to fetchTime however soon ctx ends, because the
// keys are everybody's.
func (p *Provider) Verify(ctx context.Context, raw secret.Secret) (Identity, error) {
	return p.verify(ctx, string(raw.Reveal()), "", purpose{})
}

// verify checks a token, which must be of the named issuer unless that is empty.
func (p *Provider) verify(ctx context.Context, raw, want string, why purpose) (Identity, error) {
	t, err := parse(raw)
	if err != nil {
		return Identity{}, err
	}
	url, _ := t.claims["iss"].(string)
	i := p.byURL[url]
	if i == nil || want != "" && i.Name != want {
		return Identity{}, &refusal{kind: ErrUnknownIssuer, issuer: want, help: "the token's iss must be, to the letter, the URL of one of: " + p.names()}
	}
	if err := i.checkHeader(t); err != nil {
		return Identity{}, err
	}
	// What is wrong with the claims of a token is said only once its signature
	// has been verified: before that, nobody has claimed anything.
	if err := i.checkSignature(ctx, t); err != nil {
		return Identity{}, err
	}
	if err := i.checkTimes(t, p.now()); err != nil {
		return Identity{}, err
	}
	if err := i.checkAudience(t, why); err != nil {
		return Identity{}, err
	}
	identity, err := i.identity(t)
	if err != nil {
		return Identity{}, err
	}
	return identity, nil
}

// token is one that was taken apart. Nothing of it is verified.
type token struct {
	raw       string
	algorithm string
	kind      string // typ
	keyID     string
	claims    map[string]any

	expires, issued time.Time // set by checkTimes
}

// parse takes a token apart. Only the compact form of a JWS is one: three parts
// in base64url without padding.
func parse(raw string) (*token, error) {
	malformed := func(detail, help string) error {
		return &refusal{kind: ErrMalformed, detail: detail, help: help}
	}
	if raw == "" {
		return nil, malformed("it is empty", "is the variable or file that it comes from set?")
	}
	if len(raw) > maxToken {
		return nil, malformed("it is longer than 16 KiB", "have the provider put fewer groups or claims into it")
	}
	parts := strings.Split(raw, ".")
	if len(parts) == 5 {
		return nil, malformed("it is encrypted", "have the provider sign its tokens only")
	}
	if len(parts) != 3 {
		return nil, malformed("it does not have three parts", "is it an ID token, or an access token that is opaque?")
	}
	var texts [3][]byte
	for n, part := range parts {
		text, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || strings.ContainsAny(part, "\r\n") { // which the decoder skips
			return nil, malformed("a part of it is not base64url", "was it cut or wrapped on its way?")
		}
		texts[n] = text
	}
	header, err := object(texts[0])
	if err != nil {
		return nil, malformed("its header is not a JSON object with every name once", "")
	}
	t := &token{raw: raw}
	if t.claims, err = object(texts[1]); err != nil {
		return nil, malformed("its payload is not a JSON object with every name once", "")
	}
	// Extensions that must be understood (crit), b64 among them, are none of
	// ours. Keys that a token brings along (jwk, jku, x5c, x5u) are not looked at.
	for _, name := range []string{"crit", "b64", "enc", "zip"} {
		if _, there := header[name]; there {
			return nil, malformed("its header asks for an extension", "have the provider sign plain JWTs")
		}
	}
	for name, to := range map[string]*string{"alg": &t.algorithm, "typ": &t.kind, "kid": &t.keyID} {
		v, there := header[name]
		s, isText := v.(string)
		if there && !isText || len(s) > maxKeyID || there && s == "" {
			return nil, malformed("its header has "+name+" that is no text, or one too long", "")
		}
		*to = s
	}
	return t, nil
}

// checkHeader holds a token to what its issuer may send.
func (i *issuer) checkHeader(t *token) error {
	if !slices.Contains(i.algorithms, t.algorithm) {
		return &refusal{kind: ErrAlgorithm, issuer: i.Name, help: "accepted are " + strings.Join(i.algorithms, ", ") + ": see algorithms of the issuer"}
	}
	// RFC 8725, 3.11: a logout token or a DPoP proof is signed by the same keys
	// and is no statement about who brings it.
	kind := strings.TrimPrefix(strings.ToLower(t.kind), "application/")
	if kind != "" && !slices.ContainsFunc(i.types, func(a string) bool { return strings.EqualFold(a, kind) }) {
		return &refusal{kind: ErrMalformed, issuer: i.Name, detail: "its typ is of another kind of token", help: "accepted are " + strings.Join(i.types, ", ") + ": see types of the issuer"}
	}
	return nil
}

// checkSignature has go-oidc verify the token with one of the issuer's keys, and
// that its iss is the issuer's. Expiry and audience it would check with a leeway
// and a number of clients that are its own; these are checked here.
func (i *issuer) checkSignature(ctx context.Context, t *token) error {
	k := &oneToken{keys: i.keys, keyID: t.keyID, algorithm: t.algorithm}
	v := gooidc.NewVerifier(i.URL, k, &gooidc.Config{
		SupportedSigningAlgs: i.algorithms, SkipClientIDCheck: true, SkipExpiryCheck: true,
	})
	_, err := v.Verify(ctx, t.raw)
	switch {
	case k.err != nil:
		return k.err // go-oidc keeps the text of it only
	case err != nil:
		return &refusal{kind: ErrMalformed, issuer: i.Name, detail: "its claims are not those of OpenID Connect", help: "iss, sub and aud are texts, exp, iat and nbf are numbers"}
	}
	return nil
}

// checkTimes checks exp, nbf and iat, of which only exp is required.
func (i *issuer) checkTimes(t *token, now time.Time) error {
	moments := map[string]time.Time{}
	for _, name := range []string{"exp", "nbf", "iat"} {
		v, there := t.claims[name]
		if !there && name != "exp" {
			continue
		}
		at, ok := moment(v)
		if !ok {
			return &refusal{kind: ErrMalformed, issuer: i.Name, detail: name + " is missing or no date", help: "tokens must expire"}
		}
		moments[name] = at
	}
	t.expires, t.issued = moments["exp"], moments["iat"]
	clocks := "is the clock of this host right?"
	switch {
	case !now.Before(t.expires.Add(i.Leeway)):
		return &refusal{kind: ErrExpired, issuer: i.Name, detail: "at " + t.expires.UTC().Format(time.RFC3339), help: "get a new one, or log in again; " + clocks}
	case t.expires.After(now.Add(maxLife)):
		return &refusal{kind: ErrMalformed, issuer: i.Name, detail: "exp is more than ten years away", help: "exp counts seconds"}
	case moments["nbf"].After(now.Add(i.Leeway)), t.issued.After(now.Add(i.Leeway)):
		return &refusal{kind: ErrNotYet, issuer: i.Name, detail: "nbf or iat is in the future", help: clocks}
	case t.issued.After(t.expires), moments["nbf"].After(t.expires):
		return &refusal{kind: ErrMalformed, issuer: i.Name, detail: "exp is before iat or nbf"}
	}
	return nil
}

// moment reads a NumericDate: seconds, perhaps with a fraction.
func moment(v any) (time.Time, bool) {
	const most = 1 << 40 // seconds; time.Time and arithmetic on it are sound below
	switch v := v.(type) {
	case int64:
		return time.Unix(v, 0).UTC(), v > 0 && v < most
	case float64:
		return time.Unix(int64(math.Floor(v)), 0).UTC(), v >= 1 && v < most
	}
	return time.Time{}, false
}

// checkAudience checks aud and azp, and the nonce of a login.
func (i *issuer) checkAudience(t *token, why purpose) error {
	var audiences []string
	switch aud := t.claims["aud"].(type) {
	case string:
		audiences = []string{aud}
	case []any:
		for _, a := range aud {
			s, ok := a.(string)
			if !ok {
				return &refusal{kind: ErrMalformed, issuer: i.Name, detail: "aud is no text"}
			}
			audiences = append(audiences, s)
		}
	}
	accepted := i.Audiences
	if why.login {
		accepted = []string{i.ClientID}
	}
	ours := func(a string) bool { return slices.Contains(accepted, a) }
	azp, hasParty := t.claims["azp"]
	party, _ := azp.(string)
	switch {
	case !slices.ContainsFunc(audiences, ours):
		return &refusal{kind: ErrAudience, issuer: i.Name, detail: "aud is none of " + strings.Join(accepted, ", "), help: "ask the provider for a token with that audience"}
	// OpenID Connect Core, 3.1.3.7: a token for several has one to whom it was
	// issued, and that must be us. Of an ID token that we asked for it always is.
	case hasParty && (len(audiences) > 1 || why.login) && party != i.ClientID && !ours(party):
		return &refusal{kind: ErrAudience, issuer: i.Name, detail: "azp names another client", help: "ask for a token for Postern alone"}
	}
	if nonce, _ := t.claims["nonce"].(string); why.nonce != "" && nonce != why.nonce {
		return &refusal{kind: ErrLoginDenied, issuer: i.Name, detail: "the nonce is not that of this login", help: "begin the login again"}
	}
	return nil
}

// id names a token in recordings, without being of use to anybody.
func (t *token) id() string {
	if jti, ok := t.claims["jti"].(string); ok && jti != "" && len(jti) <= maxTokenID && clean(jti) {
		return jti
	}
	sum := sha256.Sum256([]byte(t.raw))
	return "sha256:" + hex.EncodeToString(sum[:digestLength])
}
