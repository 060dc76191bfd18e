package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// helpWidth is that of the smallest terminal that help is made for: 80 columns,
// 24 lines.
const helpWidth = 80

// rootHelp has every command; with one line for each it would not fit a screen.
const rootHelp = `Run AI agents with placeholders instead of credentials, and see what they do.

Usage: postern COMMAND [ARGUMENT…]

  scan                    find credentials that agents hold today
  setup, enforce          write a first configuration; end mode observe
  run                     launch an agent inside its policy cgroup
  login, logout, whoami   who you are, at your identity provider
  adopt, release          make a service of systemd an agent; undo it
  status, top             how everything is; what agents do now, live
  doctor, verify          what is missing here; try every way around the gateway
  approvals               what waits for a person: approve, deny
  budgets                 what is left of agents' budgets
  sessions, replay, audit what was recorded; again; whether it was altered
  policy                  explain, test and learn policies
  check, reload           what is wrong with a configuration; put it in force
  secrets, secret         what secrets there are; fetch them anew, try them
  placeholder             make a placeholder
  break-glass             let agents past the gateway, in an emergency
  completion, help        for shells; of one command

      --config FILE       the daemon's configuration
      --json, --version   machine-readable output; the version
`

// help is what --help prints of a command.
func help(cmd *cobra.Command) string {
	if !cmd.HasParent() {
		return rootHelp
	}
	var out strings.Builder
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	out.WriteString(filled(text, helpWidth))
	usage := cmd.Parent().CommandPath() + " " + cmd.Use
	if cmd.HasSubCommands() {
		usage += " COMMAND"
	}
	out.WriteString("\n" + hanging("Usage: ", usage, helpWidth))
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			out.WriteString(hanging(fmt.Sprintf("  %-12s ", sub.Name()), sub.Short, helpWidth))
		}
	}
	if cmd.HasAvailableLocalFlags() {
		out.WriteString("\n" + cmd.LocalFlags().FlagUsagesWrapped(helpWidth))
	}
	if cmd.Example != "" {
		out.WriteString("\n" + cmd.Example + "\n")
	}
	return out.String()
}

// filled breaks the lines of paragraphs at a width. What is indented stays as it
// is.
func filled(text string, width int) string {
	var out strings.Builder
	paragraph := ""
	end := func() {
		if paragraph != "" {
			out.WriteString(hanging("", paragraph, width))
		}
		paragraph = ""
	}
	for line := range strings.SplitSeq(text, "\n") {
		switch {
		case line == "" || strings.HasPrefix(line, " "):
			end()
			out.WriteString(line + "\n")
		default:
			paragraph += " " + line
		}
	}
	end()
	return out.String()
}

// hanging puts a word before a text, and breaks it so that the rest stands below
// its beginning.
func hanging(before, text string, width int) string {
	var out strings.Builder
	indent := len([]rune(before))
	line := before
	empty := true
	for word := range strings.FieldsSeq(text) {
		if !empty && len([]rune(line))+1+len([]rune(word)) > width {
			out.WriteString(line + "\n")
			line, empty = strings.Repeat(" ", indent), true
		}
		if !empty {
			line += " "
		}
		line += word
		empty = false
	}
	return out.String() + line + "\n"
}
