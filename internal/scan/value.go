package scan

import (
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// telling finds variables whose name says that they hold a credential.
var telling = regexp.MustCompile(`(?i)(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASS|PWD|APIKEY|API_KEY|ACCESS_KEY|SECRET_KEY|PRIVATE_KEY|AUTH|CREDENTIALS?)(_|$)`)

// harmless are such that do not.
var harmless = []string{"PWD", "OLDPWD", "SSH_AUTH_SOCK", "XAUTHORITY", "GOOGLE_APPLICATION_CREDENTIALS", "AWS_ACCESS_KEY_ID", "PASSWORD_STORE_DIR"}

// dsn finds the words of libpq's connection strings.
var dsn = regexp.MustCompile(`(?:^|\s)(host|hostaddr|port|user|dbname|password)\s*=\s*('(?:[^'\\]|\\.)*'|\S+)`)

// variables looks at an environment as a whole, for libpq takes its parts from
// several.
func (s *Scan) variables(vars map[string]string, place func(name string) string, group string) {
	names := make([]string, 0, len(vars))
	for name := range vars {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		value := vars[name]
		if name == "PGPASSWORD" {
			s.add(Finding{
				Kind: "postgres", Place: place(name), User: vars["PGUSER"], Host: at(vars["PGHOST"], vars["PGPORT"]), Database: vars["PGDATABASE"],
			}, value, group)
			continue
		}
		if s.look(value, place(name), group) || slices.Contains(harmless, name) || !telling.MatchString(name) {
			continue
		}
		kind := "token"
		if strings.HasPrefix(name, "AWS_") {
			kind = "aws"
		}
		// What a file is named by is found in the file.
		if !strings.HasPrefix(value, "/") {
			s.add(Finding{Kind: kind, Place: place(name)}, value, group)
		}
	}
}

// look finds a connection string with a password in it.
func (s *Scan) look(value, place, group string) bool {
	if u, err := url.Parse(strings.TrimSpace(value)); err == nil && u.Host != "" && u.User != nil {
		password, _ := u.User.Password()
		scheme, _, _ := strings.Cut(u.Scheme, "+") // postgresql+psycopg
		database := scheme == "postgres" || scheme == "postgresql"
		// Without a password the user may be a token, where there are such.
		if password == "" && (database || scheme != "http" && scheme != "https") {
			return false
		}
		f := Finding{Kind: "url", Place: place, User: u.User.Username(), Host: u.Host}
		if database {
			f.Kind, f.Database = "postgres", strings.TrimPrefix(u.Path, "/")
			s.add(f, password, group)
		} else {
			s.addLogin(f, password, group)
		}
		return true
	}
	words := map[string]string{}
	for _, m := range dsn.FindAllStringSubmatch(value, -1) {
		words[m[1]] = unquoted(m[2])
	}
	if words["password"] == "" || words["host"]+words["user"]+words["dbname"] == "" {
		return false
	}
	s.add(Finding{
		Kind: "postgres", Place: place, User: words["user"], Host: at(words["host"], words["port"]), Database: words["dbname"],
	}, words["password"], group)
	return true
}

// unquoted is a word of libpq's.
func unquoted(s string) string {
	if !strings.HasPrefix(s, "'") {
		return s
	}
	return strings.NewReplacer(`\\`, `\`, `\'`, `'`).Replace(strings.Trim(s, "'"))
}

func at(host, port string) string {
	if host == "" || port == "" || port == "*" {
		return host
	}
	return net.JoinHostPort(host, port)
}
