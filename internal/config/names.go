package config

import (
	"net/netip"
	"regexp"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

var labelForm = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

const (
	nameHelp     = "write a DNS name without a final dot, or an IP address"
	wildcardHelp = "write *.example.com for every name below example.com"
	// maxName is what DNS has room for (RFC 1035), and maxWildcard leaves some for
	// the shortest name below.
	maxName     = 253
	maxWildcard = maxName - 2
)

// toASCII makes A-labels of what is not ASCII, as browsers and resolvers do
// (UTS 46, non-transitional), and checks the A-labels that are there. Underscores
// are no part of a host's name and common in practice.
var toASCII = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(), idna.StrictDomainName(false))

// hostName returns a name as it is on the wire: in lower case, in A-labels.
func hostName(s string) (name, message, help string) {
	name = strings.ToLower(s)
	if !ascii(name) || strings.Contains(name, "xn--") {
		var err error
		if name, err = toASCII.ToASCII(name); err != nil {
			return "", "is not a name in any language", "check its spelling, or write its form with xn--"
		}
	}
	if len(name) > maxName {
		return "", "is longer than a DNS name can be", nameHelp
	}
	if strings.Contains(name, "*") {
		return "", "has a wildcard where none can be", wildcardHelp
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if !labelForm.MatchString(l) {
			return "", "is not a host name", nameHelp
		}
	}
	// 127.1 and 0x7f.1 are addresses to some resolvers and names to others.
	if last := labels[len(labels)-1]; last[0] >= '0' && last[0] <= '9' {
		return "", "looks like an address and is none", "write all four numbers in decimal"
	}
	return name, "", ""
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// listedHost is hostName for a name that agents dial, which may have a wildcard
// for its first label, whole and alone.
func listedHost(s string) (name, message, help string) {
	base, wild := strings.CutPrefix(s, "*.")
	if s == "*" {
		return "", "would be every name there is", wildcardHelp
	}
	if name, message, help = hostName(base); message != "" {
		return "", message, help
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return "", "is every agent's own loopback", "list 127.0.0.1 or [::1], which agents are redirected from"
	}
	if !wild {
		return name, "", ""
	}
	if len(name) > maxWildcard {
		return "", "leaves no room for a name below it", "shorten it"
	}
	return "*." + name, "", ""
}

func isServerName(s string) (message, help string) {
	if _, err := netip.ParseAddr(s); err == nil {
		return "", ""
	}
	_, message, help = hostName(s)
	return message, help
}

// Covers reports whether the host is a name, or a wildcard above it.
func (h HostPort) Covers(name string) bool {
	if suffix, wild := strings.CutPrefix(h.Host, "*"); wild {
		return strings.HasSuffix(name, suffix) && len(name) > len(suffix)
	}
	return h.Host == name
}

// Wildcard reports whether the host stands for the names below it.
func (h HostPort) Wildcard() bool { return strings.HasPrefix(h.Host, "*.") }
