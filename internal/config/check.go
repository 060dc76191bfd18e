package config

import (
	"net"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// The checks of single values return what is wrong with one and what to do,
// or nothing.

var (
	nameForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	wordForm   = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,63}$`)
	verbForm   = regexp.MustCompile(`^(\*|[a-z][a-z0-9_-]{0,63})$`)
	columnForm = regexp.MustCompile(`^[^.\s]+(\.[^.\s]+){1,2}$`)
	tableForm  = regexp.MustCompile(`^("([^"]|"")+"|[^".\s]+)(\.("([^"]|"")+"|[^".\s]+))?$`)
	personForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9@+:._/-]{0,127}$`)
)

func form(re interface{ MatchString(string) bool }, message, help string) func(string) (string, string) {
	return func(s string) (string, string) {
		if re.MatchString(s) {
			return "", ""
		}
		return message, help
	}
}

var (
	isName   = form(nameForm, "is not a name", "use letters, digits, dots, dashes and underscores, at most 64")
	isWord   = form(wordForm, "is not a word", "use lower-case letters, digits, dashes and underscores")
	isVerb   = form(verbForm, "is not a verb", `use a verb such as select, or "*"`)
	isColumn = form(columnForm, "is not a column pattern", `write table.column or schema.table.column; "*" stands for any`)
	isTable  = form(tableForm, "is not a table pattern", "write table or schema.table; quote a name that has a dot in it")
	isPerson = form(personForm, "is not a person or group", "use the name or address your identity provider gives")
)

func isTarget(s string) (string, string) {
	if s == "*" {
		return "", ""
	}
	return isName(s)
}

func isPath(s string) (string, string) {
	if !path.IsAbs(s) || path.Clean(s) != s {
		return "is not an absolute path", "begin it with / and leave out . and .."
	}
	return "", ""
}

// isMountPath also takes a path below the home of who the run is.
func isMountPath(s string) (string, string) {
	if below, ok := strings.CutPrefix(s, "~/"); ok && path.Clean(below) == below && below != "." && below != ".." && !strings.HasPrefix(below, "../") {
		return "", ""
	}
	if !path.IsAbs(s) || path.Clean(s) != s {
		return "is not an absolute path", "begin it with / or ~/ and leave out . and .."
	}
	return "", ""
}

// isAgentUser: the guard refuses root by its uid too.
func isAgentUser(s string) (string, string) {
	if s == "root" || s == "0" {
		return "is root", "make a user of the agent's own: an agent that is root can leave its cgroup"
	}
	return isPerson(s)
}

func isListen(s string) (string, string) {
	if strings.HasPrefix(s, "/") {
		return isPath(s)
	}
	if s == "off" {
		return "", ""
	}
	h, message, help := parseHostPort(s, hostName)
	if message != "" {
		return message, help
	}
	if _, err := netip.ParseAddr(h.Host); err != nil {
		return "has no IP address", "write 127.0.0.1:9187, a Unix socket's path, or off"
	}
	return "", ""
}

func isCgroup(s string) (string, string) {
	if path.IsAbs(s) || path.Clean(s) != s || s == "." || s == ".." || strings.HasPrefix(s, "../") {
		return "is not a relative path", "write it relative to the cgroup2 root, such as agents.slice/agents-planner.slice"
	}
	return "", ""
}

// inside says whether the path is strictly below root.
func inside(p, root string) bool { return root != "" && strings.HasPrefix(p, root+"/") }

// parseHostPort reads name:port, v4:port or [v6]:port; names says what a name
// may be.
func parseHostPort(s string, names func(string) (name, message, help string)) (h HostPort, message, help string) {
	const form = "write it as host:port, with [brackets] around an IPv6 address"
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return h, "is not host:port", form
	}
	p, err := strconv.Atoi(port)
	if err != nil || p < 1 || p > 65535 || strconv.Itoa(p) != port {
		return h, "has no port from 1 to 65535", form
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		switch {
		case addr.Zone() != "":
			return h, "has a zone", "write the address without %zone"
		case addr.Is4In6():
			return h, "is an IPv4 address in IPv6 form", "write it as " + addr.Unmap().String()
		case addr.Is6() != strings.HasPrefix(s, "["):
			return h, "has brackets in the wrong place", form
		}
		return HostPort{addr.String(), p}, "", ""
	}
	if strings.HasPrefix(s, "[") {
		return h, "has no IPv6 address in its brackets", form
	}
	host, message, help = names(host)
	return HostPort{host, p}, message, help
}

func joinHostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
