// Package scan looks for the credentials that a user's programs hold today: in
// the environment of their processes, and in the files where the usual tools keep
// them. It keeps none: a Finding says what kind of credential is where, for whom
// and how long it is, and has no place for its value.
//
// Start with Environments and Home; every value goes through look, in value.go.
package scan

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// maxFile bounds what is read of one file, in bytes.
const maxFile = 1 << 20

// Finding is a credential. User, Host and Database are what it is for, as far as
// that stands beside it, and empty where that has characters that a name of these
// has not, for then it may be part of a value.
type Finding struct {
	Kind     string `json:"kind"`  // postgres, url, token, aws, kubernetes, ssh-key, docker, git, netrc
	Place    string `json:"place"` // where it is: a variable of a process, a file and what of it
	User     string `json:"user,omitempty"`
	Host     string `json:"host,omitempty"` // with a port, if there is one
	Database string `json:"database,omitempty"`
	Length   int    `json:"length"` // of the value, in bytes
}

// seen are hashes of what was found already, with the salt of one scan.
type seen map[[sha256.Size]byte]bool

// Scan collects findings.
type Scan struct {
	Findings []Finding
	Unread   []string // places that could not be read
	values   seen
}

// New returns an empty Scan.
func New() *Scan { return &Scan{values: seen{}} }

// add notes a finding, unless its value was found in a place of the same kind
// with another process: the children of a shell all have its environment.
func (s *Scan) add(f Finding, value, group string) {
	f.Length = len(value)
	f.User, f.Host, f.Database = named(f.User, value), named(f.Host, value), named(f.Database, value)
	key := sha256.Sum256([]byte(group + "\x00" + f.Kind + "\x00" + f.Host + "\x00" + value))
	if value == "" || s.values[key] {
		return
	}
	s.values[key] = true
	s.Findings = append(s.Findings, f)
}

// addLogin is add where tokens are used in place of passwords, and may stand in the
// place of the user: only users that are known to be none are shown.
func (s *Scan) addLogin(f Finding, password, group string) {
	switch {
	case slices.Contains([]string{"", "x-oauth-basic", "x-token-auth"}, password):
		password, f.User = f.User, ""
	case !slices.Contains(tokenUsers, f.User):
		f.User = ""
	}
	s.add(f, password, group)
}

// tokenUsers are what services have as the user beside a token.
var tokenUsers = []string{"git", "oauth2", "oauth", "x-access-token", "x-token-auth", "token", "__token__", "anonymous"}

// named is a name that is harmless to print: with the characters of names, and
// without the value in it.
func named(name, value string) string {
	odd := func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]*@", r)
	}
	if len(name) > 253 || strings.ContainsFunc(name, odd) || len(value) >= 4 && strings.Contains(name, value) {
		return ""
	}
	return name
}

// Environments looks into the environment of every process for which of is true:
// by its uid and its cgroup, as /proc/PID/cgroup has it.
func (s *Scan) Environments(proc string, of func(uid uint32, cgroup string) bool) error {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join(proc, e.Name())
		info, err := os.Stat(dir)
		if err != nil {
			continue // it has ended
		}
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if !of(info.Sys().(*syscall.Stat_t).Uid, string(cgroup)) {
			continue
		}
		text, err := readSome(filepath.Join(dir, "environ"))
		if errors.Is(err, os.ErrPermission) {
			s.Unread = append(s.Unread, "the environment of process "+e.Name())
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		vars := map[string]string{}
		for v := range bytes.SplitSeq(text, []byte{0}) {
			if name, value, ok := strings.Cut(string(v), "="); ok {
				vars[name] = value
			}
		}
		s.variables(vars, func(name string) string { return name + " of " + clean(string(comm)) + " (" + e.Name() + ")" }, "environ")
	}
	return nil
}

// clean is the name of a program, which a process chooses.
func clean(comm string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, comm)
}

// readSome reads a regular file, not a link to one: its owner chooses where that
// leads.
func readSome(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, os.ErrInvalid
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// Home looks into the files of a home directory, and for .env files in the
// folders given and in those directly below them.
func (s *Scan) Home(home string, folders ...string) {
	for _, f := range files {
		for _, path := range expand(home, f.glob) {
			s.file(path, f.read)
		}
	}
	var env []string
	for _, dir := range append([]string{home}, folders...) {
		for _, glob := range []string{".env", ".env.*", "*/.env", "*/.env.*", ".envrc"} {
			env = append(env, expand(dir, glob)...)
		}
	}
	slices.Sort(env)
	for _, path := range slices.Compact(env) {
		s.file(path, (*Scan).dotenv)
	}
}

func expand(dir, glob string) []string {
	found, _ := filepath.Glob(filepath.Join(strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir), glob))
	return found
}

func (s *Scan) file(path string, read func(*Scan, string, []byte)) {
	text, err := readSome(path)
	switch {
	case errors.Is(err, os.ErrPermission):
		s.Unread = append(s.Unread, path)
	case err == nil:
		read(s, path, text)
	}
}
