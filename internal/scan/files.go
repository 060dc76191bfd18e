package scan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"go.yaml.in/yaml/v3"
)

// files are where tools keep credentials, below a home directory.
var files = []struct {
	glob string
	read func(*Scan, string, []byte)
}{
	{".pgpass", (*Scan).pgpass},
	{".pg_service.conf", (*Scan).services},
	{".kube/config", (*Scan).kubeconfig},
	{".ssh/*", (*Scan).sshKey},
	{".aws/credentials", (*Scan).aws},
	{".config/gh/hosts.yml", (*Scan).gh},
	{".docker/config.json", (*Scan).docker},
	{".netrc", (*Scan).netrc},
	{".git-credentials", (*Scan).gitCredentials},
}

func lines(text []byte) []string {
	return strings.Split(strings.ReplaceAll(string(text), "\r", ""), "\n")
}

func (s *Scan) dotenv(path string, text []byte) {
	vars := map[string]string{}
	for _, l := range lines(text) {
		name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(l), "export "), "=")
		if ok && !strings.HasPrefix(name, "#") && !strings.ContainsAny(name, " \t") {
			vars[name] = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	s.variables(vars, func(name string) string { return name + " in " + path }, path)
}

// pgpass has host:port:database:user:password, with \ before : and \.
func (s *Scan) pgpass(path string, text []byte) {
	for i, l := range lines(text) {
		if strings.HasPrefix(l, "#") {
			continue
		}
		fields := []string{""}
		for j := 0; j < len(l); j++ {
			last := len(fields) - 1
			switch {
			case l[j] == '\\' && j+1 < len(l):
				j++
				fields[last] += l[j : j+1]
			case l[j] == ':' && len(fields) < 5:
				fields = append(fields, "")
			default:
				fields[last] += l[j : j+1]
			}
		}
		if len(fields) == 5 {
			s.add(Finding{Kind: "postgres", Place: numbered(path, i), User: fields[3], Host: at(fields[0], fields[1]), Database: fields[2]}, fields[4], path)
		}
	}
}

func numbered(path string, line int) string { return fmt.Sprintf("%s:%d", path, line+1) }

// sections calls f with each section of an INI file and its first line.
func sections(text []byte, f func(line int, keys map[string]string)) {
	at, keys := 0, map[string]string{}
	for i, l := range lines(text) {
		l = strings.TrimSpace(l)
		if strings.HasPrefix(l, "[") {
			f(at, keys)
			at, keys = i, map[string]string{}
		} else if k, v, ok := strings.Cut(l, "="); ok && !strings.HasPrefix(l, "#") {
			keys[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	f(at, keys)
}

func (s *Scan) services(path string, text []byte) {
	sections(text, func(line int, k map[string]string) {
		s.add(Finding{Kind: "postgres", Place: numbered(path, line), User: k["user"], Host: at(k["host"], k["port"]), Database: k["dbname"]}, k["password"], path)
	})
}

func (s *Scan) aws(path string, text []byte) {
	sections(text, func(line int, k map[string]string) {
		s.add(Finding{Kind: "aws", Place: numbered(path, line)}, k["aws_secret_access_key"], path)
		s.add(Finding{Kind: "aws", Place: numbered(path, line) + " (session)"}, k["aws_session_token"], path)
	})
}

func (s *Scan) kubeconfig(path string, text []byte) {
	var k struct {
		Clusters []struct {
			Cluster struct{ Server string }
		}
		Users []struct {
			User map[string]yaml.Node
		}
	}
	if yaml.Unmarshal(text, &k) != nil {
		return
	}
	host := ""
	if len(k.Clusters) == 1 { // of several it is not told which without their contexts
		if u, err := url.Parse(k.Clusters[0].Cluster.Server); err == nil {
			host = u.Host
		}
	}
	for _, u := range k.Users {
		for _, key := range []string{"token", "password", "client-key-data"} {
			if v, ok := u.User[key]; ok {
				s.add(Finding{Kind: "kubernetes", Place: numbered(path, v.Line-1) + " " + key, Host: host}, v.Value, path)
			}
		}
		if v, ok := u.User["exec"]; ok {
			s.add(Finding{Kind: "kubernetes", Place: numbered(path, v.Line-1) + " exec plugin", Host: host}, "exec", path)
		}
	}
}

func (s *Scan) sshKey(path string, text []byte) {
	if bytes.HasPrefix(text, []byte("-----BEGIN ")) && bytes.Contains(text[:min(len(text), 64)], []byte("PRIVATE KEY-----")) {
		s.add(Finding{Kind: "ssh-key", Place: path}, string(text), path)
	}
}

func (s *Scan) gh(path string, text []byte) {
	var hosts map[string]yaml.Node
	if yaml.Unmarshal(text, &hosts) != nil {
		return
	}
	for host, n := range hosts {
		var h struct {
			User  string `yaml:"user"`
			Token string `yaml:"oauth_token"`
		}
		if n.Decode(&h) == nil {
			s.add(Finding{Kind: "git", Place: path, Host: host, User: h.User}, h.Token, path)
		}
	}
}

func (s *Scan) docker(path string, text []byte) {
	var d struct {
		Auths map[string]struct{ Auth, IdentityToken string }
	}
	if json.Unmarshal(text, &d) != nil {
		return
	}
	for host, a := range d.Auths {
		if u, err := url.Parse(host); err == nil && u.Host != "" {
			host = u.Host
		}
		s.add(Finding{Kind: "docker", Place: path, Host: host}, a.Auth+a.IdentityToken, path)
	}
}

func (s *Scan) netrc(path string, text []byte) {
	words := strings.Fields(string(text))
	var f Finding
	for i := 0; i+1 < len(words); i++ {
		switch words[i] {
		case "machine":
			f = Finding{Kind: "netrc", Place: path, Host: words[i+1]}
		case "login":
			f.User = words[i+1]
		case "password":
			f.Kind, f.Place = "netrc", path
			s.addLogin(f, words[i+1], path)
		default:
			continue
		}
		i++
	}
}

func (s *Scan) gitCredentials(path string, text []byte) {
	for i, l := range lines(text) {
		if u, err := url.Parse(l); err == nil && u.User != nil {
			password, _ := u.User.Password()
			s.addLogin(Finding{Kind: "git", Place: numbered(path, i), User: u.User.Username(), Host: u.Host}, password, path)
		}
	}
}
