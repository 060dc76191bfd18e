package config

import (
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// ProtocolSSH is the one protocol that is reached otherwise than by TLS.
const ProtocolSSH = "ssh"

const (
	// DefaultCertificateLife of a certificate that the gateway signs for a login.
	DefaultCertificateLife = 5 * time.Minute
	maxCertificateLife     = 24 * time.Hour
)

// SSH is how an upstream's host key is verified: by any of the three.
type SSH struct {
	KnownHosts string   `yaml:"known_hosts,omitempty"` // a file in OpenSSH's format
	HostKeys   []string `yaml:"host_keys,omitempty"`   // public keys, "ssh-ed25519 AAAA…"
	HostCA     []string `yaml:"host_ca,omitempty"`     // public keys of authorities
}

// Certificate is signed for each login, by the authority's key.
type Certificate struct {
	CA         *SecretRef    `yaml:"ca,omitempty"`
	Principals []string      `yaml:"principals,omitempty"` // none: the user
	Life       time.Duration `yaml:"life"`
}

func (d *decoder) ssh(s *SSH) reader {
	return func(n *yaml.Node) {
		d.mapping(n, "ssh", map[string]reader{
			"known_hosts": d.str(&s.KnownHosts, "known_hosts", isPath),
			"host_keys":   d.strs(&s.HostKeys, "host_keys", isPublicKey),
			"host_ca":     d.strs(&s.HostCA, "host_ca", isPublicKey),
		})
	}
}

func (d *decoder) certificate(to **Certificate) reader {
	return func(n *yaml.Node) {
		c := &Certificate{Life: DefaultCertificateLife}
		d.mapping(n, "certificate", map[string]reader{
			"ca":         d.secretRef(&c.CA, "ca"),
			"principals": d.strs(&c.Principals, "principals", nil),
			"life":       d.duration(&c.Life, "life", time.Minute, maxCertificateLife),
		}, "ca")
		*to = c
	}
}

// isPublicKey checks the form only: what is in it, the protocol reads.
func isPublicKey(s string) (string, string) {
	f := strings.Fields(s)
	if len(f) < 2 || !strings.HasPrefix(f[1], "AAAA") || strings.Contains(s, "\n") {
		return "is not a public key", "write its type and its base64, as in a .pub file"
	}
	return "", ""
}

// sshTarget checks what is different with SSH. tls is where TLS is configured,
// nil when it is not.
func (d *decoder) sshTarget(t *Target, tls *yaml.Node) {
	if t.Protocol != ProtocolSSH {
		d.notSSH(t)
		return
	}
	if tls != nil {
		d.wrong(tls, "remove it; ssh: {known_hosts: …} verifies the host key", "target %q speaks SSH, which has no TLS", t.Name)
	}
	t.TLS = TLS{Verify: "off"}
	if t.AgentAuth == DefaultAgentAuth || t.AgentAuth == "md5" {
		d.problem(t.Pos, Error, "use any or password", "target %q speaks SSH, which has no %s", t.Name, t.AgentAuth)
	}
	if t.SSH.KnownHosts == "" && len(t.SSH.HostKeys)+len(t.SSH.HostCA) == 0 {
		d.problem(t.Pos, Error, "add ssh: {host_keys: [ssh-ed25519 AAAA…]}, or known_hosts or host_ca; ssh-keyscan prints the keys, compare them with the host's own",
			"nothing says which host key target %q has", t.Name)
	}
	if c := t.Credential; c != nil && c.Passphrase != nil && c.Key == nil {
		d.problem(t.Pos, Error, "add key, or remove it", "the credential of target %q has a passphrase and no key", t.Name)
	}
}

// notSSH refuses what only SSH has.
func (d *decoder) notSSH(t *Target) {
	if t.SSH.KnownHosts != "" || len(t.SSH.HostKeys)+len(t.SSH.HostCA) > 0 {
		d.problem(t.Pos, Error, "remove ssh", "target %q does not speak SSH", t.Name)
	}
	if c := t.Credential; c != nil && (c.Key != nil || c.Passphrase != nil || c.Certificate != nil || c.Agent != "") {
		d.problem(t.Pos, Error, "remove key, passphrase, certificate and agent from the credential", "target %q does not speak SSH", t.Name)
	}
	if t.AgentAuth == DefaultSSHAgentAuth {
		d.problem(t.Pos, Error, "use scram-sha-256, md5 or password", "agent_auth any of target %q is for SSH", t.Name)
	}
}

// proves says whether there is anything in a credential to log in by.
func (c *Credential) proves() bool {
	return c.Password != nil || c.Issue != nil || c.Key != nil || c.Certificate != nil || c.Agent != ""
}
