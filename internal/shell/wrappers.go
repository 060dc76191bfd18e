package shell

import "strings"

// following is one command whose business it is to run others.
type following struct {
	w *walker
	c Command
	p place

	pivot    bool // it runs code that is not looked into
	followed bool // all that it runs is known
	acts     []Act
	instead  bool // they say all that there is to say of the command
}

func (f *following) args() []Word { return f.c.Words[1:] }

// unsure says that what runs is not known.
func (f *following) unsure(format string, args ...any) {
	f.pivot = true
	f.w.script.unknown(format, args...)
}

// run follows the words of a command that runs with the same input.
func (f *following) run(words []Word) { f.runVia(words, f.c.Name) }

func (f *following) runVia(words []Word, via string) {
	if len(words) == 0 {
		return
	}
	f.followed = !f.pivot
	p := f.p.through(via)
	f.w.command(Command{Words: words}, p)
}

// text follows a text that a shell reads.
func (f *following) text(word Word, via string) {
	if !word.Known {
		f.unsure("%s runs a text that is not known: %s", f.c.Name, quote(word.Text))
		return
	}
	f.followed = !f.pivot
	f.w.script.read(word.Text, f.w.depth+1, f.p.through(via).via)
}

// joined is words with spaces between them, as eval and ssh read them.
func joined(words []Word) Word {
	out := known("")
	texts := make([]string, len(words))
	for i, word := range words {
		texts[i] = word.Text
		out.Known = out.Known && word.Known
	}
	out.Text = strings.Join(texts, " ")
	return out
}

// wrapper makes a follower of a spec.
func wrapper(s spec) func(*following) {
	return func(f *following) {
		found, rest, ok := s.split(f.args())
		if !ok {
			f.unsure("an option of %s is not known here", f.c.Name)
		}
		for name, value := range found {
			if assignment, is := strings.CutPrefix(name, "="); is {
				variable, _, _ := strings.Cut(assignment, "=")
				f.w.assigned(variable)
				f.w.taint(value)
			}
		}
		for range s.skip {
			if len(rest) == 0 {
				break
			}
			if !rest[0].Known && !rest[0].Single {
				f.unsure("what %s runs depends on the host", f.c.Name)
			}
			rest = rest[1:]
		}
		switch {
		case len(rest) > 0:
			f.run(rest)
		case s.shell:
			f.unsure("%s starts a shell", f.c.Name)
			f.w.script.Stdin = f.w.script.Stdin || f.p.stdin == fromSession
		case s.optional && ok:
			f.followed = true
		}
	}
}

// elevators run their command as somebody else.
var elevators = set("sudo doas su runuser pkexec setpriv gosu su-exec setuidgid sg chpst sudoedit")

// followers are the programs and builtins that run others, by their names.
var followers map[string]func(*following)

func init() {
	followers = map[string]func(*following){
		"eval": func(f *following) { f.text(joined(f.args()), "eval") },
		"exec": wrapper(spec{flags: "cl", args: "a", optional: true}), "builtin": wrapper(spec{optional: true}),
		"command": commandBuiltin, "source": sourced, ".": sourced, "trap": trapped, "alias": aliased,
		"hash": hashed, "enable": loaded, "bind": loaded, "complete": loaded, "compgen": loaded, "zmodload": loaded, "autoload": loaded,
		"fc": history, "history": history, "r": history,

		"sudo": sudo, "doas": wrapper(spec{flags: "nL", args: "uCa"}),
		"su": substitute, "runuser": substitute, "pkexec": wrapper(spec{longArgs: "user", longFlags: "disable-internal-agent keep-cwd", shell: true}),
		"setpriv": wrapper(spec{longArgs: "reuid regid groups inh-caps ambient-caps bounding-set securebits pdeathsig selinux-label apparmor-profile", longFlags: "clear-groups keep-groups init-groups no-new-privs nnp reset-env"}),
		"gosu":    wrapper(spec{skip: 1}), "su-exec": wrapper(spec{skip: 1}), "setuidgid": wrapper(spec{skip: 1}),

		"env": environment, "nice": wrapper(spec{args: "n", digits: true, longArgs: "adjustment", optional: true}),
		"nohup": wrapper(spec{}), "timeout": wrapper(spec{flags: "fpv", args: "ks", longFlags: "foreground preserve-status verbose", longArgs: "kill-after signal", skip: 1}),
		"setsid": wrapper(spec{flags: "cfw", longFlags: "ctty fork wait"}), "stdbuf": wrapper(spec{args: "ioe", longArgs: "input output error"}),
		"ionice":  wrapper(spec{flags: "t", args: "cnpPu", longArgs: "class classdata pid pgid uid", longFlags: "ignore", optional: true}),
		"time":    wrapper(spec{flags: "apvqlh", args: "fo", longArgs: "format output", longFlags: "append portability verbose quiet", optional: true}),
		"chrt":    wrapper(spec{flags: "bdfiorRamv", args: "TPDp", longFlags: "batch deadline fifo idle other rr reset-on-fork all-tasks verbose", skip: 1}),
		"taskset": wrapper(spec{flags: "ac", args: "p", longFlags: "all-tasks cpu-list", skip: 1}), "numactl": wrapper(spec{flags: "alsH", args: "imNCpP", longArgs: "interleave membind cpunodebind physcpubind preferred", longFlags: "all localalloc show hardware", optional: true}),
		"linux32": wrapper(spec{shell: true}), "linux64": wrapper(spec{shell: true}),
		"fakeroot": wrapper(spec{shell: true}), "unbuffer": wrapper(spec{flags: "p"}), "eatmydata": wrapper(spec{}), "rlwrap": wrapper(spec{}), "catchsegv": wrapper(spec{}),
		// Options of setarch may stand for its first word; strace and ltrace run programs by options.
		"setarch": otherRoot, "strace": otherRoot, "ltrace": otherRoot, "chroot": otherRoot, "unshare": otherRoot, "nsenter": otherRoot, "bwrap": otherRoot, "firejail": otherRoot,
		"systemd-run": otherRoot, "systemd-nspawn": otherRoot, "proot": otherRoot, "script": otherRoot, "parallel": otherRoot, "run-parts": otherRoot, "start-stop-daemon": otherRoot,
		"screen": otherRoot, "tmux": otherRoot, "expect": otherRoot, "at": otherRoot, "batch": otherRoot, "crontab": otherRoot, "gdb": otherRoot, "perf": otherRoot, "valgrind": otherRoot,
		"xvfb-run": otherRoot, "dbus-run-session": otherRoot, "ssh-agent": otherRoot, "capsh": otherRoot, "runcon": otherRoot, "newgrp": otherRoot, "sg": otherRoot, "chpst": otherRoot, "flock": locked,
		"scp": copied, "rsync": synced, "git": repository, "git-upload-pack": repository, "git-receive-pack": repository, "git-upload-archive": repository,
		"watch": watched, "xargs": arguments, "find": found, "ssh": remote, "busybox": applet, "toybox": applet,

		// Words that other shells run what follows of.
		"repeat": foreign, "noglob": foreign, "nocorrect": foreign, "-": foreign, "and": foreign, "or": foreign, "not": foreign,
		"begin": foreign, "foreach": foreign, "switch": foreign, "function": foreign, "coproc": foreign, "select": foreign, "always": foreign,
		"sched": foreign, "onintr": foreign, "set": assignments, "@": foreign, "end": foreign, "else": foreign, "if": foreign, "while": foreign, "for": foreign, "defer": foreign,
	}
	for shell := range shells {
		followers[shell] = shellProgram
	}
	for shell := range otherShells {
		followers[shell] = otherShell
	}
}

func commandBuiltin(f *following) {
	s := spec{flags: "pvV"}
	found, rest, ok := s.split(f.args())
	if !ok {
		f.unsure("an option of command is not known here")
	}
	if !found.has("-v", "-V") {
		f.run(rest)
	}
	f.followed = !f.pivot
}

func sourced(f *following) {
	f.unsure("%s runs a file of the host", f.c.Name)
}

func trapped(f *following) {
	args := f.args()
	if len(args) > 0 && args[0].Known && (args[0].Text == "-p" || args[0].Text == "-l" || args[0].Text == "-") {
		return
	}
	if len(args) > 0 && args[0].Known && args[0].Text == "--" {
		args = args[1:]
	}
	if len(args) > 0 {
		f.text(args[0], "trap")
	}
}

// aliased: dash and zsh expand aliases in commands, too.
func aliased(f *following) { f.unsure("an alias makes later commands others") }

func hashed(f *following) {
	if anyOption(f.args(), "p") || dynamic(f.args()) || strings.Contains(joined(f.args()).Text, "=") {
		f.unsure("hash makes later commands others")
	}
}

func loaded(f *following) {
	switch f.c.Name {
	case "compgen", "complete":
		if !dynamic(f.args()) && !anyOption(f.args(), "C") && !anyOption(f.args(), "F") && !anyOption(f.args(), "W") {
			return
		}
	case "bind":
		if !dynamic(f.args()) && !anyOption(f.args(), "x") && !anyOption(f.args(), "f") {
			return
		}
	}
	f.unsure("%s changes what later commands are", f.c.Name)
}

func history(f *following) {
	if f.c.Name == "history" && !dynamic(f.args()) && !anyOption(f.args(), "p") && !anyOption(f.args(), "s") {
		return
	}
	f.unsure("%s runs commands of the history", f.c.Name)
}

// assignments: csh assigns with set, also to path.
func assignments(f *following) {
	for _, a := range f.args() {
		variable, _, _ := strings.Cut(a.Text, "=")
		f.w.assigned(variable)
	}
	f.followed = true
}

func dynamic(words []Word) bool {
	for _, w := range words {
		if !w.Known {
			return true
		}
	}
	return false
}

func foreign(f *following) {
	f.unsure("%s runs what follows in some shells", quote(f.c.Words[0].Text))
	f.run(f.args())
}

// otherRoot are programs that run others in another world (another root, another
// session, later), or with a syntax of their own. They are not looked into.
func otherRoot(f *following) {
	f.unsure("what %s runs is not looked into", f.c.Name)
}

func applet(f *following) {
	args := f.args()
	if len(args) > 0 && args[0].Known && !strings.HasPrefix(args[0].Text, "-") {
		f.run(args)
		return
	}
	if len(args) > 0 && !args[0].Known {
		f.unsure("which applet of %s runs depends on the host", f.c.Name)
	}
}
