package shell

import (
	"regexp"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// arithmetic walks a command or loop that evaluates expressions.
func (w *walker) arithmetic(n syntax.Node, p place) {
	w.substitutions(n, p)
	syntax.Walk(n, func(n syntax.Node) bool {
		if x, ok := n.(syntax.ArithmExpr); ok {
			w.expression(x)
			return false
		}
		return true
	})
}

var number = regexp.MustCompile(`^[0-9]+$`)

// expression notes whether anything but numbers is evaluated. Commands in it are
// walked as all substitutions are.
func (w *walker) expression(x syntax.ArithmExpr) {
	if x == nil {
		return
	}
	syntax.Walk(x, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.Word:
			if !number.MatchString(n.Lit()) {
				w.evaluates = true
			}
		case *syntax.CmdSubst:
			return false
		}
		return true
	})
}

func (w *walker) parameter(p *syntax.ParamExp) {
	if p.Index != nil {
		w.expression(p.Index)
	}
	if p.Slice != nil {
		w.expression(p.Slice.Offset)
		w.expression(p.Slice.Length)
	}
	if p.Excl && p.Names == 0 || p.Exp != nil && p.Exp.Op == syntax.OtherParamOps {
		w.evaluates = true // ${!x} and ${x@P} take a value for a name, or for a prompt
	}
	if p.Flags != nil || p.NestedParam != nil || len(p.Modifiers) > 0 {
		w.script.unknown("an expansion that only zsh understands")
	}
	if p.Exp != nil && (p.Exp.Op == syntax.AssignUnset || p.Exp.Op == syntax.AssignUnsetOrNull) && p.Param != nil {
		w.assigned(p.Param.Value)
		w.tainted = true
	}
}

// subscript looks for a command within what may be evaluated as a subscript,
// quoted or not: [[ -v 'a[$(id)]' ]], declare, read, unset and printf -v do.
func (w *walker) subscript(text string) {
	at := strings.IndexByte(text, '[')
	if at >= 0 && strings.ContainsAny(text[at:], "$`") && (strings.Contains(text[at:], "$(") || strings.Contains(text[at:], "`") || strings.Contains(text[at:], "${")) {
		w.script.unknown("bash may run what stands in a subscript")
	}
}

func (w *walker) test(c *syntax.TestClause, p place) {
	w.substitutions(c, p)
	syntax.Walk(c, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.BinaryTest:
			switch n.Op {
			case syntax.TsEql, syntax.TsNeq, syntax.TsLeq, syntax.TsGeq, syntax.TsLss, syntax.TsGtr:
				w.evaluates = true
			}
		case *syntax.UnaryTest:
			if n.Op == syntax.TsVarSet || n.Op == syntax.TsRefVar {
				w.evaluates = true
			}
		}
		return true
	})
	w.command(Command{Words: []Word{known("[[")}, Name: "[["}, p)
}

// taint notes a value that bash might evaluate as an expression with a command.
func (w *walker) taint(value Word) {
	if !value.Known || strings.ContainsAny(value.Text, "[$`") {
		w.tainted = true
	}
}

// assigned notes that a variable is given a value.
func (w *walker) assigned(name string) {
	if decisive(name) {
		w.script.unknown("%s decides what later commands are", name)
	}
}

// decisive are variables that choose programs, load code, or change how words
// are read, in shells or in the programs that they start.
func decisive(name string) bool {
	for _, prefix := range []string{"LD_", "DYLD_", "BASH_", "GIT_", "PYTHON", "PERL", "RUBY", "NODE_", "NPM_", "npm_", "LUA_", "GCONV", "MALLOC_", "SUDO_", "SSH_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return decisiveNames[name]
}

var decisiveNames = set(`PATH path IFS ENV CDPATH HOME SHELL SHELLOPTS BASHOPTS PS0 PS1 PS2 PS4 PROMPT PROMPT_COMMAND
	ZDOTDIR FPATH fpath HASHMARK MODULE_PATH module_path NULLCMD READNULLCMD EXECIGNORE GLOBIGNORE histchars POSIXLY_CORRECT
	EDITOR VISUAL PAGER MANPAGER LESSOPEN LESSCLOSE LESSEDIT BROWSER FCEDIT HISTFILE TERMINFO TERMCAP LOCPATH NLSPATH LOCALDOMAIN RES_OPTIONS HOSTALIASES
	CLASSPATH JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS MAKEFLAGS MAKEFILES MFLAGS TAR_OPTIONS RSYNC_RSH RSYNC_CONNECT_PROG CVS_RSH
	XARGS_ARGS GREP_OPTIONS LESS VIMINIT EXINIT MYVIMRC AWKPATH AWKLIBPATH R_PROFILE PHPRC PHP_INI_SCAN_DIR GEM_PATH GEM_HOME BUNDLE_GEMFILE
	DOCKER_HOST KUBECONFIG ANSIBLE_CONFIG OPENSSL_CONF OPENSSL_ENGINES SSLKEYLOGFILE WGETRC CURL_HOME GNUPGHOME SYSTEMD_EDITOR SYSTEMD_PAGER DEBUGINFOD_URLS`)

func set(words string) map[string]bool {
	out := map[string]bool{}
	for _, w := range strings.Fields(words) {
		out[w] = true
	}
	return out
}
