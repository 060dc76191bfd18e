package servers

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// OIDCOptions shape an OpenID provider.
type OIDCOptions struct {
	Node string        // the folder test/oidc/node, where `make oidc-modules` was run
	Dir  string        // for its log; made if missing
	Life time.Duration // of ID tokens; default 5 min
	Port int           // 0: a free one
	Skew time.Duration // how far its clock is ahead, or behind
}

// OIDC is a running OpenID provider, npm's certified oidc-provider, on loopback.
// Its people are alice (groups dba and sre), bob (analyst) and mallory (none).
// Its clients are postern, which has no secret, postern-basic and postern-post,
// and ci, which gets access tokens of its own for the audience urn:postern.
type OIDC struct {
	Issuer string // http://127.0.0.1:PORT
	Log    string

	options OIDCOptions
	cmd     *exec.Cmd
}

// The secrets of the provider's clients.
const (
	OIDCBasicSecret = "basic-secret & more" // of postern-basic
	OIDCPostSecret  = "post-secret"         // of postern-post
	OIDCServiceKey  = "ci-secret"           // of ci
)

// StartOIDC starts a provider. The caller stops it.
func StartOIDC(o OIDCOptions) (*OIDC, error) {
	if _, err := exec.LookPath("node"); err != nil {
		return nil, errors.New("Node.js is missing: apt-get install nodejs")
	}
	if _, err := os.Stat(filepath.Join(o.Node, "node_modules", "oidc-provider")); err != nil {
		return nil, errors.New("oidc-provider is missing: make oidc-modules")
	}
	if o.Life == 0 {
		o.Life = 5 * time.Minute
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, err
	}
	s := &OIDC{options: o, Log: filepath.Join(o.Dir, "oidc-provider.log")}
	if err := s.Start(); err != nil {
		return nil, fmt.Errorf("start oidc-provider: %w", err)
	}
	return s, nil
}

// Start starts the provider again after Stop: at the same address, with another
// key, and knowing nothing of who had logged in.
func (s *OIDC) Start() error {
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	options, err := json.Marshal(map[string]int{"port": s.options.Port, "life": int(s.options.Life / time.Second), "skew": int(s.options.Skew / time.Second)})
	if err != nil {
		return err
	}
	s.cmd = exec.Command("node", filepath.Join(s.options.Node, "op.mjs"), string(options))
	s.cmd.Stderr = log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	// Whoever waits for a program that does not start has its output end.
	late := time.AfterFunc(patience, func() { s.cmd.Process.Kill() })
	defer late.Stop()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.Stop()
		text, _ := os.ReadFile(s.Log)
		return fmt.Errorf("it does not start: %w\n%s", err, text)
	}
	s.Issuer = strings.TrimSpace(line)
	u, err := url.Parse(s.Issuer)
	if err != nil {
		s.Stop()
		return err
	}
	s.options.Port, err = strconv.Atoi(u.Port())
	return err
}

// Stop ends the provider.
func (s *OIDC) Stop() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill() //nolint:errcheck // it may have ended by itself
	s.cmd.Wait()         //nolint:errcheck // it was killed
	s.cmd = nil
}
