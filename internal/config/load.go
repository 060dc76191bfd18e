package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a file: a thousand rules are about 200 KiB.
const maxFile = 1 << 20

// Load reads and checks a file. The Config is nil when a Problem is an Error;
// Warnings come along with a Config. Problems are in the order of the file.
func Load(path string) (*Config, []Problem) {
	src, err := read(path)
	if err != nil {
		return nil, []Problem{{Pos: Pos{path, 1, 1}, Message: err.Error(), Help: "check the path and its permissions"}}
	}
	return Parse(path, src, time.Now())
}

// Legible is what can be read of a file, whatever problems there are in it: for
// finding a running daemon's sockets while its next configuration is being
// written, and for telling what else is wrong. Nothing is decided by it.
func Legible(path string) *Config {
	d := &decoder{file: path, now: time.Now()}
	src, err := read(path)
	if err == nil {
		if root := d.document(src); root != nil {
			return d.config(root)
		}
	}
	return d.config(&yaml.Node{Kind: yaml.MappingNode})
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// Parse is Load for a file that is in memory; name stands in its positions.
func Parse(name string, src []byte, now time.Time) (*Config, []Problem) {
	d := &decoder{file: name, now: now}
	root := d.document(src)
	if root == nil {
		return nil, sorted(d.problems)
	}
	c := d.config(root)
	d.references(c)
	broken := slices.ContainsFunc(d.problems, func(p Problem) bool { return p.Severity == Error })
	problems := sorted(d.problems)
	if broken {
		return nil, problems
	}
	return c, problems
}

// document returns the only document's root, or nil after reporting why not.
func (d *decoder) document(src []byte) *yaml.Node {
	start := Pos{d.file, 1, 1}
	switch {
	case len(src) > maxFile:
		d.problem(start, Error, "split off what does not belong here", "the file is larger than %d bytes", maxFile)
		return nil
	case !utf8.Valid(src):
		d.problem(invalidUTF8(d.file, src), Error, "save the file as UTF-8", "the file is not UTF-8")
		return nil
	case bytes.IndexByte(src, 0) >= 0:
		d.problem(start, Error, "save the file as plain text", "the file holds a NUL byte")
		return nil
	}
	in := yaml.NewDecoder(bytes.NewReader(src))
	var first, second yaml.Node
	switch err := in.Decode(&first); {
	case errors.Is(err, io.EOF), err == nil && (len(first.Content) == 0 || isNull(first.Content[0])):
		d.problem(start, Error, "start with agents, targets and policies", "the file is empty")
		return nil
	case err != nil:
		d.syntax(src, err)
		return nil
	}
	switch err := in.Decode(&second); {
	case err == nil:
		d.wrong(&second, "keep one", "the file holds more than one document")
	case !errors.Is(err, io.EOF):
		d.syntax(src, err)
	}
	return first.Content[0]
}

func invalidUTF8(file string, src []byte) Pos {
	line, col := 1, 1
	for len(src) > 0 {
		r, n := utf8.DecodeRune(src)
		if r == utf8.RuneError && n == 1 {
			break
		}
		col++
		if r == '\n' {
			line, col = line+1, 1
		}
		src = src[n:]
	}
	return Pos{file, line, col}
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// syntax reports what the YAML parser refuses. The parser tells the line only,
// and says nothing useful of tabs, the commonest mistake.
func (d *decoder) syntax(src []byte, err error) {
	for i, line := range bytes.Split(src, []byte("\n")) {
		if indent := len(line) - len(bytes.TrimLeft(line, " \t")); bytes.IndexByte(line[:indent], '\t') >= 0 {
			col := bytes.IndexByte(line, '\t') + 1
			d.problem(Pos{d.file, i + 1, col}, Error, "indent with spaces", "a tab in the indentation")
			return
		}
	}
	at, message := Pos{d.file, 1, 1}, err.Error()
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		message = m[2]
		if line, err := strconv.Atoi(m[1]); err == nil {
			at.Line = line
		}
	}
	d.problem(at, Error, "check the indentation and the quotes around here", "not YAML: %s", clip(message))
}

// references checks what one part of the file says of another.
func (d *decoder) references(c *Config) {
	targets, policies, agents := map[string]Pos{}, map[string]Pos{}, map[string]Pos{}
	for i := range c.Targets {
		d.once(targets, "target", c.Targets[i].Name, c.Targets[i].Pos)
	}
	for i := range c.Policies {
		d.once(policies, "policy", c.Policies[i].Name, c.Policies[i].Pos)
	}
	for i := range c.Agents {
		a := &c.Agents[i]
		d.once(agents, "agent", a.Name, a.Pos)
		if _, ok := policies[a.Policy]; !ok && a.Policy != "" {
			d.problem(a.Pos, Error, orElse(nearest(a.Policy, names(policies)), "add it to policies"),
				"agent %q has the policy %q, which is not in the file", a.Name, clip(a.Policy))
		}
		for _, r := range a.Policies {
			if _, ok := policies[r.Policy]; !ok && r.Policy != "" {
				d.problem(a.Pos, Error, orElse(nearest(r.Policy, names(policies)), "add it to policies"),
					"agent %q has the policy %q for role %q, which is not in the file", a.Name, clip(r.Policy), clip(r.Role))
			}
		}
	}
	known := func(at Pos, target string) {
		if _, ok := targets[target]; !ok && target != "*" && target != "" {
			d.problem(at, Error, orElse(nearest(target, names(targets)), "add it to targets"),
				"there is no target %q", clip(target))
		}
	}
	for i := range c.Policies {
		p := &c.Policies[i]
		d.detected(p)
		rules := map[string]Pos{}
		for j := range p.Rules {
			d.once(rules, "rule", p.Rules[j].Name, p.Rules[j].Pos)
			known(p.Rules[j].Pos, p.Rules[j].Target)
		}
		for j := range p.Masks {
			known(p.Masks[j].Pos, p.Masks[j].Target)
		}
		budgets := map[string]Pos{}
		for j := range p.Budgets {
			d.once(budgets, "budget", p.Budgets[j].Name, p.Budgets[j].Pos)
			known(p.Budgets[j].Pos, p.Budgets[j].Target)
		}
	}
	d.detectors(c)
	d.identities(c)
	d.sourceNames(c)
	d.cgroups(c)
	d.addresses(c)
}

func (d *decoder) once(seen map[string]Pos, what, name string, at Pos) {
	if name == "" {
		return
	}
	if first, ok := seen[name]; ok {
		d.problem(at, Error, "rename one of them", "%s %q is already on line %d", what, name, first.Line)
		return
	}
	seen[name] = at
}

// cgroups sees to it that a process is in the cgroup of one agent at most.
func (d *decoder) cgroups(c *Config) {
	for i := range c.Agents {
		a := &c.Agents[i]
		if a.Cgroup == "" {
			continue
		}
		if !inside(a.Cgroup, c.Root) {
			d.problem(a.Pos, Error, fmt.Sprintf("write it as %s/…, a path relative to the cgroup2 root", c.Root),
				"cgroup %q of agent %q is not inside the policy root %q", clip(a.Cgroup), a.Name, c.Root)
		}
		for j := range c.Agents[:i] {
			b := &c.Agents[j]
			if a.Cgroup == b.Cgroup || inside(a.Cgroup, b.Cgroup) || b.Cgroup != "" && inside(b.Cgroup, a.Cgroup) {
				d.problem(a.Pos, Error, "give each agent a cgroup of its own", "agents %q and %q share the cgroup %q", b.Name, a.Name, clip(a.Cgroup))
				break
			}
		}
	}
}

// addresses sees to it that an address is of one target only, and that a name
// has addresses of one kind.
func (d *decoder) addresses(c *Config) {
	owner, named := map[HostPort]string{}, map[string]*Target{}
	for i := range c.Targets {
		t := &c.Targets[i]
		for _, h := range t.Hosts {
			if other, ok := owner[h]; ok {
				d.problem(t.Pos, Error, "list it once", "host %s of target %q is already listed by target %q", h, t.Name, other)
				continue
			}
			owner[h] = t.Name
			if _, err := netip.ParseAddr(h.Host); err == nil {
				continue
			}
			if other := named[h.Host]; other != nil && other.RealAddresses != t.RealAddresses {
				d.problem(t.Pos, Error, "write real_addresses for both or for none", "targets %q and %q share the name %s and not real_addresses", other.Name, t.Name, h.Host)
			}
			named[h.Host] = t
		}
	}
}

func names(m map[string]Pos) []string {
	out := make([]string, 0, len(m))
	for n := range m {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
