package oidc

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
)

// What came of a token or a login, for errors.Is. The errors that are returned
// say besides what to do about it. None holds a token, a part of one, a code, or
// a text that somebody else wrote.
var (
	ErrUnknownIssuer = errors.New("the issuer is not configured")
	ErrMalformed     = errors.New("the token is malformed")
	ErrAlgorithm     = errors.New("the token's algorithm is not accepted")
	ErrSignature     = errors.New("the token's signature does not verify")
	ErrExpired       = errors.New("the token has expired")
	ErrNotYet        = errors.New("the token is not valid yet")
	ErrAudience      = errors.New("the token was made for somebody else")
	ErrClaims        = errors.New("the token's claims make no identity")

	ErrProviderDown = errors.New("the provider does not answer as it should")
	ErrKeysTooOld   = errors.New("the provider's keys are too old")

	ErrNotLoggedIn  = errors.New("not logged in")
	ErrLoginPending = errors.New("the login is pending")
	ErrLoginDenied  = errors.New("the login was denied")
	ErrLoginExpired = errors.New("the login has expired")
	ErrTooMany      = errors.New("too many logins are pending")
)

// refusal is one of the errors above, with what is wrong and what to do.
type refusal struct {
	kind   error
	issuer string // name in the configuration
	detail string
	help   string
	cause  error // of ErrProviderDown: no library's text about a request with a secret

	transient bool // of ErrProviderDown: the next request may work
}

func (r *refusal) Error() string {
	var parts []string
	if r.issuer != "" {
		parts = append(parts, "issuer "+r.issuer)
	}
	parts = append(parts, r.kind.Error())
	if r.detail != "" {
		parts = append(parts, r.detail)
	}
	if r.cause != nil {
		parts = append(parts, r.cause.Error())
	}
	text := strings.Join(parts, ": ")
	if r.help != "" {
		text += " (" + r.help + ")"
	}
	return text
}

func (r *refusal) Unwrap() []error {
	if r.cause == nil {
		return []error{r.kind}
	}
	return []error{r.kind, r.cause}
}

// networkReason says in our own words why a request did not work out. The
// request had a secret in it, and so might the library's words.
func networkReason(err error) string {
	var timeout interface{ Timeout() bool }
	var name *net.DNSError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	var op *net.OpError
	switch {
	case errors.As(err, &name):
		return "its name is not found"
	case errors.As(err, &unknown):
		return "its certificate is of an unknown authority"
	case errors.As(err, &host):
		return "its certificate is for another name"
	case errors.As(err, &invalid), errors.As(err, &verify):
		return "its certificate does not verify"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "it takes too long"
	case errors.As(err, &op) && op.Op == "dial":
		return "it cannot be reached"
	case errors.Is(err, errElsewhere):
		return errElsewhere.Error()
	case errors.Is(err, errTooLong):
		return errTooLong.Error()
	}
	return "its answer is not one that OpenID Connect knows"
}
