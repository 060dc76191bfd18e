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
	labelForm  = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)
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

func isListen(s string) (string, string) {
	if strings.HasPrefix(s, "/") {
		return isPath(s)
	}
	if s == "off" {
		return "", ""
	}
	h, message, help := parseHostPort(s)
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

func isHostName(s string) (string, string) {
	if _, err := netip.ParseAddr(s); err == nil {
		return "", ""
	}
	const help = "write a DNS name without a final dot, or an IP address"
	if len(s) > 253 {
		return "is longer than a DNS name can be", help
	}
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if !labelForm.MatchString(l) {
			return "is not a host name", help
		}
	}
	// 127.1 and 0x7f.1 are addresses to some resolvers and names to others.
	if last := labels[len(labels)-1]; last[0] >= '0' && last[0] <= '9' {
		return "looks like an address and is none", "write all four numbers in decimal"
	}
	return "", ""
}

// parseHostPort reads name:port, v4:port or [v6]:port.
func parseHostPort(s string) (h HostPort, message, help string) {
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
	host = strings.ToLower(host)
	if strings.HasPrefix(s, "[") {
		return h, "has no IPv6 address in its brackets", form
	}
	if message, help := isHostName(host); message != "" {
		return h, message, help
	}
	return HostPort{host, p}, "", ""
}

func joinHostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
