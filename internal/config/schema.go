package config

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

func (d *decoder) config(n *yaml.Node) *Config {
	c := &Config{
		File: d.file, Root: DefaultRoot, StateDir: DefaultStateDir,
		Control:  Socket{DefaultControlSocket},
		Guard:    Socket{DefaultGuardSocket},
		Metrics:  Metrics{DefaultMetricsListen},
		Record:   Record{DefaultDurability, DefaultSessionBytes, DefaultTotalBytes, DefaultResults, DefaultInput},
		Secrets:  Secrets{File: FileSource{DefaultSecretIdentity}},
		SQLParse: SQLParse{DefaultSQLParsePath, DefaultSQLWorkers},
		Limits: Limits{
			DefaultSessions, DefaultAgentSessions, DefaultMessageBytes, DefaultHeldBytes,
			DefaultHandshake, DefaultIdle,
		},
		Log: Log{DefaultLogLevel, DefaultLogFormat},
	}
	d.mapping(n, "the file", map[string]reader{
		"root":      d.str(&c.Root, "root", isCgroup),
		"state_dir": d.str(&c.StateDir, "state_dir", isPath),
		"control":   d.socket(&c.Control, "control"),
		"guard":     d.socket(&c.Guard, "guard"),
		"metrics":   d.metrics(&c.Metrics),
		"record":    d.record(&c.Record),
		"secrets":   d.secrets(&c.Secrets),
		"identity":  d.identity(&c.Identity),
		"sqlparse":  d.sqlparse(&c.SQLParse),
		"trust":     d.trust(&c.Trust),
		"limits":    d.limits(&c.Limits),
		"log":       d.log(&c.Log),
		"detectors": func(n *yaml.Node) {
			d.list(n, "detectors", func(e *yaml.Node) { c.Detectors = append(c.Detectors, d.detector(e)) })
		},
		"agents": func(n *yaml.Node) {
			d.list(n, "agents", func(e *yaml.Node) { c.Agents = append(c.Agents, d.agent(e)) })
		},
		"targets": func(n *yaml.Node) {
			d.list(n, "targets", func(e *yaml.Node) { c.Targets = append(c.Targets, d.target(e)) })
		},
		"policies": func(n *yaml.Node) {
			d.list(n, "policies", func(e *yaml.Node) { c.Policies = append(c.Policies, d.policy(e)) })
		},
	})
	return c
}

func (d *decoder) agent(n *yaml.Node) Agent {
	a := Agent{Pos: d.pos(n), Mode: "enforce", Tier: "redirected", Identity: AgentIdentity{OnExpiry: DefaultOnExpiry}}
	var until string
	var untilNode *yaml.Node
	d.mapping(n, "an agent", map[string]reader{
		"name":     d.str(&a.Name, "name", isName),
		"cgroup":   d.str(&a.Cgroup, "cgroup", isCgroup),
		"policy":   d.str(&a.Policy, "policy", isName),
		"policies": d.rolePolicies(&a.Policies),
		"identity": d.agentIdentity(&a.Identity),
		"mode":     d.word(&a.Mode, "mode", "enforce", "observe"),
		"until": func(n *yaml.Node) {
			untilNode = n
			until, _ = d.scalar(n, "until", "a time such as 2026-03-31T18:00:00Z", "!!timestamp", "!!str")
		},
		"run_by": func(n *yaml.Node) {
			d.mapping(n, "run_by", map[string]reader{
				"users":  d.strs(&a.RunBy.Users, "users", isPerson),
				"groups": d.strs(&a.RunBy.Groups, "groups", isPerson),
			})
		},
		"unix": func(n *yaml.Node) {
			a.Unix = []string{}
			if emptyList(n) {
				return // none, which is not the same as any
			}
			d.strs(&a.Unix, "unix", isPath)(n)
		},
		"loopback": d.ports(&a.Loopback, "loopback"),
		"tier":     d.word(&a.Tier, "tier", "redirected", "workspace", "strict"),
		"user":     d.str(&a.User, "user", isAgentUser),
		"publish":  d.ports(&a.Publish, "publish"),
		"mounts": func(n *yaml.Node) {
			d.list(n, "mounts", func(e *yaml.Node) {
				m := Mount{Mode: "ro"}
				d.mapping(e, "a mount", map[string]reader{
					"path": d.str(&m.Path, "path", isMountPath),
					"mode": d.word(&m.Mode, "mode", "ro", "rw"),
				}, "path")
				a.Mounts = append(a.Mounts, m)
			})
		},
	}, "name", "cgroup", "policy")
	d.observe(&a, untilNode, until)
	return a
}

// ports reads a list of ports.
func (d *decoder) ports(to *[]int, what string) reader {
	return func(n *yaml.Node) {
		d.list(n, what, func(e *yaml.Node) {
			var port int
			if d.number(&port, "a port", 1, 65535)(e); port != 0 {
				*to = append(*to, port)
			}
		})
	}
}

// observe checks mode observe and its end, which is what makes it an exception
// that ends by itself.
func (d *decoder) observe(a *Agent, n *yaml.Node, until string) {
	switch {
	case a.Mode != "observe" && n != nil:
		d.wrong(n, "remove it, or write mode: observe", "until is for mode observe")
	case a.Mode == "observe" && n == nil:
		d.problem(a.Pos, Error, "add until: with a time such as 2026-03-31T18:00:00Z", "mode observe has no end")
	case a.Mode == "observe" && until != "":
		t, err := time.Parse(time.RFC3339, until)
		if err != nil {
			d.wrong(n, "write it as 2026-03-31T18:00:00Z", "until %q is not a time", clip(until))
			return
		}
		a.Until = t
		if !d.now.Before(t) {
			d.problem(d.pos(n), Warning, "remove mode and until, or set a new end", "mode observe of agent %q has ended: it is enforced", a.Name)
		}
	}
}

func (d *decoder) target(n *yaml.Node) Target {
	t := Target{Pos: d.pos(n), TLS: TLS{Verify: "full"}}
	var tls *yaml.Node
	d.mapping(n, "a target", map[string]reader{
		"name":     d.str(&t.Name, "name", isName),
		"protocol": d.str(&t.Protocol, "protocol", isWord),
		"hosts": func(n *yaml.Node) {
			d.list(n, "hosts", func(e *yaml.Node) {
				var h HostPort
				if d.hostPort(&h, "host", listedHost)(e); !h.IsZero() {
					t.Hosts = append(t.Hosts, h)
				}
			})
			if emptyList(n) {
				d.wrong(n, "add host:port", "hosts is empty")
			}
		},
		"dial":           d.hostPort(&t.Dial, "dial", hostName),
		"real_addresses": d.boolean(&t.RealAddresses, "real_addresses"),
		"tls":            func(n *yaml.Node) { tls = n; d.tls(&t.TLS)(n) },
		"ssh":            d.ssh(&t.SSH),
		"placeholder": func(n *yaml.Node) {
			d.mapping(n, "placeholder", map[string]reader{
				"user":     d.str(&t.Placeholder.User, "user", nil),
				"database": d.str(&t.Placeholder.Database, "database", nil),
				"password": d.str(&t.Placeholder.Password, "password", nil),
			})
		},
		"credential": func(n *yaml.Node) {
			t.Credential = &Credential{}
			d.mapping(n, "credential", map[string]reader{
				"user":     d.str(&t.Credential.User, "user", nil),
				"database": d.str(&t.Credential.Database, "database", nil),
				"password": d.secretRef(&t.Credential.Password, "password"),
				"issue":    d.issue(&t.Credential.Issue),

				"key":         d.secretRef(&t.Credential.Key, "key"),
				"passphrase":  d.secretRef(&t.Credential.Passphrase, "passphrase"),
				"certificate": d.certificate(&t.Credential.Certificate),
				"agent":       d.str(&t.Credential.Agent, "agent", isPath),
			})
		},
		"agent_auth": d.word(&t.AgentAuth, "agent_auth", "scram-sha-256", "md5", "password", "any"),
		"anonymous":  func(n *yaml.Node) { var s string; d.word(&s, "anonymous", "allow")(n); t.Anonymous = s == "allow" },
	}, "name", "protocol", "hosts")
	if t.AgentAuth == "" {
		t.AgentAuth = pick(t.Protocol == ProtocolSSH, DefaultSSHAgentAuth, DefaultAgentAuth)
	}
	d.sshTarget(&t, tls)
	d.authentication(&t)
	d.issued(&t)
	d.realAddresses(&t)
	return t
}

// realAddresses warns of the one combination in which an agent chooses what is
// asked outside.
func (d *decoder) realAddresses(t *Target) {
	i := slices.IndexFunc(t.Hosts, HostPort.Wildcard)
	if t.RealAddresses && i >= 0 {
		d.problem(t.Pos, Warning, "leave real_addresses out, or list the names",
			"target %q has real_addresses and the wildcard %s: names are looked up outside as the agent asks for them, and can carry data there", t.Name, t.Hosts[i].Host)
	}
}

// authentication sees to it that a target with a credential has a placeholder
// and that one without says so.
func (d *decoder) authentication(t *Target) {
	switch c := t.Credential; {
	case c == nil && !t.Anonymous:
		d.problem(t.Pos, Error, "add credential:, or anonymous: allow where the target asks for none", "target %q has no credential", t.Name)
	case c != nil && t.Anonymous:
		d.problem(t.Pos, Error, "remove one of them", "target %q has a credential and is anonymous", t.Name)
	case c != nil && t.Protocol == ProtocolSSH && !c.proves():
		d.problem(t.Pos, Error, "add key, certificate, agent or password", "the credential of target %q proves nothing", t.Name)
	case c != nil && t.Protocol == ProtocolSSH && c.User == "":
		d.problem(t.Pos, Error, "add user", "the credential of target %q has no user", t.Name)
	case c != nil && t.Protocol == ProtocolSSH:
	case c != nil && c.Password == nil && c.Issue == nil && t.TLS.ClientCert == "":
		d.problem(t.Pos, Error, "add password: {source: …} or tls: {client_cert: …}", "the credential of target %q proves nothing", t.Name)
	case c != nil && t.Placeholder.Password == "":
		d.problem(t.Pos, Error, "add placeholder: {password: …}; postern placeholder new makes one", "target %q has a credential and no placeholder", t.Name)
	}
}

func (d *decoder) hostPort(to *HostPort, what string, names func(string) (name, message, help string)) reader {
	return func(n *yaml.Node) {
		var s string
		d.str(&s, what, func(s string) (string, string) { _, message, help := parseHostPort(s, names); return message, help })(n)
		if s != "" {
			*to, _, _ = parseHostPort(s, names)
		}
	}
}

func (d *decoder) tls(t *TLS) reader {
	return func(n *yaml.Node) {
		d.mapping(n, "tls", map[string]reader{
			"verify":      d.word(&t.Verify, "verify", "full", "ca", "none", "off"),
			"ca":          d.str(&t.CA, "ca", isPath),
			"server_name": d.str(&t.ServerName, "server_name", isServerName),
			"client_cert": d.str(&t.ClientCert, "client_cert", isPath),
			"client_key":  d.secretRef(&t.ClientKey, "client_key"),
		})
		if name, message, _ := hostName(t.ServerName); message == "" {
			t.ServerName = name
		}
		switch {
		case (t.ClientCert == "") != (t.ClientKey == nil):
			d.wrong(n, "write both", "client_cert and client_key belong together")
		case t.Verify == "off" && (t.CA != "" || t.ServerName != "" || t.ClientCert != ""):
			d.wrong(n, "remove the other keys, or verify: off", "tls has settings and is off")
		case t.Verify == "none":
			d.problem(d.pos(n), Warning, "use verify: full and name the CA", "verify: none accepts any server")
		}
	}
}

func (d *decoder) secretRef(to **SecretRef, what string) reader {
	return func(n *yaml.Node) {
		if n.Kind == yaml.ScalarNode {
			d.wrong(n, "write {source: …, path: …, key: …}; secrets do not belong in this file", "%s must say where the secret is", what)
			*to = &SecretRef{} // it is there, wrong as it is
			return
		}
		r := &SecretRef{Pos: d.pos(n)}
		d.mapping(n, what, map[string]reader{
			"source": d.str(&r.Source, "source", isWord),
			"path":   d.str(&r.Path, "path", nil),
			"key":    d.str(&r.Key, "key", nil),
		}, "source")
		*to = r
	}
}

func (d *decoder) policy(n *yaml.Node) Policy {
	p := Policy{Pos: d.pos(n)}
	d.mapping(n, "a policy", map[string]reader{
		"name":  d.str(&p.Name, "name", isName),
		"rules": func(n *yaml.Node) { d.list(n, "rules", func(e *yaml.Node) { p.Rules = append(p.Rules, d.rule(e)) }) },
		"masks": func(n *yaml.Node) { d.list(n, "masks", func(e *yaml.Node) { p.Masks = append(p.Masks, d.mask(e)) }) },
		"budgets": func(n *yaml.Node) {
			d.list(n, "budgets", func(e *yaml.Node) { p.Budgets = append(p.Budgets, d.budget(e)) })
		},
	}, "name")
	return p
}

func (d *decoder) rule(n *yaml.Node) Rule {
	r := Rule{Pos: d.pos(n)}
	actions := 0
	action := func(read reader) reader { return func(n *yaml.Node) { actions++; read(n) } }
	d.mapping(n, "a rule", map[string]reader{
		"name":    d.str(&r.Name, "name", isName),
		"target":  d.str(&r.Target, "target", isTarget),
		"roles":   d.strs(&r.Roles, "roles", isName),
		"verbs":   d.strs(&r.Verbs, "verbs", isVerb),
		"tables":  d.strs(&r.Tables, "tables", isTable),
		"objects": d.strs(&r.Objects, "objects", nil),
		"columns": d.strs(&r.Columns, "columns", isColumn),
		"when":    func(n *yaml.Node) { r.WhenPos = d.pos(n); d.str(&r.When, "when", nil)(n) },
		"help":    d.str(&r.Help, "help", nil),
		"deny":    action(d.str(&r.Deny, "deny", nil)),
		"ask":     action(func(n *yaml.Node) { r.Ask = d.ask(n) }),
		"allow": action(func(n *yaml.Node) {
			s, ok := d.scalar(n, "allow", "true", "!!bool")
			if r.Allow = s == "true"; ok && !r.Allow {
				d.wrong(n, `write deny: "the reason"`, "allow must be true")
			}
		}),
	}, "name", "target", "verbs")
	if actions != 1 {
		d.problem(r.Pos, Error, `write one of allow: true, deny: "the reason", ask: {approvers: […]}`,
			"rule %q has %d of allow, deny and ask", r.Name, actions)
	}
	return r
}

// maxWithin bounds how long a request is held for a person.
const maxWithin = 24 * time.Hour

func (d *decoder) ask(n *yaml.Node) *Ask {
	a := &Ask{Within: DefaultWithin}
	readers := d.askKeys(a)
	readers["preview"] = d.word(&a.Preview, "preview", "rows")
	d.mapping(n, "ask", readers, "approvers")
	return a
}

func (d *decoder) askKeys(a *Ask) map[string]reader {
	return map[string]reader{
		"approvers": d.strs(&a.Approvers, "approvers", isPerson),
		"within":    d.duration(&a.Within, "within", time.Second, maxWithin),
		"reason":    d.flag(&a.ReasonRequired, "reason", "required", "optional"),
		"self":      d.flag(&a.SelfAllowed, "self", "allow", "deny"),
	}
}

const (
	minPer = time.Minute
	maxPer = 31 * 24 * time.Hour
	// maxAmount bounds the amounts of a budget, so that sums of them are numbers.
	maxAmount = 1 << 40
)

func (d *decoder) budget(n *yaml.Node) Budget {
	b := Budget{Pos: d.pos(n), Target: "*"}
	d.mapping(n, "a budget", map[string]reader{
		"name":       d.str(&b.Name, "name", isName),
		"target":     d.str(&b.Target, "target", isTarget),
		"per":        d.duration(&b.Per, "per", minPer, maxPer),
		"statements": d.number(&b.Statements, "statements", 1, maxAmount),
		"rows":       d.number(&b.Rows, "rows", 1, maxAmount),
		"bytes":      d.size(&b.Bytes, "bytes", 1, 1<<50),
		"writes":     d.number(&b.Writes, "writes", 1, maxAmount),
		"ask":        func(n *yaml.Node) { b.Ask = d.budgetAsk(n) },
	}, "name", "per")
	if b.Statements == 0 && b.Rows == 0 && b.Bytes == 0 && b.Writes == 0 {
		d.problem(b.Pos, Error, "add statements:, rows:, bytes: or writes:", "budget %q limits nothing", b.Name)
	}
	return b
}

func (d *decoder) budgetAsk(n *yaml.Node) *BudgetAsk {
	b := &BudgetAsk{Ask: Ask{Within: DefaultWithin}}
	readers := d.askKeys(&b.Ask)
	readers["at"] = d.percent(&b.At, "at")
	d.mapping(n, "ask", readers, "at", "approvers")
	return b
}

// percent reads a share, which is neither nothing nor all.
func (d *decoder) percent(to *int, what string) reader {
	return func(n *yaml.Node) {
		s, ok := d.text(n, what)
		if !ok {
			return
		}
		share, sign := strings.CutSuffix(s, "%")
		v, err := strconv.Atoi(share)
		if !sign || err != nil || v < 1 || v > 99 {
			d.wrong(n, "write it as 80%, from 1% to 99%", "%s %q is not a share", what, clip(s))
			return
		}
		*to = v
	}
}

func (d *decoder) mask(n *yaml.Node) Mask {
	m := Mask{Pos: d.pos(n)}
	d.mapping(n, "a mask", map[string]reader{
		"target":   d.str(&m.Target, "target", isTarget),
		"columns":  d.strs(&m.Columns, "columns", isColumn),
		"detect":   d.strs(&m.Detect, "detect", isWord),
		"with":     d.word(&m.With, "with", "redact", "partial", "null", "hash", "pseudonym"),
		"domain":   d.str(&m.Domain, "domain", isName),
		"computed": d.word(&m.Computed, "computed", "redact", "detect"),
	}, "target", "with")
	if m.Domain != "" && m.With != "hash" && m.With != "pseudonym" {
		d.problem(m.Pos, Error, "remove domain:, or mask with hash or pseudonym", "domain: says which hashes and pseudonyms are equal")
	}
	if len(m.Columns) == 0 && len(m.Detect) == 0 {
		d.problem(m.Pos, Error, "add columns: or detect:", "the mask hides nothing")
	}
	if m.Computed == "detect" && len(m.Columns) == 0 {
		d.problem(m.Pos, Error, "add columns:, or remove computed:", "computed: says what becomes of values that are computed from columns")
	}
	return m
}

// detected warns where computed values pass as they are, because nothing is
// detected in them.
func (d *decoder) detected(p *Policy) {
	for _, m := range p.Masks {
		if m.Computed == "detect" && !slices.ContainsFunc(p.Masks, func(o Mask) bool {
			return len(o.Detect) > 0 && (o.Target == "*" || o.Target == m.Target)
		}) {
			d.problem(m.Pos, Error, "add a mask with detect: for the same target", "computed: detect, and nothing is detected")
		}
	}
}

func (d *decoder) socket(s *Socket, what string) reader {
	return func(n *yaml.Node) {
		d.mapping(n, what, map[string]reader{"socket": d.str(&s.Socket, "socket", isPath)})
	}
}

func (d *decoder) metrics(m *Metrics) reader {
	return func(n *yaml.Node) {
		d.mapping(n, "metrics", map[string]reader{"listen": func(n *yaml.Node) {
			if n.Kind == yaml.ScalarNode && n.Value == "off" {
				m.Listen = "off"
				return
			}
			d.str(&m.Listen, "listen", isListen)(n)
		}})
	}
}

func (d *decoder) record(r *Record) reader {
	return func(n *yaml.Node) {
		d.mapping(n, "record", map[string]reader{
			"durability":        d.word(&r.Durability, "durability", "process", "host"),
			"max_session_bytes": d.size(&r.MaxSessionBytes, "max_session_bytes", 1<<20, 1<<50),
			"max_total_bytes":   d.size(&r.MaxTotalBytes, "max_total_bytes", 16<<20, 1<<50),
			"results":           d.word(&r.Results, "results", "full", "none"),
			"input":             d.word(&r.Input, "input", "full", "commands", "none"),
		})
		if r.MaxTotalBytes < r.MaxSessionBytes {
			d.wrong(n, "raise max_total_bytes", "max_total_bytes %s is less than max_session_bytes %s", r.MaxTotalBytes, r.MaxSessionBytes)
		}
	}
}

func (d *decoder) secrets(s *Secrets) reader {
	return func(n *yaml.Node) {
		d.mapping(n, "secrets", map[string]reader{
			"file": func(n *yaml.Node) {
				d.mapping(n, "file", map[string]reader{"identity": d.str(&s.File.Identity, "identity", isPath)})
			},
			"sources": d.sources(&s.Sources),
		})
	}
}

func (d *decoder) sqlparse(s *SQLParse) reader {
	return func(n *yaml.Node) {
		d.mapping(n, "sqlparse", map[string]reader{
			"path":    d.str(&s.Path, "path", isPath),
			"workers": d.number(&s.Workers, "workers", 1, 64),
		})
	}
}

func (d *decoder) trust(t *Trust) reader {
	return func(n *yaml.Node) {
		d.mapping(n, "trust", map[string]reader{"files": d.strs(&t.Files, "files", isPath)})
	}
}

func (d *decoder) limits(l *Limits) reader {
	return func(n *yaml.Node) {
		d.mapping(n, "limits", map[string]reader{
			"sessions":           d.number(&l.Sessions, "sessions", 1, 1<<20),
			"sessions_per_agent": d.number(&l.SessionsPerAgent, "sessions_per_agent", 1, 1<<20),
			"message_bytes":      d.size(&l.MessageBytes, "message_bytes", 64<<10, 1<<30),
			"held_bytes":         d.size(&l.HeldBytes, "held_bytes", 64<<10, 1<<30),
			"handshake":          d.duration(&l.Handshake, "handshake", time.Second, 5*time.Minute),
			"idle":               d.duration(&l.Idle, "idle", time.Minute, 30*24*time.Hour),
		})
	}
}

func (d *decoder) log(l *Log) reader {
	return func(n *yaml.Node) {
		d.mapping(n, "log", map[string]reader{
			"level":  d.word(&l.Level, "level", "debug", "info", "warn", "error"),
			"format": d.word(&l.Format, "format", "text", "json"),
		})
	}
}
