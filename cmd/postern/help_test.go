package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// everyCommand calls f with each command that people see.
func everyCommand(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			everyCommand(sub, f)
		}
	}
}

// wholeRoot is the root with what cobra adds when it runs.
func wholeRoot() *cobra.Command {
	cmd := root(os.Stdout)
	cmd.InitDefaultHelpCmd()
	cmd.InitDefaultCompletionCmd()
	return cmd
}

// Every --help fits a terminal of 80 columns and 24 lines, with the prompt below
// it, and the root's has all commands.
func TestHelpFitsAScreen(t *testing.T) {
	seen := 0
	cmd := wholeRoot()
	everyCommand(cmd, func(cmd *cobra.Command) {
		if strings.HasPrefix(cmd.CommandPath(), "postern completion ") {
			return // cobra's own
		}
		seen++
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.HelpFunc()(cmd, nil)
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) > 23 {
			t.Errorf("%s --help has %d lines:\n%s", cmd.CommandPath(), len(lines), out.String())
		}
		for _, l := range lines {
			if n := len([]rune(l)); n > helpWidth {
				t.Errorf("%s --help: %d columns: %s", cmd.CommandPath(), n, l)
			}
		}
	})
	if seen < 25 {
		t.Errorf("only %d commands were seen", seen)
	}
	for _, sub := range cmd.Commands() {
		named := strings.FieldsFunc(rootHelp, func(r rune) bool { return strings.ContainsRune(" ,\n", r) })
		if sub.IsAvailableCommand() && !strings.Contains(" "+strings.Join(named, " ")+" ", " "+sub.Name()+" ") {
			t.Errorf("postern --help lacks %s", sub.Name())
		}
	}
}

// The daemon's and the guard's are texts of their own.
func TestHelpOfDaemonsFits(t *testing.T) {
	for _, program := range []string{"posternd", "postern-guard"} {
		for i, l := range strings.Split(usageOf(t, program), "\n") {
			if n := len([]rune(l)); n > helpWidth || i >= 23 {
				t.Errorf("%s --help, line %d: %d columns: %s", program, i+1, n, l)
			}
		}
	}
}

func usageOf(t *testing.T, program string) string {
	t.Helper()
	cmd := exec.Command("go", "run", "../"+program, "--help")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(program, err)
	}
	return string(out)
}
