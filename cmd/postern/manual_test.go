package main

import (
	"bytes"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write packaging/man and packaging/completions anew")

const packaging = "../../packaging"

// TestManual makes the manual pages and completions, and compares them with those
// that are checked in; with -update it writes them.
func TestManual(t *testing.T) {
	made := map[string]string{
		"man/postern.1":            commandPage(),
		"man/posternd.8":           daemonPage(t, "posternd", "Postern's daemon", daemonText),
		"man/postern-guard.8":      daemonPage(t, "postern-guard", "Postern's root helper", guardText),
		"man/postern.yaml.5":       documentPage(t, "postern.yaml", "5", "Postern's configuration", "configuration.md"),
		"man/postern-policy.7":     documentPage(t, "postern-policy", "7", "Postern's policies", "policy.md"),
		"completions/postern.bash": completion(t, func(c *cobra.Command, w io.Writer) error { return c.GenBashCompletionV2(w, true) }),
		"completions/_postern":     completion(t, func(c *cobra.Command, w io.Writer) error { return c.GenZshCompletion(w) }),
		"completions/postern.fish": completion(t, func(c *cobra.Command, w io.Writer) error { return c.GenFishCompletion(w, true) }),
	}
	for name, text := range made {
		path := filepath.Join(packaging, name)
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if on, err := os.ReadFile(path); err != nil || string(on) != text {
			t.Errorf("%s is not what the sources say: run `make generate`", path)
		}
	}
	for _, folder := range []string{"man", "completions"} {
		entries, err := os.ReadDir(filepath.Join(packaging, folder))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if made[folder+"/"+e.Name()] == "" {
				t.Errorf("nothing makes packaging/%s/%s any more: remove it", folder, e.Name())
			}
		}
	}
}

// groff has nothing to say against the pages, and no line of them is wider than
// the terminal.
func TestManualRenders(t *testing.T) {
	pages, err := filepath.Glob(packaging + "/man/*")
	if err != nil || len(pages) < 5 {
		t.Fatal(pages, err)
	}
	for _, page := range pages {
		cmd := exec.Command("groff", "-ww", "-K", "utf8", "-T", "utf8", "-man", "-rLL=78n", "-P-c", page)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil || said.Len() > 0 {
			t.Errorf("%s: %v\n%s", page, err, said.String())
		}
		if len(out) < 500 || strings.Contains(string(out), "`Test") || strings.Contains(string(out), "](") {
			t.Errorf("%s:\n%s", page, out)
		}
	}
}

func completion(t *testing.T, generate func(*cobra.Command, io.Writer) error) string {
	var out bytes.Buffer
	if err := generate(root(os.Stdout), &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func documentPage(t *testing.T, name, section, what, document string) string {
	text, err := os.ReadFile("../../docs/" + document)
	if err != nil {
		t.Fatal(err)
	}
	var r roff
	r.title(name, section, what)
	r.section("Name")
	r.line(escaped(name) + ` \- ` + what)
	r.section("Description")
	r.markdown(string(text))
	r.seeAlso()
	return r.String()
}

func (r *roff) seeAlso() {
	r.section("See also")
	r.line(".BR postern (1),\n.BR postern.yaml (5),\n.BR postern\\-policy (7),\n.BR posternd (8),\n.BR postern\\-guard (8)")
}

// commandPage is one page for all commands: they are looked for by what they do.
func commandPage() string {
	var r roff
	r.title("postern", "1", "Postern's command line")
	r.section("Name")
	r.line(`postern \- run AI agents with placeholders, and see what they do`)
	r.section("Synopsis")
	r.line(".B postern\n.I COMMAND\n.RI [ ARGUMENT …]")
	r.section("Description")
	cmd := wholeRoot()
	r.paragraph(cmd.Long)
	r.paragraph("All but `run`, `check`, `policy explain`, `policy test --fixtures` and `placeholder new` take root, outside of every policy cgroup.")
	r.section("Options of all commands")
	r.flags(cmd.PersistentFlags())
	r.section("Commands")
	everyCommand(cmd, func(cmd *cobra.Command) {
		if cmd.Runnable() && cmd.Name() != "help" && cmd.HasParent() {
			r.command(cmd)
		}
	})
	r.section("Exit status")
	r.paragraph("0 when all went well, 1 on an error or when what was looked for is not as it should be; `run` passes on its command's.")
	r.section("Files")
	r.item(`\fI/etc/postern/postern.yaml\fR`, "the configuration")
	r.item(`\fI/run/postern/control.sock\fR`, "where the daemon answers")
	r.section("Environment")
	r.item(`\fBNO_COLOR\fR`, "when set, nothing is in colour")
	r.seeAlso()
	return r.String()
}

func (r *roff) command(cmd *cobra.Command) {
	r.line(`.SS "` + strings.ReplaceAll(escaped(cmd.Parent().CommandPath()+" "+cmd.Use), `"`, `\(dq`) + `"`)
	text := cmd.Long
	if text == "" || strings.HasPrefix(cmd.CommandPath(), "postern completion ") {
		text = cmd.Short + "."
	}
	for part := range strings.SplitSeq(text, "\n\n") {
		if strings.HasPrefix(part, " ") {
			r.block(part)
			continue
		}
		r.paragraph(strings.ReplaceAll(part, "\n", " "))
	}
	r.flags(cmd.LocalNonPersistentFlags())
	if cmd.Example != "" {
		r.block(strings.ReplaceAll(strings.TrimPrefix(cmd.Example, "  "), "\n  ", "\n"))
	}
}

func (r *roff) flags(set *pflag.FlagSet) {
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, text := pflag.UnquoteUsage(f)
		word := `\fB` + escaped("--"+f.Name) + `\fR`
		if f.Shorthand != "" {
			word = `\fB` + escaped("-"+f.Shorthand) + `\fR, ` + word
		}
		if value != "" {
			word += ` \fI` + escaped(value) + `\fR`
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" && f.DefValue != "0s" {
			text += " (default " + f.DefValue + ")"
		}
		r.item(word, inline(text))
	})
}

func daemonPage(t *testing.T, name, what, text string) string {
	var r roff
	r.title(name, "8", what)
	r.section("Name")
	r.line(escaped(name) + ` \- ` + what)
	r.section("Synopsis")
	r.block(usageOf(t, name))
	r.markdown(text)
	r.seeAlso()
	return r.String()
}

const daemonText = `
## Description

Agents' connections are redirected to it. It runs as the user postern with CAP_BPF at most, holds the secrets, and decides, masks and
records every request. It takes a guard that serves, and does not start on a configuration that has problems: ` + "`posternd --check`" + ` says which.

When it ends, sessions are given time to drain; new connections wait for another daemon as long as the guard lets them, then are refused.
Nothing gets past it while it is away.

## Signals

| signal | what it does |
|---|---|
| ` + "`SIGHUP`" + ` | reads the configuration again; with problems the old one stays in force |
| ` + "`SIGTERM`, `SIGINT`" + ` | ends it: sessions drain, recordings are closed |

## Files

| file | what is in it |
|---|---|
| ` + "`/etc/postern/postern.yaml`" + ` | the configuration |
| ` + "`/etc/postern/identity.txt`" + ` | the age identity that opens files of secrets; mode 0600 |
| ` + "`/var/lib/postern`" + ` | recordings, the host's certificate authority, the key of pseudonyms |
| ` + "`/run/postern/control.sock`" + ` | where the command line asks |
`

const guardText = `
## Description

It attaches the kernel programs that hold the policy root closed, keeps the agents' listeners over a restart of the daemon, and launches
runs. It is root, parses nothing from the network and holds no secret. The programs hold whether or not it runs: what is attached stays
until ` + "`postern-guard detach`" + `.

With ` + "`reload`" + ` the one that serves becomes the program that lies where its own did: it executes that, in the same process, with the
options that it was started with, and its runs, listeners and published ports go on. The new program is asked first whether it would serve;
where it would not, or the configuration has problems, the guard stays what it is, and the exit status is 1.

## Signals

| signal | what it does |
|---|---|
| ` + "`SIGTERM`, `SIGINT`" + ` | ends it and its runs |
| ` + "`SIGKILL`" + ` | ends it; its runs go on and stay held, but who waits for one hears an error |

## Exit status

0 when all went well, 1 on an error, and for ` + "`check`" + ` when the policy root is not closed.

## Files

| file | what is in it |
|---|---|
| ` + "`/etc/postern/postern.yaml`" + ` | the configuration |
| ` + "`/sys/fs/bpf/postern`" + ` | the programs, links and maps in the kernel |
| ` + "`/run/postern/guard.sock`" + ` | where the daemon and ` + "`postern run`" + ` ask |
`
