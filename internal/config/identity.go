package config

import (
	"net"
	"net/url"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Identity is who agents may run for, and how that is known.
type Identity struct {
	Issuers []Issuer `yaml:"issuers,omitempty"`
	Roles   []Role   `yaml:"roles,omitempty"`
}

const (
	// DefaultLeeway is how far the clocks of an issuer and of this host may be
	// apart.
	DefaultLeeway = 30 * time.Second
	maxLeeway     = 5 * time.Minute
	// DefaultKeysMaxAge is how long an issuer's keys are used while it does not
	// answer.
	DefaultKeysMaxAge = 24 * time.Hour
	maxKeysMaxAge     = 30 * 24 * time.Hour
)

// Issuer is an OpenID Connect provider whose tokens count.
type Issuer struct {
	Pos          Pos           `yaml:"-"`
	Name         string        `yaml:"name"`
	URL          string        `yaml:"url"` // exactly as in the claim iss
	ClientID     string        `yaml:"client_id,omitempty"`
	ClientSecret *SecretRef    `yaml:"client_secret,omitempty"` // nil: a public client
	Audiences    []string      `yaml:"audiences,omitempty"`     // of tokens; empty: ClientID
	Scopes       []string      `yaml:"scopes,omitempty"`
	Algorithms   []string      `yaml:"algorithms,omitempty"`
	CA           string        `yaml:"ca,omitempty"`
	Leeway       time.Duration `yaml:"leeway"`
	KeysMaxAge   time.Duration `yaml:"keys_max_age"`
	Claims       Claims        `yaml:"claims,omitempty"`
}

// Claims say what of a token is what of an identity, as CEL over claims. Empty
// ones are where providers usually have them.
type Claims struct {
	Subject string  `yaml:"subject,omitempty"`
	Name    string  `yaml:"name,omitempty"`
	Email   string  `yaml:"email,omitempty"`
	Owner   string  `yaml:"owner,omitempty"`
	Groups  string  `yaml:"groups,omitempty"`
	Extra   []Extra `yaml:"extra,omitempty"` // for identity.claims
}

// Extra is a claim that policies ask for.
type Extra struct {
	Name string `yaml:"name"`
	From string `yaml:"from"` // CEL
}

// Role is what groups, or single people, may be called.
type Role struct {
	Pos      Pos      `yaml:"-"`
	Name     string   `yaml:"name"`
	Issuer   string   `yaml:"issuer,omitempty"` // whose groups and subjects are meant; empty: any issuer's
	Groups   []string `yaml:"groups,omitempty"`
	Subjects []string `yaml:"subjects,omitempty"`
}

// AgentIdentity is what an agent must be told of on whose behalf it runs.
type AgentIdentity struct {
	Required  bool            `yaml:"required,omitempty"`
	Issuers   []string        `yaml:"issuers,omitempty"` // whose identities are taken; empty: all
	OnExpiry  string          `yaml:"on_expiry"`         // "end", "ask" or "keep"
	Ask       *Ask            `yaml:"ask,omitempty"`     // for "ask"
	Static    *StaticIdentity `yaml:"static,omitempty"`
	TokenFile string          `yaml:"token_file,omitempty"`
}

// StaticIdentity is for what runs in an agent's slice without postern run.
type StaticIdentity struct {
	Subject string   `yaml:"subject"`
	Name    string   `yaml:"name,omitempty"`
	Owner   string   `yaml:"owner,omitempty"`
	Groups  []string `yaml:"groups,omitempty"`
}

// RolePolicy is another policy of an agent's, for whoever has a role.
type RolePolicy struct {
	Role   string `yaml:"role"`
	Policy string `yaml:"policy"`
}

func (d *decoder) identity(i *Identity) reader {
	return func(n *yaml.Node) {
		d.mapping(n, "identity", map[string]reader{
			"issuers": func(n *yaml.Node) {
				d.list(n, "issuers", func(e *yaml.Node) { i.Issuers = append(i.Issuers, d.issuer(e)) })
			},
			"roles": func(n *yaml.Node) {
				d.list(n, "roles", func(e *yaml.Node) { i.Roles = append(i.Roles, d.role(e)) })
			},
		})
	}
}

func (d *decoder) issuer(n *yaml.Node) Issuer {
	i := Issuer{Pos: d.pos(n), Leeway: DefaultLeeway, KeysMaxAge: DefaultKeysMaxAge}
	d.mapping(n, "an issuer", map[string]reader{
		"name":          d.str(&i.Name, "name", isName),
		"url":           d.str(&i.URL, "url", isSecureURL),
		"client_id":     d.str(&i.ClientID, "client_id", nil),
		"client_secret": d.secretRef(&i.ClientSecret, "client_secret"),
		"audiences":     d.strs(&i.Audiences, "audiences", nil),
		"scopes":        d.strs(&i.Scopes, "scopes", nil),
		"algorithms":    d.strs(&i.Algorithms, "algorithms", isAlgorithm),
		"ca":            d.str(&i.CA, "ca", isPath),
		"leeway":        d.duration(&i.Leeway, "leeway", 0, maxLeeway),
		"keys_max_age":  d.duration(&i.KeysMaxAge, "keys_max_age", time.Minute, maxKeysMaxAge),
		"claims":        d.claims(&i.Claims),
	}, "name", "url")
	if i.ClientID == "" && len(i.Audiences) == 0 {
		d.problem(i.Pos, Error, "add client_id: for postern login, audiences: for tokens of workloads", "issuer %q has tokens for nobody", i.Name)
	}
	if i.Name == "static" {
		d.problem(i.Pos, Error, "rename it", "the issuer static is that of identities in this file")
	}
	return i
}

func (d *decoder) claims(c *Claims) reader {
	return func(n *yaml.Node) {
		d.mapping(n, "claims", map[string]reader{
			"subject": d.str(&c.Subject, "subject", nil),
			"name":    d.str(&c.Name, "name", nil),
			"email":   d.str(&c.Email, "email", nil),
			"owner":   d.str(&c.Owner, "owner", nil),
			"groups":  d.str(&c.Groups, "groups", nil),
			"extra": func(n *yaml.Node) {
				d.list(n, "extra", func(e *yaml.Node) {
					var x Extra
					d.mapping(e, "an extra claim", map[string]reader{
						"name": d.str(&x.Name, "name", isName),
						"from": d.str(&x.From, "from", nil),
					}, "name", "from")
					c.Extra = append(c.Extra, x)
				})
			},
		})
	}
}

func (d *decoder) role(n *yaml.Node) Role {
	r := Role{Pos: d.pos(n)}
	d.mapping(n, "a role", map[string]reader{
		"name":     d.str(&r.Name, "name", isName),
		"issuer":   d.str(&r.Issuer, "issuer", isName),
		"groups":   d.strs(&r.Groups, "groups", nil),
		"subjects": d.strs(&r.Subjects, "subjects", nil),
	}, "name")
	if len(r.Groups)+len(r.Subjects) == 0 {
		d.problem(r.Pos, Error, "add groups: or subjects:", "nobody has role %q", r.Name)
	}
	if len(r.Subjects) > 0 && r.Issuer == "" {
		d.problem(r.Pos, Error, "add issuer:", "role %q has subjects, which each issuer has of its own", r.Name)
	}
	return r
}

func (d *decoder) agentIdentity(i *AgentIdentity) reader {
	return func(n *yaml.Node) {
		d.mapping(n, "an agent's identity", map[string]reader{
			"required":  d.boolean(&i.Required, "required"),
			"issuers":   d.strs(&i.Issuers, "issuers", isName),
			"on_expiry": d.word(&i.OnExpiry, "on_expiry", "end", "ask", "keep"),
			"ask": func(n *yaml.Node) {
				i.Ask = &Ask{Within: DefaultWithin}
				d.mapping(n, "ask", d.askKeys(i.Ask), "approvers")
			},
			"static": func(n *yaml.Node) {
				i.Static = &StaticIdentity{}
				d.mapping(n, "static", map[string]reader{
					"subject": d.str(&i.Static.Subject, "subject", nil),
					"name":    d.str(&i.Static.Name, "name", nil),
					"owner":   d.str(&i.Static.Owner, "owner", nil),
					"groups":  d.strs(&i.Static.Groups, "groups", nil),
				}, "subject")
			},
			"token_file": d.str(&i.TokenFile, "token_file", isPath),
		})
		switch {
		case i.OnExpiry == "ask" && i.Ask == nil:
			d.wrong(n, "add ask: {approvers: […]}", "on_expiry: ask asks nobody")
		case i.OnExpiry != "ask" && i.Ask != nil:
			d.wrong(n, "write on_expiry: ask, or remove ask", "ask: is for on_expiry: ask")
		case i.Static != nil && i.TokenFile != "":
			d.wrong(n, "remove one of them", "an agent's identity is static and comes from token_file")
		}
	}
}

func (d *decoder) rolePolicies(to *[]RolePolicy) reader {
	return func(n *yaml.Node) {
		d.list(n, "policies", func(e *yaml.Node) {
			var r RolePolicy
			d.mapping(e, "a policy of a role", map[string]reader{
				"role":   d.str(&r.Role, "role", isName),
				"policy": d.str(&r.Policy, "policy", isName),
			}, "role", "policy")
			*to = append(*to, r)
		})
	}
}

// identities checks that issuers and roles which are named are there.
func (d *decoder) identities(c *Config) {
	issuers, roles, urls := map[string]Pos{}, map[string]Pos{}, map[string]Pos{}
	for i := range c.Identity.Issuers {
		d.once(issuers, "issuer", c.Identity.Issuers[i].Name, c.Identity.Issuers[i].Pos)
		d.once(urls, "the url of an issuer", c.Identity.Issuers[i].URL, c.Identity.Issuers[i].Pos)
	}
	issuers["static"] = Pos{} // of identities in this file
	known := func(at Pos, what string, among map[string]Pos, name string) {
		if _, ok := among[name]; !ok && name != "" {
			d.problem(at, Error, orElse(nearest(name, names(among)), "add it to identity."+what+"s"), "there is no %s %q", what, clip(name))
		}
	}
	for i := range c.Identity.Roles {
		d.once(roles, "role", c.Identity.Roles[i].Name, c.Identity.Roles[i].Pos)
		known(c.Identity.Roles[i].Pos, "issuer", issuers, c.Identity.Roles[i].Issuer)
	}
	for i := range c.Agents {
		a := &c.Agents[i]
		for _, name := range a.Identity.Issuers {
			known(a.Pos, "issuer", issuers, name)
		}
		if a.Identity.TokenFile != "" && len(c.Identity.Issuers) == 0 {
			d.problem(a.Pos, Error, "add identity: {issuers: […]}", "agent %q has a token_file, and no issuer's tokens count", a.Name)
		}
		for _, r := range a.Policies {
			known(a.Pos, "role", roles, r.Role)
		}
	}
	for i := range c.Policies {
		for j := range c.Policies[i].Rules {
			for _, name := range c.Policies[i].Rules[j].Roles {
				known(c.Policies[i].Rules[j].Pos, "role", roles, name)
			}
		}
	}
}

// algorithms are those of RFC 7518 and 8037 that sign with a key of one's own.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func isAlgorithm(s string) (string, string) {
	for _, a := range algorithms {
		if s == a {
			return "", ""
		}
	}
	return "is not an algorithm that signs tokens", "use one of " + strings.Join(algorithms, ", ")
}

// isSecureURL takes plain HTTP on loopback only, where nobody else listens in.
func isSecureURL(s string) (string, string) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "is not a URL", "write it as https://login.example.com, without a query"
	}
	if u.Scheme == "https" {
		return "", ""
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()) {
		return "", ""
	}
	return "is not secure", "begin it with https://"
}
