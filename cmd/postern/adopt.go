package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern/postern/internal/config"
)

// dropInName is the file that adopts a unit, below UNIT.d; its first line is how
// it is known as ours. Of all drop-ins the last by name has its way, whatever
// directory it is in, and systemctl edit writes override.conf.
const (
	dropInName   = "zz-postern.conf"
	dropInBefore = "50-postern.conf" // its name in earlier versions
	adoptedFirst = "# Adopted by `postern adopt` for agent "
)

// unitPath is where systemd looks for units, the first wins (systemd.unit(5)).
var unitPath = []string{"etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"}

// adoption is what adopt and release were asked for.
type adoption struct {
	agent, root, daemonUser string
	dryRun                  bool
}

// adopted is what they print with --json.
type adopted struct {
	Unit    string `json:"unit"`
	Agent   string `json:"agent,omitempty"`
	Slice   string `json:"slice,omitempty"`
	File    string `json:"file"`
	Text    string `json:"text,omitempty"`
	Restart string `json:"restart"`
}

func (c *cli) adoptCommand() *cobra.Command {
	var a adoption
	cmd := &cobra.Command{
		Use: "adopt UNIT --agent NAME", Short: "Make a service of systemd an agent", Args: cobra.ExactArgs(1),
		Long: "Writes a drop-in that puts the service into the agent's slice, starts it only while the kernel programs\n" +
			"are attached, has it trust the host's authority, and closes what the programs do not see. It takes effect\n" +
			"when the service is restarted. A service that runs as root, or as posternd does, is refused.",
		Example: "  sudo postern adopt worker.service --agent planner",
		RunE:    func(cmd *cobra.Command, args []string) error { return c.adopt(cmd.Context(), args[0], a) },
	}
	cmd.Flags().StringVar(&a.agent, "agent", "", "`NAME` of the agent, as the configuration has it")
	a.flags(cmd)
	cmd.MarkFlagRequired("agent") //nolint:errcheck // the flag exists
	return cmd
}

func (c *cli) releaseCommand() *cobra.Command {
	var a adoption
	cmd := &cobra.Command{
		Use: "release UNIT", Short: "Undo adopt", Args: cobra.ExactArgs(1),
		Long: "Removes the drop-in. From its next start on the service is no agent: its connections go where it dials.",
		RunE: func(cmd *cobra.Command, args []string) error { return c.release(cmd.Context(), args[0], a) },
	}
	a.flags(cmd)
	return cmd
}

func (a *adoption) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.root, "root", "/", "`DIR` of the system, for an image that is not running")
	cmd.Flags().BoolVar(&a.dryRun, "dry-run", false, "print it, change nothing")
	cmd.Flags().StringVar(&a.daemonUser, "daemon-user", "postern", "`USER` of posternd")
	cmd.Flags().MarkHidden("daemon-user") //nolint:errcheck // the flag exists
}

func (c *cli) adopt(ctx context.Context, name string, a adoption) error {
	cfg, problems := config.Load(c.config)
	if cfg == nil {
		return fmt.Errorf("%s (`postern check` lists all)", problems[0])
	}
	at := slices.IndexFunc(cfg.Agents, func(b config.Agent) bool { return b.Name == a.agent })
	if at < 0 {
		return fmt.Errorf("%s has no agent %q", c.config, a.agent)
	}
	slice, err := sliceOf(cfg.Agents[at].Cgroup)
	if err != nil {
		return fmt.Errorf("agent %s: %w", a.agent, err)
	}
	name, err = serviceName(name)
	if err != nil {
		return err
	}
	u, err := readUnit(a.root, name)
	if err != nil {
		return err
	}
	if err := u.adoptable(a); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	done := adopted{Unit: name, Agent: a.agent, Slice: slice, File: filepath.Join(a.root, unitPath[0], name+".d", dropInName), Text: dropIn(a.agent, slice, cfg.StateDir), Restart: "systemctl restart " + name}
	if a.dryRun {
		return c.showAdopted(&done, "# "+done.File+"\n"+done.Text)
	}
	if err := a.mayWrite(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(done.File), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(done.File+".new", []byte(done.Text), 0o644); err != nil {
		return err
	}
	if err := os.Rename(done.File+".new", done.File); err != nil {
		return err
	}
	before := filepath.Join(filepath.Dir(done.File), dropInBefore)
	if adoptedBy(before) != "" {
		os.Remove(before) //nolint:errcheck // it says the same
	}
	if err := a.reload(ctx); err != nil {
		return err
	}
	if err := a.holds(ctx, name, slice); err != nil {
		return errors.Join(fmt.Errorf("%s: %w; it is not adopted", name, err), os.Remove(done.File), a.reload(ctx))
	}
	return c.showAdopted(&done, fmt.Sprintf("wrote %s\n%s is agent %s from its next start on: %s\n", done.File, name, a.agent, done.Restart))
}

func (c *cli) release(ctx context.Context, name string, a adoption) error {
	name, err := serviceName(name)
	if err != nil {
		return err
	}
	done := adopted{Unit: name, File: filepath.Join(a.root, unitPath[0], name+".d", dropInName), Restart: "systemctl restart " + name}
	if before := filepath.Join(filepath.Dir(done.File), dropInBefore); adoptedBy(done.File) == "" && adoptedBy(before) != "" {
		done.File = before
	}
	done.Agent = adoptedBy(done.File)
	if done.Agent == "" {
		return fmt.Errorf("%s is not adopted: there is no %s of postern adopt", name, done.File)
	}
	if a.dryRun {
		return c.showAdopted(&done, "would remove "+done.File+"\n")
	}
	if err := a.mayWrite(); err != nil {
		return err
	}
	if err := os.Remove(done.File); err != nil {
		return err
	}
	os.Remove(filepath.Dir(done.File)) //nolint:errcheck // others have drop-ins in it
	if err := a.reload(ctx); err != nil {
		return err
	}
	return c.showAdopted(&done, fmt.Sprintf("removed %s\n%s is no agent from its next start on: %s\n", done.File, name, done.Restart))
}

func (c *cli) showAdopted(done *adopted, text string) error {
	if c.json {
		return c.out.print(done)
	}
	_, err := fmt.Fprint(c.out, text)
	return err
}

func (a *adoption) mayWrite() error {
	if a.root == "/" && os.Geteuid() != 0 {
		return errors.New("this takes root: use sudo, or --dry-run")
	}
	return nil
}

// reload has systemd read the units again, where this is the system that runs.
func (a *adoption) reload(ctx context.Context) error {
	if a.root != "/" {
		return nil
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return nil //nolint:nilerr // no systemd runs that could be told
	}
	if _, err := exec.LookPath("systemctl"); err != nil {
		return fmt.Errorf("run systemctl daemon-reload: %w", err)
	}
	return systemctl(ctx, "daemon-reload")
}

// holds says whether systemd, where it runs, has understood a unit as it is meant:
// something else may have its way.
func (a *adoption) holds(ctx context.Context, name, slice string) error {
	if a.root != "/" {
		return nil
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return nil //nolint:nilerr // no systemd runs that could be asked
	}
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=Slice,User,DynamicUser", "--", name).Output()
	if err != nil {
		return fmt.Errorf("ask systemd what became of it: %w", err)
	}
	u := unit{}
	u.take("[Service]\n" + string(out))
	if u["Slice"] != slice {
		return fmt.Errorf("systemd puts it into %s and not into %s: another drop-in has Slice= (systemctl cat %s)", u["Slice"], slice, name)
	}
	return u.adoptable(*a)
}

func serviceName(name string) (string, error) {
	if !strings.Contains(filepath.Base(name), ".") {
		name += ".service"
	}
	switch {
	case strings.ContainsAny(name, "/\n") || strings.HasPrefix(name, "."):
		return "", fmt.Errorf("%q is no name of a unit", name)
	case !strings.HasSuffix(name, ".service"):
		return "", fmt.Errorf("%s is no service: only services can be adopted", name)
	case strings.HasPrefix(name, "postern"):
		return "", fmt.Errorf("%s is Postern's own", name)
	}
	return name, nil
}

// sliceOf is the slice that has this cgroup: systemd finds its place by its name.
func sliceOf(cgroup string) (string, error) {
	parent := ""
	for part := range strings.SplitSeq(cgroup, "/") {
		stem, ok := strings.CutSuffix(part, ".slice")
		if !ok || strings.Contains(stem, "--") || parent == "" && strings.Contains(stem, "-") ||
			parent != "" && (!strings.HasPrefix(stem, parent+"-") || strings.Contains(stem[len(parent)+1:], "-")) {
			return "", fmt.Errorf("its cgroup %s is no slice of systemd: write it as agents.slice/agents-NAME.slice, without - in NAME", cgroup)
		}
		parent = stem
	}
	return parent + ".slice", nil
}

// unit is what its files say, of each key the last.
type unit map[string]string

// readUnit reads a unit and its drop-ins, but ours.
func readUnit(root, name string) (unit, error) {
	u := unit{}
	template := name
	if before, after, ok := strings.Cut(name, "@"); ok {
		template = before + "@" + after[strings.LastIndexByte(after, '.'):]
	}
	found := false
	for _, dir := range unitPath {
		for _, n := range slices.Compact([]string{name, template}) {
			text, err := os.ReadFile(filepath.Join(root, dir, n))
			if err == nil && !found {
				found = true
				u.take(string(text))
			}
		}
	}
	if !found {
		return nil, fmt.Errorf("there is no unit %s below %s", name, root)
	}
	for _, f := range dropIns(root, slices.Compact([]string{template, name})) {
		if base := filepath.Base(f); base == dropInName || base == dropInBefore {
			u["adopted"] = adoptedBy(f)
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		u.take(string(text))
	}
	return u, nil
}

// dropIns are those of a unit in the order in which they count: by name, and of one
// name that of the first directory only.
func dropIns(root string, names []string) []string {
	last := map[string]string{}
	for _, dir := range slices.Backward(unitPath) {
		for _, n := range names {
			files, _ := filepath.Glob(filepath.Join(root, dir, n+".d", "*.conf"))
			for _, f := range files {
				last[filepath.Base(f)] = f
			}
		}
	}
	out := make([]string, 0, len(last))
	for _, base := range slices.Sorted(maps.Keys(last)) {
		out = append(out, last[base])
	}
	return out
}

func (u unit) take(text string) {
	section := ""
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = line
		}
		if key, value, ok := strings.Cut(line, "="); ok && section == "[Service]" && !strings.HasPrefix(line, "#") {
			u[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
}

// adoptable says why not. Root gets out of its cgroup, and who has the daemon's
// uid gets at its secrets.
func (u unit) adoptable(a adoption) error {
	dynamic := slices.Contains([]string{"yes", "true", "on", "1"}, strings.ToLower(u["DynamicUser"]))
	switch who := u["User"]; {
	case strings.ContainsAny(prefixOf(u["ExecStart"]), "+!"):
		return errors.New("its ExecStart begins with + or !, so that it runs as root all the same: write it without")
	case who == a.daemonUser:
		return fmt.Errorf("it runs as %s, the daemon's user: give it one of its own (User=)", who)
	case !dynamic && (who == "" || who == "root" || who == "0"):
		return errors.New("it runs as root, which no cgroup holds: give it a user (User= or DynamicUser=yes)")
	case u["adopted"] != "" && u["adopted"] != a.agent:
		return fmt.Errorf("agent %s has adopted it: postern release it first", u["adopted"])
	}
	return nil
}

// prefixOf is what stands before the path of a command (systemd.service(5)).
func prefixOf(command string) string {
	return command[:len(command)-len(strings.TrimLeft(command, "@-:+!|"))]
}

// adoptedBy is the agent that a drop-in of ours is for.
func adoptedBy(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(text), "\n")
	agent, ok := strings.CutPrefix(first, adoptedFirst)
	if !ok {
		return ""
	}
	return agent
}

// dropIn names the authority by the variables that runtimes know. It is the only
// one that a service needs which reaches nothing but the gateway.
func dropIn(agent, slice, state string) string {
	var trust strings.Builder
	for _, name := range []string{
		"PGSSLROOTCERT", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO",
		"CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE", "DENO_CERT", "NIX_SSL_CERT_FILE",
	} {
		fmt.Fprintf(&trust, "Environment=%s=/run/postern/root.pem\n", name)
	}
	return adoptedFirst + agent + `
# Undone by postern release. Placeholders go into the service's own settings.
[Unit]
Requires=postern-attach.service
After=postern-attach.service posternd.service

[Service]
Slice=` + slice + `
ExecStartPre=+/usr/sbin/postern-guard check
NoNewPrivileges=yes
CapabilityBoundingSet=~CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_SYS_MODULE CAP_NET_ADMIN CAP_NET_RAW CAP_BPF CAP_PERFMON
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
ProtectControlGroups=yes
# The host's authority, where Postern's sockets are for others.
BindReadOnlyPaths=` + filepath.Join(state, "trust") + `:/run/postern
InaccessiblePaths=-/run/docker.sock -/run/podman -/run/containerd -/run/user
` + trust.String()
}
