package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/lease"
	"github.com/postern/postern/internal/secret/source"
)

// leasesFile is where, in the state directory, it is kept what is to be revoked.
const leasesFile = "leases.json"

// maxOrderName bounds the name that a source is told.
const maxOrderName = 64

// want is the credential that a flow needs of a target whose credential is issued.
func (b *builder) want(t *config.Target, f *engine.Flow) lease.Want {
	i := t.Credential.Issue
	scope := lease.Scope{ID: f.Session}
	if i.Per == "run" {
		scope = b.scopeOfRun(f)
	}
	o := source.Order{
		Engine: i.Engine, Mount: i.Mount, Role: i.Role, TTL: i.TTL, Name: plain(path.Base(scope.ID)), Principals: i.Principals, CommonName: i.CommonName,
	}
	if i.Engine == "ssh" && len(o.Principals) == 0 {
		o.Principals = []string{t.Credential.User}
	}
	if i.Engine == "pki" && o.CommonName == "" {
		o.CommonName = t.Credential.User
	}
	return lease.Want{Source: i.Source, Target: t.Name, Scope: scope, Order: o}
}

// scopeOfRun is the run, or, of what postern run did not launch, the cgroup: a
// service's or a container's.
func (b *builder) scopeOfRun(f *engine.Flow) lease.Scope {
	cgroup := strings.TrimPrefix(f.Cgroup, "/")
	if f.Run != "" {
		if before, _, ok := strings.Cut(cgroup+"/", "/"+f.Run+"/"); ok {
			cgroup = before + "/" + f.Run
		}
		if id, err := identity.CgroupID(filepath.Join(b.mount, cgroup)); err == nil {
			return lease.Scope{ID: f.Run, Cgroup: cgroup, CgroupID: id}
		}
	}
	if cgroup == "" {
		return lease.Scope{ID: f.Session} // it is gone already
	}
	return lease.Scope{ID: cgroup, Cgroup: cgroup, CgroupID: f.CgroupID}
}

// plain leaves letters, digits and dashes of a name.
func plain(name string) string {
	out := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name)
	return out[:min(len(out), maxOrderName)]
}

// issued has a credential made, or takes the one of the flow's scope.
func (b *builder) issued(ctx context.Context, t *config.Target, f *engine.Flow, c *secret.Credential) error {
	fields, err := b.leases.Credential(ctx, b.want(t, f))
	if err != nil {
		return err
	}
	switch t.Credential.Issue.Engine {
	case "database":
		c.User, c.Password = string(fields["username"].Reveal()), fields["password"]
		if c.User == "" || c.Password.Empty() {
			return fmt.Errorf("%w: it issues no username and password", source.ErrMalformed)
		}
	case "ssh":
		c.SSH.Key, c.SSH.Signed = fields["private_key"], string(fields["certificate"].Reveal())
	case "pki":
		chain := bytes.Join([][]byte{fields["certificate"].Reveal(), fields["ca_chain"].Reveal()}, []byte("\n"))
		cert, err := tls.X509KeyPair(chain, fields["private_key"].Reveal())
		if err != nil {
			return fmt.Errorf("%w: it issues no certificate with its key", source.ErrMalformed)
		}
		c.Certificate = &cert
	}
	return nil
}

// refetch asks the sources of a target's secrets whether they have others.
func (b *builder) refetch(t *config.Target) func(context.Context, *engine.Flow) error {
	return func(ctx context.Context, f *engine.Flow) error {
		if t.Credential == nil {
			return nil
		}
		if i := t.Credential.Issue; i != nil {
			// Somebody else took it away: another is made.
			b.leases.Renounce(b.want(t, f))
			return nil
		}
		var errs []error
		for _, r := range t.SecretRefs() {
			_, err := b.secrets.Refetch(ctx, r.Source, source.Ref{Path: r.Path, Key: r.Key})
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
}

// issuers are the sources that make credentials; with one of SSH comes the key
// that it was signed for.
func (b *builder) issuer(name string) (source.Issuer, error) {
	s, err := b.secrets.Source(name)
	if err != nil {
		return nil, err
	}
	i, ok := s.(source.Issuer)
	if !ok {
		return nil, fmt.Errorf("source %q issues no credentials", name)
	}
	return keyed{i}, nil
}

// keyed makes the key for a certificate of SSH's, which an issuer only signs.
type keyed struct{ source.Issuer }

func (k keyed) Issue(ctx context.Context, o source.Order) (source.Issued, error) {
	if o.Engine != "ssh" {
		return k.Issuer.Issue(ctx, o)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return source.Issued{}, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return source.Issued{}, err
	}
	own, err := ssh.NewPublicKey(public)
	if err != nil {
		return source.Issued{}, err
	}
	o.PublicKey = string(ssh.MarshalAuthorizedKey(own))
	made, err := k.Issuer.Issue(ctx, o)
	if err == nil {
		made.Fields["private_key"] = secret.New(pem.EncodeToMemory(block))
	}
	return made, err
}
