// Package config reads postern.yaml. It is strict: an unknown key, a value of
// the wrong type, a reference to nothing, or a key written twice is a problem,
// and all problems of a file are reported at once, each with its place and what
// to do about it.
//
// The package imports nothing of ours and does nothing with what it has read:
// verbs, facts and conditions are checked by policy, the words of detectors by
// mask, names of protocols by cmd/posternd. Start with Load, then Config;
// schema.go has one function per struct, in the order of the file.
package config

import (
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"
)

// The defaults of what a file leaves out.
const (
	DefaultFile           = "/etc/postern/postern.yaml"
	DefaultRoot           = "agents.slice"              // the policy root, relative to the cgroup2 root
	DefaultStateDir       = "/var/lib/postern"          // recordings, index, host CA
	DefaultControlSocket  = "/run/postern/control.sock" // for the CLI
	DefaultGuardSocket    = "/run/postern/guard.sock"   // between the daemon and postern-guard
	DefaultMetricsListen  = "127.0.0.1:9187"            // Prometheus scrapes it on the host only
	DefaultSQLParsePath   = "/usr/libexec/postern/postern-sqlparse"
	DefaultSQLWorkers     = 2                // one statement takes 50 µs and most come from the cache
	DefaultWithin         = 10 * time.Minute // how long a request waits for a person
	DefaultDurability     = "process"        // a record survives the daemon's death; "host": the machine's
	DefaultSessionBytes   = Size(256 << 20)  // one session's recording
	DefaultTotalBytes     = Size(10 << 30)   // all recordings
	DefaultResults        = "full"           // results are on record as the agent saw them
	DefaultInput          = "commands"       // what commands read is on record, what is typed is not
	DefaultAgentAuth      = "scram-sha-256"  // how agents prove their placeholder
	DefaultSSHAgentAuth   = "any"            // the same for SSH: the kernel says who it is
	DefaultSessions       = 4096             // open sessions, all agents
	DefaultAgentSessions  = 512              // open sessions of one agent
	DefaultMessageBytes   = Size(16 << 20)   // one message held in memory
	DefaultHeldBytes      = Size(1 << 20)    // what a client may send while it waits for a person
	DefaultHandshake      = 15 * time.Second // a client's greeting; an upstream's dial and login
	DefaultIdle           = 8 * time.Hour    // a session on which nothing happens
	DefaultLogLevel       = "info"
	DefaultLogFormat      = "text"
	DefaultSecretIdentity = "/etc/postern/identity.txt" // the age identity that opens the secrets file
	DefaultOnExpiry       = "end"                       // no new sessions for an identity that has expired
)

// Config is a file that has no errors, with every default filled in.
type Config struct {
	File     string   `yaml:"-"`
	Root     string   `yaml:"root"` // the policy root cgroup, relative to the cgroup2 root
	StateDir string   `yaml:"state_dir"`
	Control  Socket   `yaml:"control"`
	Guard    Socket   `yaml:"guard"`
	Metrics  Metrics  `yaml:"metrics"`
	Record   Record   `yaml:"record"`
	Secrets  Secrets  `yaml:"secrets"`
	Identity Identity `yaml:"identity,omitempty"`
	SQLParse SQLParse `yaml:"sqlparse"`
	Trust    Trust    `yaml:"trust"`
	Limits   Limits   `yaml:"limits"`
	Log      Log      `yaml:"log"`
	Agents   []Agent  `yaml:"agents,omitempty"`
	Targets  []Target `yaml:"targets,omitempty"`
	Policies []Policy `yaml:"policies,omitempty"`

	Detectors []Detector `yaml:"detectors,omitempty"` // beside those that are built in
}

// Pos is a place in a file.
type Pos struct {
	File      string
	Line, Col int // from 1
}

func (p Pos) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col) }

// Agent is a program whose connections are decided.
type Agent struct {
	Pos    Pos    `yaml:"-"`
	Name   string `yaml:"name"`
	Cgroup string `yaml:"cgroup"` // relative to the cgroup2 root, inside Config.Root
	Policy string `yaml:"policy"`
	// Policies are what those have instead whose identity has a role; the first counts.
	Policies []RolePolicy  `yaml:"policies,omitempty"`
	Identity AgentIdentity `yaml:"identity"`
	Mode     string        `yaml:"mode"`            // "enforce" or "observe"
	Until    time.Time     `yaml:"until,omitempty"` // the end of mode observe
	RunBy    RunBy         `yaml:"run_by,omitempty"`
	Tier     string        `yaml:"tier"`               // the least of its runs: "redirected", "workspace", "strict"
	User     string        `yaml:"user,omitempty"`     // who runs of the tier strict run as
	Mounts   []Mount       `yaml:"mounts,omitempty"`   // what runs in a sandbox see besides the system
	Publish  []int         `yaml:"publish,omitempty"`  // ports of runs that the host may reach
	Unix     []string      `yaml:"unix,omitempty"`     // the Unix sockets that it may reach; nil: any
	Loopback []int         `yaml:"loopback,omitempty"` // ports on loopback that it may dial past the gateway
}

// Observing says whether the agent's verdicts are only shown, not enforced.
func (a *Agent) Observing(now time.Time) bool { return a.Mode == "observe" && now.Before(a.Until) }

// Mount is a directory or file of the host that runs in a sandbox see.
type Mount struct {
	Path string `yaml:"path"`
	Mode string `yaml:"mode"` // "ro" or "rw"
}

// RunBy says who may start runs of an agent.
type RunBy struct {
	Users  []string `yaml:"users,omitempty"`
	Groups []string `yaml:"groups,omitempty"`
}

// Target is an upstream that policies speak of.
type Target struct {
	Pos      Pos        `yaml:"-"`
	Name     string     `yaml:"name"`
	Protocol string     `yaml:"protocol"`
	Hosts    []HostPort `yaml:"hosts"`
	Dial     HostPort   `yaml:"dial,omitempty"` // where it is really reached; TLS still verifies the host's name
	// RealAddresses: agents are told the real addresses of the names, not virtual ones.
	RealAddresses bool        `yaml:"real_addresses,omitempty"`
	TLS           TLS         `yaml:"tls,omitempty"`
	SSH           SSH         `yaml:"ssh,omitempty"`
	Placeholder   Placeholder `yaml:"placeholder,omitempty"`
	Credential    *Credential `yaml:"credential,omitempty"` // nil only when Anonymous
	AgentAuth     string      `yaml:"agent_auth"`           // "scram-sha-256", "md5" or "password"; for SSH "any" or "password"
	Anonymous     bool        `yaml:"-"`                    // anonymous: allow
}

// MarshalYAML writes Anonymous in the word of the file.
func (t Target) MarshalYAML() (any, error) {
	type plain Target
	if t.Protocol == ProtocolSSH {
		t.TLS = TLS{}
	}
	word := ""
	if t.Anonymous {
		word = "allow"
	}
	return struct {
		plain `yaml:",inline"`
		Word  string `yaml:"anonymous,omitempty"`
	}{plain(t), word}, nil
}

// HostPort is an address as the agent dials it.
type HostPort struct {
	Host string // a DNS name in lower case and A-labels, "*." before one for those below it, or an IP address without brackets
	Port int
}

// String joins them, with brackets around an IPv6 address.
func (h HostPort) String() string { return joinHostPort(h.Host, h.Port) }

// IsZero reports whether there is no address in it.
func (h HostPort) IsZero() bool { return h == HostPort{} }

// MarshalYAML writes the form of String.
func (h HostPort) MarshalYAML() (any, error) { return h.String(), nil }

// TLS is how the upstream is reached. Verify "ca" checks the chain and not the
// name, "none" checks nothing, "off" speaks no TLS.
type TLS struct {
	Verify     string     `yaml:"verify"` // "full", "ca", "none", "off"
	CA         string     `yaml:"ca,omitempty"`
	ServerName string     `yaml:"server_name,omitempty"`
	ClientCert string     `yaml:"client_cert,omitempty"`
	ClientKey  *SecretRef `yaml:"client_key,omitempty"`
}

// Placeholder is what the agent holds.
type Placeholder struct {
	User     string `yaml:"user,omitempty"`
	Database string `yaml:"database,omitempty"`
	Password string `yaml:"password,omitempty"` // not a secret, yet never logged: it is a canary
}

// Credential is what the gateway logs in with.
type Credential struct {
	User     string     `yaml:"user,omitempty"`
	Database string     `yaml:"database,omitempty"`
	Password *SecretRef `yaml:"password,omitempty"`
	Issue    *Issue     `yaml:"issue,omitempty"` // it is made, in place of what is above

	// For SSH.
	Key         *SecretRef   `yaml:"key,omitempty"`
	Passphrase  *SecretRef   `yaml:"passphrase,omitempty"` // of Key
	Certificate *Certificate `yaml:"certificate,omitempty"`
	Agent       string       `yaml:"agent,omitempty"` // the socket of an ssh-agent
}

// SecretRef names a secret in a source.
type SecretRef struct {
	Pos    Pos    `yaml:"-"`
	Source string `yaml:"source"`
	Path   string `yaml:"path,omitempty"`
	Key    string `yaml:"key,omitempty"`
}

// Policy is the rules of one or more agents.
type Policy struct {
	Pos   Pos    `yaml:"-"`
	Name  string `yaml:"name"`
	Rules []Rule `yaml:"rules,omitempty"`
	Masks []Mask `yaml:"masks,omitempty"`

	Budgets []Budget `yaml:"budgets,omitempty"`
}

// Budget is what each agent of a policy may take within a window. Of its four
// amounts those that are zero are not limited.
type Budget struct {
	Pos        Pos           `yaml:"-"`
	Name       string        `yaml:"name"`
	Target     string        `yaml:"target"` // "*": all of them together
	Per        time.Duration `yaml:"per"`
	Statements int           `yaml:"statements,omitempty"`
	Rows       int           `yaml:"rows,omitempty"`
	Bytes      Size          `yaml:"bytes,omitempty"`
	Writes     int           `yaml:"writes,omitempty"`
	Ask        *BudgetAsk    `yaml:"ask,omitempty"`
}

// BudgetAsk is who decides requests when much of a budget is used.
type BudgetAsk struct {
	At  int // percent
	Ask Ask
}

// MarshalYAML writes the words of the file.
func (a BudgetAsk) MarshalYAML() (any, error) {
	return struct {
		At        string        `yaml:"at"`
		Approvers []string      `yaml:"approvers"`
		Within    time.Duration `yaml:"within"`
		Reason    string        `yaml:"reason"`
		Self      string        `yaml:"self"`
	}{
		fmt.Sprintf("%d%%", a.At), a.Ask.Approvers, a.Ask.Within,
		pick(a.Ask.ReasonRequired, "required", "optional"), pick(a.Ask.SelfAllowed, "allow", "deny"),
	}, nil
}

// Rule decides the effects that it matches. Exactly one of Allow, Deny and Ask
// is set.
type Rule struct {
	Pos     Pos      `yaml:"-"`
	WhenPos Pos      `yaml:"-"`
	Name    string   `yaml:"name"`
	Target  string   `yaml:"target"`          // "*": all
	Roles   []string `yaml:"roles,omitempty"` // of identities, any of which it takes
	Verbs   []string `yaml:"verbs"`
	Tables  []string `yaml:"tables,omitempty"`
	Objects []string `yaml:"objects,omitempty"` // patterns of objects that are no tables
	Columns []string `yaml:"columns,omitempty"`
	When    string   `yaml:"when,omitempty"`
	Allow   bool     `yaml:"allow,omitempty"`
	Deny    string   `yaml:"deny,omitempty"` // the reason
	Ask     *Ask     `yaml:"ask,omitempty"`
	Help    string   `yaml:"help,omitempty"` // what to do instead
}

// Ask is who decides a request that a rule does not.
type Ask struct {
	Approvers      []string      `yaml:"approvers"`
	Within         time.Duration `yaml:"within"`
	ReasonRequired bool          `yaml:"-"`                 // reason: required
	SelfAllowed    bool          `yaml:"-"`                 // self: allow; who runs the agent may approve its requests
	Preview        string        `yaml:"preview,omitempty"` // "rows": run first, and undone unless it is approved
}

// MarshalYAML writes the words of the file.
func (a Ask) MarshalYAML() (any, error) {
	type plain Ask
	return struct {
		plain  `yaml:",inline"`
		Reason string `yaml:"reason"`
		Self   string `yaml:"self"`
	}{plain(a), pick(a.ReasonRequired, "required", "optional"), pick(a.SelfAllowed, "allow", "deny")}, nil
}

// Mask hides values in answers: those of Columns, or what the detectors find.
type Mask struct {
	Pos     Pos      `yaml:"-"`
	Target  string   `yaml:"target"` // "*": all
	Columns []string `yaml:"columns,omitempty"`
	Detect  []string `yaml:"detect,omitempty"`
	With    string   `yaml:"with"` // "redact", "partial", "null", "hash", "pseudonym"
	Domain  string   `yaml:"domain,omitempty"`
	// What becomes of values that are computed from the columns: "detect" or "redact".
	Computed string `yaml:"computed,omitempty"`
}

// Socket is a Unix socket's path.
type Socket struct {
	Socket string `yaml:"socket"`
}

// Metrics is where Prometheus reads: an address, a Unix socket's path, or "off".
type Metrics struct {
	Listen string `yaml:"listen"`
}

// Record is what is kept of sessions.
type Record struct {
	Durability      string `yaml:"durability"` // "process" or "host"
	MaxSessionBytes Size   `yaml:"max_session_bytes"`
	MaxTotalBytes   Size   `yaml:"max_total_bytes"`
	Results         string `yaml:"results"` // "full" or "none"
	Input           string `yaml:"input"`   // "full", "commands" or "none"
}

// Secrets configures the sources of secrets.
type Secrets struct {
	File    FileSource `yaml:"file"`
	Sources []Source   `yaml:"sources,omitempty"`
}

// FileSource is the source "file": files encrypted with age.
type FileSource struct {
	Identity string `yaml:"identity"`
}

// SQLParse is the worker that has PostgreSQL's grammar.
type SQLParse struct {
	Path    string `yaml:"path"`
	Workers int    `yaml:"workers"`
}

// Trust is where the host CA's certificate goes besides the state directory.
type Trust struct {
	Files []string `yaml:"files,omitempty"`
}

// Limits bound what agents may take.
type Limits struct {
	Sessions         int           `yaml:"sessions"`
	SessionsPerAgent int           `yaml:"sessions_per_agent"`
	MessageBytes     Size          `yaml:"message_bytes"`
	HeldBytes        Size          `yaml:"held_bytes"`
	Handshake        time.Duration `yaml:"handshake"`
	Idle             time.Duration `yaml:"idle"`
}

// Log is how the daemon logs.
type Log struct {
	Level  string `yaml:"level"`  // "debug", "info", "warn", "error"
	Format string `yaml:"format"` // "text" or "json"
}

// Size is a number of bytes, written as 64MiB.
type Size int64

// String uses the largest unit that divides it.
func (s Size) String() string {
	for _, u := range units {
		if s != 0 && s%u.bytes == 0 {
			return fmt.Sprintf("%d%s", s/u.bytes, u.name)
		}
	}
	return "0B"
}

// MarshalYAML writes the form of String.
func (s Size) MarshalYAML() (any, error) { return s.String(), nil }

// Marshal writes a file that loads to c again, with every default spelled out.
func Marshal(c *Config) ([]byte, error) { return yaml.Marshal(c) }

func pick(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}
