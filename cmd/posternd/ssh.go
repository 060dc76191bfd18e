package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/ca"
	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

// maxKnownHosts bounds a file of host keys; one of a thousand hosts has 400 KiB.
const maxKnownHosts = 4 << 20

// knownHosts is what a target's host key is verified by, as one text in the
// format of OpenSSH: what is pinned is for whichever host of the target's.
func knownHosts(t *config.Target) ([]byte, error) {
	if t.Protocol != config.ProtocolSSH {
		return nil, nil
	}
	var out []byte
	if path := t.SSH.KnownHosts; path != "" {
		st, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("ssh.known_hosts: %w", err)
		}
		if !st.Mode().IsRegular() || st.Size() > maxKnownHosts {
			return nil, fmt.Errorf("ssh.known_hosts: %s is not a regular file of at most %d bytes", path, maxKnownHosts)
		}
		if out, err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("ssh.known_hosts: %w", err)
		}
		if len(out) > 0 && out[len(out)-1] != '\n' {
			out = append(out, '\n')
		}
	}
	pin := func(marker string, keys []string) error {
		for _, key := range keys {
			public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key))
			if err != nil {
				return fmt.Errorf("ssh: %.40q is not a public key", key)
			}
			out = append(out, marker+strings.Join(hostPatterns(t), ",")+" "...)
			out = append(out, ssh.MarshalAuthorizedKey(public)...)
		}
		return nil
	}
	if err := pin("", t.SSH.HostKeys); err != nil {
		return nil, err
	}
	if err := pin("@cert-authority ", t.SSH.HostCA); err != nil {
		return nil, err
	}
	return out, nil
}

// hostPatterns are a target's hosts as known_hosts has them.
func hostPatterns(t *config.Target) (out []string) {
	for _, h := range t.Hosts {
		out = append(out, ca.Address{Host: h.Host, Port: uint16(h.Port)}.Known())
	}
	return out
}

// hostKeys are what agents are shown for a host of a target's.
func (b *builder) hostKeys(host string) ([]engine.HostKey, error) {
	keys, err := b.ssh.HostKeys(host)
	if err != nil {
		return nil, err
	}
	out := make([]engine.HostKey, len(keys))
	for i, k := range keys {
		out[i] = engine.HostKey(k)
	}
	return out, nil
}

// sshCredential fetches what a login by SSH proves itself with.
func (b *builder) sshCredential(ctx context.Context, c *config.Credential, s *secret.SSH) (err error) {
	s.Agent = c.Agent
	fetch := func(to *secret.Secret, r *config.SecretRef) {
		if r != nil && err == nil {
			*to, err = b.secrets.Fetch(ctx, r.Source, source.Ref{Path: r.Path, Key: r.Key})
		}
	}
	fetch(&s.Key, c.Key)
	fetch(&s.Passphrase, c.Passphrase)
	if c.Certificate != nil {
		fetch(&s.Authority, c.Certificate.CA)
		s.Principals, s.Life = c.Certificate.Principals, c.Certificate.Life
	}
	return err
}

// tellHostKeys puts what agents trust of SSH where the guard finds it.
func (b *builder) tellHostKeys(cfg *config.Config) error {
	var at []ca.Address
	for _, t := range cfg.Targets {
		if t.Protocol != config.ProtocolSSH {
			continue
		}
		for _, h := range t.Hosts {
			at = append(at, ca.Address{Host: h.Host, Port: uint16(h.Port)})
		}
	}
	text, err := b.ssh.KnownHosts(at)
	if err != nil {
		return err
	}
	path := filepath.Join(cfg.StateDir, guard.KnownHostsFile)
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
