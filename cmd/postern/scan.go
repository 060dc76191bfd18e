package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/postern/postern/internal/scan"
)

// scanned is what `postern scan --json` prints. It has no value of a credential.
type scanned struct {
	Findings []scan.Finding `json:"findings"`
	Unread   []string       `json:"unread"`
	Targets  []proposal     `json:"targets"`
}

// proposal is a target as the configuration has it.
type proposal struct {
	Name        string            `json:"name" yaml:"name"`
	Protocol    string            `json:"protocol" yaml:"protocol"`
	Hosts       []string          `json:"hosts" yaml:"hosts"`
	Placeholder map[string]string `json:"placeholder" yaml:"placeholder"`
	Credential  credential        `json:"credential" yaml:"credential"`
}

type credential struct {
	User     string            `json:"user" yaml:"user"`
	Database string            `json:"database,omitempty" yaml:"database,omitempty"`
	Password map[string]string `json:"password" yaml:"password"`
}

func (c *cli) scanCommand() *cobra.Command {
	var who, cgroup, home, proc string
	cmd := &cobra.Command{
		Use: "scan [--user USER | --cgroup PATH] [DIRECTORY…]", Short: "Find credentials that agents hold today; no value is shown",
		Long: "Looks into the environment of running processes, .env files, .pgpass, pg_service.conf, kubeconfig, SSH keys\n" +
			"and the files of aws, gh, docker, git and netrc. Says what is where, for whom and how long, and proposes\n" +
			"targets with placeholders for PostgreSQL. No value is printed or kept. Without --user it is who called sudo.",
		RunE: func(_ *cobra.Command, folders []string) error {
			name := cmp.Or(who, os.Getenv("SUDO_USER"))
			u, err := user.Current()
			if name != "" {
				u, err = user.Lookup(name)
			}
			if err != nil {
				return err
			}
			s := scan.New()
			if err := s.Environments(proc, func(uid uint32, in string) bool {
				if cgroup != "" {
					return strings.Contains(in+"/", "/"+strings.Trim(cgroup, "/")+"/") || strings.Contains(in, "/"+strings.Trim(cgroup, "/")+"\n")
				}
				return strconv.FormatUint(uint64(uid), 10) == u.Uid
			}); err != nil {
				return err
			}
			s.Home(cmp.Or(home, u.HomeDir), folders...)
			return c.showScan(s)
		},
	}
	cmd.Flags().StringVar(&who, "user", "", "`USER` whose processes and home are looked at")
	cmd.Flags().StringVar(&cgroup, "cgroup", "", "processes in this cgroup or below it instead")
	cmd.Flags().StringVar(&home, "home", "", "`DIR` in place of the user's home")
	cmd.Flags().StringVar(&proc, "proc", "/proc", "where procfs is")
	cmd.Flags().MarkHidden("proc") //nolint:errcheck // the flag exists
	return cmd
}

func (c *cli) showScan(s *scan.Scan) error {
	out := scanned{Findings: append([]scan.Finding{}, s.Findings...), Unread: append([]string{}, s.Unread...), Targets: proposals(s.Findings)}
	if c.json {
		return c.out.print(out)
	}
	rows := [][]string{{"KIND", "FOR", "BYTES", "WHERE"}}
	for _, f := range out.Findings {
		rows = append(rows, []string{f.Kind, safe(forWhom(f)), fmt.Sprint(f.Length), safe(f.Place)})
	}
	if len(rows) == 1 {
		fmt.Fprintln(c.out, "no credentials found")
	} else if err := c.out.table(rows); err != nil {
		return err
	}
	for _, u := range out.Unread {
		fmt.Fprintf(c.out, "not readable: %s\n", safe(u))
	}
	if len(out.Targets) == 0 {
		return nil
	}
	text, err := yaml.Marshal(map[string][]proposal{"targets": out.Targets})
	if err != nil {
		return errors.New("the proposal cannot be written")
	}
	_, err = fmt.Fprintf(c.out, "\n# Proposed. The passwords go into the files, encrypted; `postern setup` does one.\n%s", text)
	return err
}

func forWhom(f scan.Finding) string {
	out := f.Host
	if f.User != "" {
		out = f.User + "@" + out
	}
	if f.Database != "" {
		out += "/" + f.Database
	}
	return orDash(out)
}

// proposals are the targets of what was found for PostgreSQL, each host once.
func proposals(found []scan.Finding) []proposal {
	out := []proposal{}
	for _, f := range found {
		if f.Kind != "postgres" || f.Host == "" || f.User == "" || strings.Contains(f.Host+f.User, "*") {
			continue
		}
		hostPort := f.Host
		host, _, err := net.SplitHostPort(hostPort)
		if err != nil {
			host, hostPort = hostPort, net.JoinHostPort(hostPort, "5432")
		}
		if host == "localhost" || slices.ContainsFunc(out, func(p proposal) bool { return p.Hosts[0] == hostPort }) {
			continue // loopback is every agent's own
		}
		label := host
		if net.ParseIP(host) == nil {
			label, _, _ = strings.Cut(host, ".")
		}
		name := strings.Trim(notOfNames.ReplaceAllString(strings.ToLower(label), "-"), "-")
		for slices.ContainsFunc(out, func(p proposal) bool { return p.Name == name }) {
			name += "-2"
		}
		p := proposal{
			Name: name, Protocol: "postgres", Hosts: []string{hostPort},
			Placeholder: map[string]string{"user": f.User, "password": "placeholder-" + randomText(placeholderLength)},
			Credential:  credential{User: f.User, Password: map[string]string{"source": "file", "path": name + ".age"}},
		}
		if f.Database != "" && f.Database != "*" {
			p.Placeholder["database"], p.Credential.Database = f.Database, f.Database
		}
		out = append(out, p)
	}
	return out
}
