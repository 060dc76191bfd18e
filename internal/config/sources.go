package config

import (
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// The sources that need no configuration.
var builtInSources = []string{"file", "env", "systemd"}

const (
	// DefaultRefresh is how long a secret is used without asking its source again.
	DefaultRefresh = 30 * time.Second
	maxRefresh     = 24 * time.Hour
	// DefaultStale is how long the last known value is used while its source does
	// not answer.
	DefaultStale = 15 * time.Minute
	maxStale     = 7 * 24 * time.Hour
	// DefaultSourceTimeout bounds one question to a source.
	DefaultSourceTimeout = 10 * time.Second
	maxSourceTimeout     = time.Minute
)

// Source is a place where secrets come from, beside those that are built in.
// Exactly one of the pointers is set.
type Source struct {
	Pos     Pos           `yaml:"-"`
	Name    string        `yaml:"name"`
	Refresh time.Duration `yaml:"refresh"`
	Stale   time.Duration `yaml:"stale"`

	Vault *VaultSource `yaml:"vault,omitempty"`
	Exec  *ExecSource  `yaml:"exec,omitempty"`
	AWS   *AWSSource   `yaml:"aws,omitempty"`
	GCP   *GCPSource   `yaml:"gcp,omitempty"`
	Azure *AzureSource `yaml:"azure,omitempty"`
}

// VaultSource is a server of OpenBao or HashiCorp Vault.
type VaultSource struct {
	Address    string        `yaml:"address"` // an URL, or the path of an agent's socket
	Namespace  string        `yaml:"namespace,omitempty"`
	CA         string        `yaml:"ca,omitempty"`
	ServerName string        `yaml:"server_name,omitempty"`
	Timeout    time.Duration `yaml:"timeout"`
	Auth       VaultAuth     `yaml:"auth"`
}

// VaultAuth is how the daemon logs in there.
type VaultAuth struct {
	Method       string `yaml:"method"` // "token", "approle", "jwt", "kubernetes", "cert" or "agent"
	Mount        string `yaml:"mount,omitempty"`
	Role         string `yaml:"role,omitempty"`
	RoleID       string `yaml:"role_id,omitempty"`
	SecretIDFile string `yaml:"secret_id_file,omitempty"`
	Wrapped      bool   `yaml:"wrapped,omitempty"` // the file has a token that wraps the secret id
	TokenFile    string `yaml:"token_file,omitempty"`
	Cert         string `yaml:"cert,omitempty"`
	Key          string `yaml:"key,omitempty"`
}

// ExecSource is a program that prints a secret.
type ExecSource struct {
	Command []string      `yaml:"command"`
	Timeout time.Duration `yaml:"timeout"`
	Env     []string      `yaml:"env,omitempty"` // names of the daemon's variables that it gets
}

// AWSSource is one service of AWS.
type AWSSource struct {
	Service     string `yaml:"service"` // "secretsmanager", "ssm" or "rds"
	Region      string `yaml:"region,omitempty"`
	Profile     string `yaml:"profile,omitempty"`
	Role        string `yaml:"role,omitempty"` // to assume: its ARN
	ExternalID  string `yaml:"external_id,omitempty"`
	WebIdentity string `yaml:"web_identity_file,omitempty"`
	Metadata    bool   `yaml:"metadata,omitempty"` // credentials of the instance
	Endpoint    string `yaml:"endpoint,omitempty"`
	CA          string `yaml:"ca,omitempty"`
}

// GCPSource is Google Cloud's Secret Manager.
type GCPSource struct {
	Project     string `yaml:"project,omitempty"`
	Credentials string `yaml:"credentials_file,omitempty"`
	Metadata    bool   `yaml:"metadata,omitempty"` // credentials of the instance
	Endpoint    string `yaml:"endpoint,omitempty"`
	CA          string `yaml:"ca,omitempty"`
}

// AzureSource is a Key Vault, and how the daemon logs in there: by one of the
// files or by the host's managed identity.
type AzureSource struct {
	Vault       string `yaml:"vault"`
	Tenant      string `yaml:"tenant,omitempty"`
	ClientID    string `yaml:"client_id,omitempty"`
	Secret      string `yaml:"client_secret_file,omitempty"`
	Certificate string `yaml:"certificate_file,omitempty"`
	Token       string `yaml:"federated_token_file,omitempty"`
	Managed     bool   `yaml:"managed,omitempty"`
	Authority   string `yaml:"authority,omitempty"`
	CA          string `yaml:"ca,omitempty"`
}

// Issue is a credential that is made for a run or a session, and revoked after.
type Issue struct {
	Pos        Pos           `yaml:"-"`
	Source     string        `yaml:"source"`
	Engine     string        `yaml:"engine"` // "database", "ssh" or "pki"
	Mount      string        `yaml:"mount,omitempty"`
	Role       string        `yaml:"role"`
	Per        string        `yaml:"per"`           // "session" or "run"
	TTL        time.Duration `yaml:"ttl,omitempty"` // zero: as the role says
	CommonName string        `yaml:"common_name,omitempty"`
	Principals []string      `yaml:"principals,omitempty"`
}

const (
	minTTL = 10 * time.Second
	maxTTL = 7 * 24 * time.Hour
)

func (d *decoder) sources(to *[]Source) reader {
	return func(n *yaml.Node) {
		d.list(n, "sources", func(e *yaml.Node) { *to = append(*to, d.source(e)) })
	}
}

func (d *decoder) source(n *yaml.Node) Source {
	s := Source{Pos: d.pos(n), Refresh: DefaultRefresh, Stale: DefaultStale}
	kinds := 0
	kind := func(read reader) reader { return func(n *yaml.Node) { kinds++; read(n) } }
	d.mapping(n, "a source", map[string]reader{
		"name":    d.str(&s.Name, "name", isWord),
		"refresh": d.duration(&s.Refresh, "refresh", time.Second, maxRefresh),
		"stale":   d.duration(&s.Stale, "stale", 0, maxStale),
		"vault":   kind(d.vault(&s.Vault)),
		"exec":    kind(d.exec(&s.Exec)),
		"aws":     kind(d.aws(&s.AWS)),
		"gcp":     kind(d.gcp(&s.GCP)),
		"azure":   kind(d.azure(&s.Azure)),
	}, "name")
	if kinds != 1 {
		d.problem(s.Pos, Error, "write one of vault:, exec:, aws:, gcp: and azure:", "source %q is of %d kinds", s.Name, kinds)
	}
	if slices.Contains(builtInSources, s.Name) {
		d.problem(s.Pos, Error, "rename it", "the source %q is built in", s.Name)
	}
	return s
}

func (d *decoder) vault(to **VaultSource) reader {
	return func(n *yaml.Node) {
		v := &VaultSource{Timeout: DefaultSourceTimeout}
		d.mapping(n, "vault", map[string]reader{
			"address":     d.str(&v.Address, "address", isVaultAddress),
			"namespace":   d.str(&v.Namespace, "namespace", nil),
			"ca":          d.str(&v.CA, "ca", isPath),
			"server_name": d.str(&v.ServerName, "server_name", isServerName),
			"timeout":     d.duration(&v.Timeout, "timeout", time.Second, maxSourceTimeout),
			"auth":        d.vaultAuth(&v.Auth),
		}, "address", "auth")
		*to = v
	}
}

// neededByAuth are the keys that a method takes: those that it cannot do
// without, then those that it may have.
var neededByAuth = map[string][2][]string{
	"token":      {{"token_file"}, nil},
	"approle":    {{"role_id", "secret_id_file"}, {"mount", "wrapped"}},
	"jwt":        {{"role", "token_file"}, {"mount"}},
	"kubernetes": {{"role"}, {"mount", "token_file"}},
	"cert":       {{"cert", "key"}, {"mount", "role"}},
	"agent":      {nil, nil},
}

func (d *decoder) vaultAuth(a *VaultAuth) reader {
	return func(n *yaml.Node) {
		d.mapping(n, "auth", map[string]reader{
			"method":         d.word(&a.Method, "method", "token", "approle", "jwt", "kubernetes", "cert", "agent"),
			"mount":          d.str(&a.Mount, "mount", nil),
			"role":           d.str(&a.Role, "role", nil),
			"role_id":        d.str(&a.RoleID, "role_id", nil),
			"secret_id_file": d.str(&a.SecretIDFile, "secret_id_file", isPath),
			"wrapped":        d.boolean(&a.Wrapped, "wrapped"),
			"token_file":     d.str(&a.TokenFile, "token_file", isPath),
			"cert":           d.str(&a.Cert, "cert", isPath),
			"key":            d.str(&a.Key, "key", isPath),
		}, "method")
		if a.Method == "" {
			return
		}
		takes := neededByAuth[a.Method]
		for _, f := range []struct {
			key string
			set bool
		}{
			{"mount", a.Mount != ""},
			{"role", a.Role != ""},
			{"role_id", a.RoleID != ""},
			{"secret_id_file", a.SecretIDFile != ""},
			{"wrapped", a.Wrapped},
			{"token_file", a.TokenFile != ""},
			{"cert", a.Cert != ""},
			{"key", a.Key != ""},
		} {
			needed := slices.Contains(takes[0], f.key)
			switch {
			case needed && !f.set:
				d.wrong(n, "add "+f.key, "auth method %s lacks %s", a.Method, f.key)
			case f.set && !needed && !slices.Contains(takes[1], f.key):
				d.wrong(n, "remove "+f.key, "auth method %s has no %s", a.Method, f.key)
			}
		}
	}
}

func (d *decoder) exec(to **ExecSource) reader {
	return func(n *yaml.Node) {
		x := &ExecSource{Timeout: DefaultSourceTimeout}
		d.mapping(n, "exec", map[string]reader{
			"command": func(n *yaml.Node) {
				d.list(n, "command", func(e *yaml.Node) {
					var s string
					if d.str(&s, "a word of command", nil)(e); s != "" {
						x.Command = append(x.Command, s)
					}
				})
				if len(x.Command) > 0 && !strings.HasPrefix(x.Command[0], "/") {
					d.wrong(n, "begin it with the program's whole path", "command does not begin with an absolute path")
				}
			},
			"timeout": d.duration(&x.Timeout, "timeout", time.Second, maxSourceTimeout),
			"env":     d.strs(&x.Env, "env", isVariable),
		}, "command")
		if len(x.Command) == 0 {
			d.wrong(n, "add the program", "command is empty")
		}
		*to = x
	}
}

func (d *decoder) aws(to **AWSSource) reader {
	return func(n *yaml.Node) {
		a := &AWSSource{}
		d.mapping(n, "aws", map[string]reader{
			"service":           d.word(&a.Service, "service", "secretsmanager", "ssm", "rds"),
			"region":            d.str(&a.Region, "region", isWord),
			"profile":           d.str(&a.Profile, "profile", nil),
			"role":              d.str(&a.Role, "role", nil),
			"external_id":       d.str(&a.ExternalID, "external_id", nil),
			"web_identity_file": d.str(&a.WebIdentity, "web_identity_file", isPath),
			"metadata":          d.boolean(&a.Metadata, "metadata"),
			"endpoint":          d.str(&a.Endpoint, "endpoint", isSecureURL),
			"ca":                d.str(&a.CA, "ca", isPath),
		}, "service")
		if a.Role == "" && (a.ExternalID != "" || a.WebIdentity != "") {
			d.wrong(n, "add role", "external_id and web_identity_file are for a role")
		}
		*to = a
	}
}

func (d *decoder) gcp(to **GCPSource) reader {
	return func(n *yaml.Node) {
		g := &GCPSource{}
		d.mapping(n, "gcp", map[string]reader{
			"project":          d.str(&g.Project, "project", nil),
			"credentials_file": d.str(&g.Credentials, "credentials_file", isPath),
			"metadata":         d.boolean(&g.Metadata, "metadata"),
			"endpoint":         d.str(&g.Endpoint, "endpoint", isSecureURL),
			"ca":               d.str(&g.CA, "ca", isPath),
		})
		if g.Credentials == "" && !g.Metadata {
			d.wrong(n, "add credentials_file, or metadata: true", "nothing says how gcp is logged in to")
		}
		*to = g
	}
}

func (d *decoder) azure(to **AzureSource) reader {
	return func(n *yaml.Node) {
		a := &AzureSource{}
		d.mapping(n, "azure", map[string]reader{
			"vault":                d.str(&a.Vault, "vault", isKeyVault),
			"tenant":               d.str(&a.Tenant, "tenant", nil),
			"client_id":            d.str(&a.ClientID, "client_id", nil),
			"client_secret_file":   d.str(&a.Secret, "client_secret_file", isPath),
			"certificate_file":     d.str(&a.Certificate, "certificate_file", isPath),
			"federated_token_file": d.str(&a.Token, "federated_token_file", isPath),
			"managed":              d.boolean(&a.Managed, "managed"),
			"authority":            d.str(&a.Authority, "authority", isHTTPS),
			"ca":                   d.str(&a.CA, "ca", isPath),
		}, "vault")
		d.azureLogin(n, a)
		*to = a
	}
}

func (d *decoder) azureLogin(n *yaml.Node, a *AzureSource) {
	ways := 0
	for _, set := range []bool{a.Secret != "", a.Certificate != "", a.Token != "", a.Managed} {
		if set {
			ways++
		}
	}
	switch {
	case ways != 1:
		d.wrong(n, "write one of client_secret_file, certificate_file, federated_token_file and managed: true", "azure has %d ways to log in", ways)
	case !a.Managed && (a.Tenant == "" || a.ClientID == ""):
		d.wrong(n, "add tenant and client_id", "a login to azure by a file is of a tenant and a client id")
	case a.Managed && (a.Tenant != "" || a.Authority != ""):
		d.wrong(n, "remove tenant and authority", "a managed identity has its tenant and its authority")
	}
}

// isHTTPS is for what no exception is made for on loopback.
func isHTTPS(s string) (message, help string) {
	if message, help = isSecureURL(s); message == "" && !strings.HasPrefix(s, "https://") {
		return "is not secure", "begin it with https://"
	}
	return message, help
}

// isKeyVault is for a vault's URL: what a token is good for follows from its name.
func isKeyVault(s string) (message, help string) {
	if message, help = isHTTPS(s); message != "" {
		return message, help
	}
	u, err := url.Parse(s)
	if err != nil || strings.Trim(u.Path, "/") != "" || net.ParseIP(u.Hostname()) != nil || strings.Count(u.Hostname(), ".") < 2 {
		return "is not a vault's", "write it as https://x.vault.azure.net"
	}
	return "", ""
}

func (d *decoder) issue(to **Issue) reader {
	return func(n *yaml.Node) {
		i := &Issue{Pos: d.pos(n), Per: "session"}
		d.mapping(n, "issue", map[string]reader{
			"source":      d.str(&i.Source, "source", isWord),
			"engine":      d.word(&i.Engine, "engine", "database", "ssh", "pki"),
			"mount":       d.str(&i.Mount, "mount", nil),
			"role":        d.str(&i.Role, "role", nil),
			"per":         d.word(&i.Per, "per", "session", "run"),
			"ttl":         d.duration(&i.TTL, "ttl", minTTL, maxTTL),
			"common_name": d.str(&i.CommonName, "common_name", nil),
			"principals":  d.strs(&i.Principals, "principals", nil),
		}, "source", "engine", "role")
		if i.Engine != "" && i.Engine != "pki" && i.CommonName != "" {
			d.wrong(n, "remove it", "common_name is for engine: pki")
		}
		if i.Engine != "" && i.Engine != "ssh" && len(i.Principals) > 0 {
			d.wrong(n, "remove them", "principals are for engine: ssh")
		}
		*to = i
	}
}

// issued checks a target whose credential is made for it.
func (d *decoder) issued(t *Target) {
	c := t.Credential
	if c == nil || c.Issue == nil {
		return
	}
	i := c.Issue
	say := func(help, message string, args ...any) { d.problem(i.Pos, Error, help, message, args...) }
	switch i.Engine {
	case "database":
		if t.Protocol == ProtocolSSH {
			say("use engine: ssh", "target %q speaks SSH, which engine database makes nothing for", t.Name)
		}
		if c.User != "" || c.Password != nil {
			say("remove user and password", "the credential of target %q is issued and has a user or password too", t.Name)
		}
		if c.Database == "" {
			say("add database: to credential", "nothing says which database target %q has: a user that is made is not its name", t.Name)
		}
	case "ssh":
		if t.Protocol != ProtocolSSH {
			say("use engine: database or pki", "target %q does not speak SSH", t.Name)
		}
		if c.Key != nil || c.Certificate != nil || c.Agent != "" || c.Password != nil {
			say("remove key, certificate, agent and password", "the credential of target %q is issued and has another proof too", t.Name)
		}
	case "pki":
		if t.Protocol == ProtocolSSH || t.TLS.Verify == "off" {
			say("use TLS, or another engine", "target %q has no TLS to show a certificate by", t.Name)
		}
		if t.TLS.ClientCert != "" {
			say("remove client_cert and client_key", "target %q has a client certificate of its own", t.Name)
		}
	}
}

// sourceNames checks that secrets come from sources that are there.
func (d *decoder) sourceNames(c *Config) {
	known := map[string]*Source{}
	seen := map[string]Pos{}
	for _, name := range builtInSources {
		known[name] = nil
	}
	for i := range c.Secrets.Sources {
		s := &c.Secrets.Sources[i]
		d.once(seen, "source", s.Name, s.Pos)
		known[s.Name] = s
	}
	all := make([]string, 0, len(known))
	for name := range known {
		all = append(all, name)
	}
	slices.Sort(all)
	for _, r := range c.SecretRefs() {
		if _, ok := known[r.Source]; !ok && r.Source != "" {
			d.problem(r.Pos, Error, orElse(nearest(r.Source, all), "add it to secrets.sources"), "source %q is not known; known are: %s", clip(r.Source), strings.Join(all, ", "))
		}
	}
	for i := range c.Targets {
		cred := c.Targets[i].Credential
		if cred == nil || cred.Issue == nil || cred.Issue.Source == "" {
			continue
		}
		s, ok := known[cred.Issue.Source]
		if !ok {
			d.problem(cred.Issue.Pos, Error, orElse(nearest(cred.Issue.Source, all), "add it to secrets.sources"), "source %q is not known; known are: %s", clip(cred.Issue.Source), strings.Join(all, ", "))
		} else if s == nil || s.Vault == nil {
			d.problem(cred.Issue.Pos, Error, "use one with vault:", "source %q issues no credentials", cred.Issue.Source)
		}
	}
}

// SecretRefs are all secrets that the file names.
func (c *Config) SecretRefs() (out []*SecretRef) {
	for i := range c.Targets {
		out = append(out, c.Targets[i].SecretRefs()...)
	}
	for i := range c.Identity.Issuers {
		if r := c.Identity.Issuers[i].ClientSecret; r != nil {
			out = append(out, r)
		}
	}
	return out
}

// SecretRefs are the secrets that a target's login takes.
func (t *Target) SecretRefs() (out []*SecretRef) {
	refs := []*SecretRef{t.TLS.ClientKey}
	if c := t.Credential; c != nil {
		refs = append(refs, c.Password, c.Key, c.Passphrase)
		if c.Certificate != nil {
			refs = append(refs, c.Certificate.CA)
		}
	}
	for _, r := range refs {
		if r != nil {
			out = append(out, r)
		}
	}
	return out
}

// isVaultAddress is an URL, or the socket of an agent.
func isVaultAddress(s string) (string, string) {
	if strings.HasPrefix(s, "/") {
		return isPath(s)
	}
	return isSecureURL(s)
}

func isVariable(s string) (string, string) {
	if strings.ContainsAny(s, "= \t\n") {
		return "is not a variable", "write its name; the daemon's value is what it gets"
	}
	return "", ""
}
