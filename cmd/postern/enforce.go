package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/postern/postern/pkg/control"
)

func (c *cli) enforceCommand() *cobra.Command {
	return &cobra.Command{
		Use: "enforce [AGENT]", Short: "End mode observe, for one agent or all", Args: cobra.MaximumNArgs(1),
		Long: "Takes mode and until of the agent out of the configuration, which otherwise stays\n" +
			"as it is written, and reloads it. A backup is kept. What the policy would deny\n" +
			"by then: postern policy test.",
		RunE: func(cmd *cobra.Command, args []string) error { return c.enforce(cmd.Context(), strings.Join(args, "")) },
	}
}

func (c *cli) enforce(ctx context.Context, agent string) error {
	text, err := os.ReadFile(c.config)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: use sudo", err)
	}
	if err != nil {
		return err
	}
	enforced, who, err := withoutObserve(text, agent)
	if err != nil {
		return fmt.Errorf("%s: %w", c.config, err)
	}
	if len(who) > 0 {
		info, err := os.Stat(c.config)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if err := c.takes(ctx, enforced); err != nil {
			return err
		}
		if err := (placed{c.config, enforced, info.Mode().Perm(), owner{int(st.Uid), int(st.Gid)}}).write(); err != nil {
			return err
		}
		if _, err := c.daemon().Reload(ctx); err != nil && !errors.Is(err, control.ErrNotRunning) {
			return err
		}
	}
	if c.json {
		return c.out.print(map[string][]string{"enforced": append([]string{}, who...)})
	}
	if len(who) == 0 {
		_, err := fmt.Fprintln(c.out, "no agent is in mode observe")
		return err
	}
	_, err = fmt.Fprintln(c.out, "enforced from now on:", strings.Join(who, ", "))
	return err
}

// takes says why the daemon would not take a configuration. It is written beside
// the one in force, for what is named in it is found from there.
func (c *cli) takes(ctx context.Context, text []byte) error {
	candidate := c.config + ".candidate"
	defer os.Remove(candidate)
	if err := os.WriteFile(candidate, text, 0o600); err != nil {
		return err
	}
	if out, err := c.daemonCheck(ctx, candidate); err != nil {
		return fmt.Errorf("nothing was changed, for the daemon would not take it (%w):\n%s", err, strings.TrimSpace(strings.ReplaceAll(string(out), candidate, c.config)))
	}
	return nil
}

// withoutObserve cuts out the lines of mode and until, so that comments and all
// else stay. Where they are not on lines of their own it says so.
func withoutObserve(text []byte, only string) (out []byte, who []string, err error) {
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, nil, err
	}
	lines := strings.SplitAfter(string(text), "\n")
	drop := map[int]bool{}
	found := only == ""
	agents := valueOf(&root, "agents")
	if agents == nil {
		agents = &yaml.Node{}
	}
	for _, a := range agents.Content {
		name := ""
		if n := valueOf(a, "name"); n != nil {
			name = n.Value
		}
		if only != "" && name != only {
			continue
		}
		found = true
		if mode := valueOf(a, "mode"); mode == nil || mode.Value != "observe" {
			continue
		}
		for i := 0; i+1 < len(a.Content); i += 2 {
			key, value := a.Content[i], a.Content[i+1]
			if key.Value != "mode" && key.Value != "until" {
				continue
			}
			alone := strings.HasPrefix(strings.TrimSpace(lines[key.Line-1]), key.Value) && value.Line == key.Line
			if a.Style&yaml.FlowStyle != 0 || !alone {
				return nil, nil, fmt.Errorf("line %d: %s of agent %s is not on a line of its own: remove mode and until by hand, then postern reload", key.Line, key.Value, name)
			}
			drop[key.Line-1] = true
		}
		who = append(who, name)
	}
	if !found {
		return nil, nil, fmt.Errorf("there is no agent %q", only)
	}
	i := -1
	lines = slices.DeleteFunc(lines, func(string) bool { i++; return drop[i] })
	return []byte(strings.Join(lines, "")), who, nil
}

// valueOf is that of a key of a map, or of a document's.
func valueOf(n *yaml.Node, key string) *yaml.Node {
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}
