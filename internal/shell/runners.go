package shell

import (
	"slices"
	"strings"
)

var sudoSpec = spec{
	flags: "AbEHnPSNBk", args: "ugpCrtTUDR", assigns: true,
	longFlags: "askpass background preserve-env set-home non-interactive preserve-groups stdin bell no-update reset-timestamp login shell edit list validate remove-timestamp",
	longArgs:  "user group prompt close-from role type command-timeout other-user chdir chroot host",
}

// sudo runs its command directly; with -i or -s by a shell, from which it
// protects the words, so that they are the same ones.
func sudo(f *following) {
	s := sudoSpec
	s.flags += "iseKlvV"
	found, rest, ok := s.split(f.args())
	if !ok {
		f.unsure("an option of sudo is not known here")
	}
	for name := range found {
		if variable, is := strings.CutPrefix(name, "="); is {
			variable, _, _ = strings.Cut(variable, "=")
			f.w.assigned(variable)
		}
	}
	switch {
	case found.has("-R", "--chroot"):
		f.unsure("sudo runs it under another root")
	case found.has("-e", "--edit"):
		f.unsure("sudo -e starts an editor")
		return
	case found.has("-l", "-v", "-V", "-K", "--list", "--validate", "--remove-timestamp"):
		f.followed = ok
		return
	case len(rest) == 0 && found.has("-k", "--reset-timestamp"):
		f.followed = ok
		return
	case len(rest) == 0:
		f.unsure("sudo starts a shell")
		f.w.script.Stdin = f.w.script.Stdin || f.p.stdin == fromSession
		return
	}
	f.run(rest)
}

// substitute is su and runuser: options and a user in any order, and the command
// a text of -c.
func substitute(f *following) {
	s := spec{
		flags: "lmpfP", args: "cgGsuw",
		longFlags: "login preserve-environment fast pty", longArgs: "command session-command group supp-group shell user whitelist-environment",
	}
	found := options{}
	rest := f.args()
	var plain []Word
	for len(rest) > 0 {
		if rest[0].Known && rest[0].Text == "-" {
			rest = rest[1:]
			continue
		}
		more, after, ok := s.split(rest)
		for name, value := range more {
			found[name] = value
		}
		if !ok {
			f.unsure("an option of %s is not known here", f.c.Name)
			break
		}
		if len(after) == 0 {
			break
		}
		plain, rest = append(plain, after[0]), after[1:]
	}
	if found.has("-s", "--shell") {
		f.unsure("%s runs it by a shell of the caller's choice", f.c.Name)
	}
	ran := false
	for _, option := range []string{"-c", "--command", "--session-command"} {
		if text, is := found[option]; is {
			ran = true
			f.text(text, f.c.Name)
		}
	}
	switch {
	case ran && len(plain) <= 1:
	case f.c.Name == "runuser" && found.has("-u", "--user") && len(plain) > 0:
		_, after, _ := s.split(f.args())
		f.run(after)
	default:
		f.unsure("%s starts a shell", f.c.Name)
		f.w.script.Stdin = f.w.script.Stdin || f.p.stdin == fromSession
	}
}

func environment(f *following) {
	s := spec{
		flags: "i0v", args: "uCS", assigns: true, optional: true,
		longFlags: "ignore-environment null debug block-signal default-signal ignore-signal list-signal-handling",
		longArgs:  "unset chdir split-string",
	}
	args := f.args()
	for len(args) > 0 && args[0].Known && args[0].Text == "-" { // the same as -i
		args = args[1:]
	}
	found, _, _ := s.split(args)
	if found.has("-S", "--split-string") {
		f.unsure("env -S splits a text by rules of its own")
		return
	}
	f.c.Words = append([]Word{f.c.Words[0]}, args...)
	wrapper(s)(f)
}

// shells read what Parse reads; otherShells do not.
var (
	shells      = set("sh bash dash ash ksh ksh93 mksh lksh pdksh oksh loksh zsh rbash rksh rzsh posh yash hush")
	otherShells = set("fish csh tcsh rc es elvish nu xonsh pwsh git-shell rssh lshell scponly osh oil ion")
)

func shellProgram(f *following) {
	rest := f.args()
	command, input := false, false
	for len(rest) > 0 && rest[0].Known && len(rest[0].Text) > 1 && (rest[0].Text[0] == '-' || rest[0].Text[0] == '+') {
		option := rest[0].Text
		rest = rest[1:]
		switch {
		case option == "--":
			f.shellOperand(rest, command, input)
			return
		case option == "--rcfile" || option == "--init-file":
			f.unsure("%s %s runs a file of the host", f.c.Name, option)
			rest = rest[min(1, len(rest)):]
		case slices.Contains([]string{"--norc", "--noprofile", "--posix", "--restricted", "--verbose", "--noediting", "--login"}, option):
		case option == "--help" || option == "--version":
			f.followed = true
			return
		case strings.HasPrefix(option, "--") || strings.HasPrefix(option, "+-"):
			f.unsure("the option %s of %s is not known here", quote(option), f.c.Name)
		default:
			for _, letter := range option[1:] {
				switch letter {
				case 'c':
					command = command || option[0] == '-'
				case 's':
					input = true
				case 'A', 'T':
					// Of one shell it takes the next word, of another none.
					f.unsure("the option -%c of %s is not known here", letter, f.c.Name)
				case 'o', 'O':
					if letter == 'O' && f.c.Name != "bash" {
						f.unsure("the option -O of %s is not known here", f.c.Name)
						continue
					}
					if len(rest) > 0 && !rest[0].Single {
						f.unsure("options of %s depend on the host", f.c.Name)
					}
					rest = rest[min(1, len(rest)):]
				case 'i':
					f.unsure("an interactive %s runs files of the host", f.c.Name)
				}
			}
		}
	}
	if len(rest) > 0 && rest[0].Known && rest[0].Text == "-" {
		rest = rest[1:]
	}
	f.shellOperand(rest, command, input)
}

// shellOperand is what a shell runs once its options are read.
func (f *following) shellOperand(rest []Word, command, input bool) {
	switch {
	case command && len(rest) > 0 && (rest[0].Known || rest[0].Single):
		f.p.stdin = max(f.p.stdin, fromSession)
		f.text(rest[0], f.c.Name+" -c")
	case command:
		f.unsure("what %s runs depends on the host", f.c.Name)
	case len(rest) > 0 && !input:
		f.unsure("%s runs a file of the host", f.c.Name)
	case f.p.stdin == fromText:
		text := known(f.p.text)
		f.p.stdin = fromElsewhere
		f.text(text, f.c.Name)
	case f.p.stdin == fromSession:
		f.w.script.Stdin = true
		f.unsure("%s runs what it reads", f.c.Name)
	default:
		f.unsure("%s runs what it reads", f.c.Name)
	}
}

func otherShell(f *following) {
	f.unsure("%s is a shell that is not read here", f.c.Name)
	f.w.script.Stdin = f.w.script.Stdin || f.p.stdin == fromSession && readsStdin(f.c)
}

// locked is flock: a file, then a command, or a text after -c.
func locked(f *following) {
	s := spec{flags: "sxeunFov", args: "wE", longFlags: "shared exclusive unlock nonblock nb no-fork close verbose", longArgs: "timeout wait conflict-exit-code"}
	_, rest, ok := s.split(f.args())
	if !ok {
		f.unsure("an option of flock is not known here")
		return
	}
	if len(rest) < 2 {
		f.followed = true
		return
	}
	if !rest[0].Single {
		f.unsure("what flock runs depends on the host")
	}
	rest = rest[1:]
	switch {
	case rest[0].Known && (rest[0].Text == "-c" || rest[0].Text == "--command") && len(rest) > 1:
		f.text(rest[1], "flock")
	case !rest[0].Known || strings.HasPrefix(rest[0].Text, "-"):
		f.unsure("an option of flock is not known here")
	default:
		f.run(rest)
	}
}

func watched(f *following) {
	s := spec{flags: "bcCdegprtwx", args: "nqs", longFlags: "beep color no-color differences errexit chgexit precise no-title no-rerun no-wrap exec", longArgs: "interval equexit shotsdir"}
	found, rest, ok := s.split(f.args())
	if !ok {
		f.unsure("an option of watch is not known here")
	}
	if found.has("-x", "--exec") {
		f.run(rest)
	} else if len(rest) > 0 {
		f.text(joined(rest), "watch")
	}
}

// arguments is xargs: words that it reads are added, or put where -I says.
func arguments(f *following) {
	s := spec{
		flags: "0rtpxo", args: "adEILnPsJRS", attached: "eil",
		longFlags: "null no-run-if-empty verbose interactive exit open-tty show-limits eof max-lines replace", longArgs: "arg-file delimiter max-args max-procs max-chars process-slot-var",
	}
	given, rest, ok := s.split(f.args())
	if !ok {
		f.unsure("an option of xargs is not known here")
	}
	if len(rest) == 0 {
		rest = []Word{known("echo")}
	}
	rest = slices.Clone(rest)
	replace := ""
	for _, option := range []string{"-I", "-i", "-J", "--replace"} {
		if value, is := given[option]; is {
			replace = value.Text
			if replace == "" && (option == "-i" || option == "--replace") {
				replace = "{}"
			}
			if !value.Known || replace == "" {
				f.unsure("what xargs runs depends on the host")
			}
		}
	}
	if replace != "" {
		for i := range rest {
			if strings.Contains(rest[i].Text, replace) {
				rest[i].Known = false
			}
		}
	} else {
		rest = append(rest, Word{Text: "…"})
	}
	f.w.script.Dynamic = true
	f.p.stdin = fromElsewhere
	f.run(rest)
}

// found is find: every command between -exec and its end.
func found(f *following) {
	f.followed = true
	args := f.args()
	for i := 0; i < len(args); i++ {
		if !args[i].Known {
			if !args[i].Single {
				f.unsure("expressions of find depend on the host")
			}
			continue
		}
		switch args[i].Text {
		case "-exec", "-execdir", "-ok", "-okdir":
			end := i + 1
			for end < len(args) && !(args[end].Known && (args[end].Text == ";" || args[end].Text == "+" && args[end-1].Text == "{}")) {
				end++
			}
			words := slices.Clone(args[i+1 : end])
			for j := range words {
				if strings.Contains(words[j].Text, "{}") {
					words[j].Known = false
					f.w.script.Dynamic = true
				}
			}
			inner := *f
			inner.p.stdin = fromElsewhere
			inner.runVia(words, "find "+args[i].Text)
			f.pivot = f.pivot || inner.pivot
			i = end
		case "-fprint", "-fprint0", "-fls", "-fprintf":
			if i+1 < len(args) {
				f.w.script.add(Command{Name: Nothing, Pivot: PivotNo, Via: f.p.through("find").via, Redirects: []Redirect{{Path: args[i+1], Write: true}}})
			}
		}
		// A word that is not known could be -exec, and what stands here its command.
		if args[min(i, len(args)-1)].Text == ";" && dynamic(args) {
			f.unsure("expressions of find depend on the host")
		}
	}
}

// remote is ssh: another host's shell reads the words.
func remote(f *following) {
	f.pivot = true
	s := spec{flags: "46AaCfGgKkMNnqsTtVvXxYy", args: "BbcDEeFIiJLlmOopPQRSWw", skip: 0}
	given, rest, ok := s.split(f.args())
	if !ok {
		f.unsure("an option of ssh is not known here")
	}
	if given.has("-o", "-F", "-J", "-O", "-S", "-I", "-E") {
		f.unsure("options of ssh may run commands")
	}
	if len(rest) < 2 {
		f.unsure("ssh starts a shell on another host")
		return
	}
	if !rest[0].Single {
		f.unsure("what ssh runs depends on the host")
	}
	f.text(joined(rest[1:]), "ssh")
	f.followed = false
}
