package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	sealing "filippo.io/age"
	"go.yaml.in/yaml/v3"

	"github.com/postern/postern/internal/config"
)

// yaml is the configuration: what an agent may do at first is to read, without
// secrets and what concerns people.
func (f *first) yaml(path string) string {
	var b strings.Builder
	line := func(format string, values ...string) {
		quoted := make([]any, len(values))
		for i, v := range values {
			text, err := yaml.Marshal(v)
			if err != nil || bytes.Count(text, []byte("\n")) != 1 {
				text = fmt.Appendf(nil, "%q", v)
			}
			quoted[i] = strings.TrimSpace(string(text))
		}
		fmt.Fprintf(&b, format+"\n", quoted...)
	}
	b.WriteString("# Made by `postern setup`. Every key: man postern.yaml. After a change: postern reload\n")
	if identity := filepath.Join(filepath.Dir(path), "identity.txt"); identity != config.DefaultSecretIdentity {
		line("secrets:\n  file:\n    identity: %s", identity)
	}
	line("agents:\n  - name: %s\n    cgroup: %s\n    policy: %[1]s", f.agent, f.slice)
	if f.runBy != "" {
		line("    run_by:\n      users:\n        - %s", f.runBy)
	}
	if f.observe > 0 {
		b.WriteString("    mode: observe # nothing is enforced until then; `postern enforce` ends it\n")
		fmt.Fprintf(&b, "    until: %s\n", time.Now().Add(f.observe).UTC().Format(time.RFC3339))
	}
	line("targets:\n  - name: %s\n    protocol: postgres\n    hosts:\n      - %s", f.target, f.host)
	if f.dial != "" {
		line("    dial: %s", f.dial)
	}
	line("    tls:\n      verify: %s", f.verify)
	if f.ca != "" {
		line("      ca: %s", f.ca)
	}
	line("    placeholder: # what the agent has\n      user: %s\n      database: %s\n      password: %s", f.asUser, f.asDatabase, f.placeholder)
	line("    credential: # what the database is told\n      user: %s\n      database: %s\n      password:\n        source: file\n        path: %s",
		f.user, f.database, f.target+".age")
	b.WriteString("policies: # what no rule allows does not happen\n")
	line("  - name: %s\n    rules:", f.agent)
	line("      - name: session\n        target: %s\n        verbs: [session]\n        allow: true", f.target)
	line("      - name: reads\n        target: %s\n        verbs: [select]\n        allow: true", f.target)
	b.WriteString("    masks:\n      - target: \"*\"\n        detect: [secrets, pii]\n        with: redact\n")
	return b.String()
}

// replaceable says whether a file may be written over: one without a target is
// an example, and nothing is lost with its backup.
func (f *first) replaceable(path string) error {
	if f.force {
		return nil
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	cfg, _ := config.Load(path)
	if cfg == nil || len(cfg.Targets) > 0 {
		return fmt.Errorf("%s is in use: --force replaces it, and keeps a backup", path)
	}
	return nil
}

// writeFirst writes the files, the configuration last and only if the daemon
// would take it.
func (c *cli) writeFirst(ctx context.Context, f *first, text string, secret []byte) (written []string, err error) {
	daemon, err := f.owner()
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(c.config)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	candidate := filepath.Join(dir, ".postern.yaml.candidate")
	defer os.Remove(candidate)
	if err := os.WriteFile(candidate, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if out, err := c.daemonCheck(ctx, candidate); err != nil {
		return nil, fmt.Errorf("nothing was written, for the daemon would not take it (%w):\n%s", err, strings.TrimSpace(strings.ReplaceAll(string(out), candidate, c.config)))
	}
	recipient, made, err := identityIn(filepath.Join(dir, "identity.txt"))
	if err != nil {
		return nil, err
	}
	var sealed bytes.Buffer
	w, err := sealing.Encrypt(&sealed, recipient)
	if err != nil {
		return nil, fmt.Errorf("encrypt the secret: %w", err)
	}
	if _, err := w.Write(secret); err != nil {
		return nil, fmt.Errorf("encrypt the secret: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("encrypt the secret: %w", err)
	}
	files := []placed{{filepath.Join(dir, f.target+".age"), sealed.Bytes(), 0o600, daemon}, {c.config, []byte(text), 0o644, owner{}}}
	if made != nil {
		files = append([]placed{{filepath.Join(dir, "identity.txt"), made, 0o600, daemon}}, files...)
	}
	for _, p := range files {
		if err := p.write(); err != nil {
			return written, err
		}
		written = append(written, p.path)
	}
	return written, nil
}

func (f *first) owner() (who owner, err error) {
	u, err := user.Lookup(f.daemonUser)
	if err != nil {
		return who, fmt.Errorf("%w: the packages make the user; by hand: useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin %s", err, f.daemonUser)
	}
	who.uid, err = strconv.Atoi(u.Uid)
	if err == nil {
		who.gid, err = strconv.Atoi(u.Gid)
	}
	return who, err
}

// identityIn returns who to encrypt to. Other files may be encrypted to an
// identity that is there, so it stays; else text is that of a new one.
func identityIn(path string) (to sealing.Recipient, text []byte, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		id, err := sealing.GenerateX25519Identity()
		if err != nil {
			return nil, nil, err
		}
		return id.Recipient(), fmt.Appendf(nil, "# public key: %s\n%s\n", id.Recipient(), id), nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	ids, err := sealing.ParseIdentities(io.LimitReader(f, maxSecret))
	if err != nil {
		return nil, nil, fmt.Errorf("%s holds no age identity", path)
	}
	for _, id := range ids {
		if x, ok := id.(*sealing.X25519Identity); ok {
			return x.Recipient(), nil, nil
		}
	}
	return nil, nil, fmt.Errorf("%s holds no identity of the kind AGE-SECRET-KEY-1", path)
}

// placed is a file to be written whole or not at all.
type placed struct {
	path  string
	text  []byte
	mode  fs.FileMode
	owner owner
}

// owner is whose a file is.
type owner struct{ uid, gid int }

func (p placed) write() error {
	if _, err := os.Lstat(p.path); err == nil {
		backup := p.path + "." + time.Now().UTC().Format("20060102T150405.000") + ".backup"
		if err := os.Link(p.path, backup); err != nil {
			return fmt.Errorf("keep a backup: %w", err)
		}
	}
	tmp, err := os.CreateTemp(filepath.Dir(p.path), ".postern-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if err := errors.Join(tmp.Chmod(p.mode), tmp.Chown(p.owner.uid, p.owner.gid)); err != nil && os.Geteuid() == 0 {
		return err
	}
	if _, err := tmp.Write(p.text); err != nil {
		return err
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), p.path)
}

// withSystemd says whether systemd runs this host and has the units.
func withSystemd() bool {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return false
	}
	return exec.Command("systemctl", "cat", "posternd.service", "postern-guard.service", "postern-attach.service").Run() == nil
}
