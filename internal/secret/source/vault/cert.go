package vault

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
)

// Cert logs in with a client certificate, by the TLS connection itself.
type Cert struct {
	always
	Mount string // empty: cert
	Role  string // empty: any that the certificate matches
	File  string // PEM file of the certificate and what leads to its authority
	Key   string // PEM file
}

func (c Cert) String() string { return "certificate at auth/" + cmp.Or(c.Mount, "cert") }

func (c Cert) login(ctx context.Context, s *Source) (*token, error) {
	body := map[string]any{}
	if c.Role != "" {
		body["name"] = c.Role
	}
	return s.enter(ctx, "auth/"+cmp.Or(c.Mount, "cert")+"/login", body)
}

// certificate reads the pair anew for each connection: certificates are renewed.
func (c Cert) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	crt, err := readFile(c.File)
	if err != nil {
		return nil, &localError{err}
	}
	key, err := readFile(c.Key)
	if err != nil {
		return nil, &localError{err}
	}
	defer clear(key)
	pair, err := tls.X509KeyPair(crt, key)
	if err != nil {
		return nil, &localError{errors.New("the client certificate and its key are not a pair in PEM form")}
	}
	return &pair, nil
}
