package guard

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/sandbox"
)

const (
	// defaultBubblewrap is where it is when it is not on the PATH.
	defaultBubblewrap = "/usr/bin/bwrap"
	// maxBinds bounds what one run sees besides the system.
	maxBinds = 64
)

// hiddenFolders hold what is nobody's business inside.
var hiddenFolders = []string{"/etc/postern", "/etc/systemd/system"}

// tierOf is the tier of a run: what was asked for, or what fits how it is
// launched, and never less than the agent's.
func tierOf(a *config.Agent, r *Run) (sandbox.Tier, error) {
	least := sandbox.Tier(a.Tier)
	tier := sandbox.Tier(r.Tier)
	switch {
	case tier == "" && (r.Terminal || a.User == "" && r.User == ""):
		tier = sandbox.Workspace
	case tier == "":
		tier = sandbox.Strict
	}
	if !tier.AtLeast(sandbox.Redirected) {
		return "", fmt.Errorf("%q is no tier: redirected, workspace or strict", r.Tier)
	}
	if tier.AtLeast(least) {
		return tier, nil
	}
	if r.Tier != "" {
		return "", fmt.Errorf("agent %s runs in the tier %s at least", a.Name, least)
	}
	return least, nil
}

// FindBubblewrap is where it is looked for when nobody says: the one on the PATH,
// or where distributions have it, whether or not it is there.
func FindBubblewrap() string {
	if found, err := exec.LookPath("bwrap"); err == nil && filepath.IsAbs(found) {
		return found
	}
	return defaultBubblewrap
}

// bubblewrap is its path.
func (s *Server) bubblewrap(tier sandbox.Tier) (string, error) {
	at := s.Bubblewrap
	if at == "" {
		at = FindBubblewrap()
	}
	if _, err := os.Stat(at); err != nil {
		return "", fmt.Errorf("the tier %s takes bubblewrap, and there is none at %s: install bubblewrap, or use --tier redirected where the agent allows it", tier, at)
	}
	return at, nil
}

// asOf is who a run runs as. In strict that is the agent's own user, whoever
// launches it.
func asOf(peer *identity.Peer, a *config.Agent, r *Run, tier sandbox.Tier) (who, error) {
	if tier == sandbox.Strict && r.User == "" {
		if a.User == "" {
			return who{}, fmt.Errorf("the tier strict takes a user of the agent's own: set agents.user of %s, or name one with --user as root", a.Name)
		}
		return userNamed(a.User)
	}
	name := r.User
	if name == "" && peer.UID == 0 && tier != sandbox.Strict {
		name = r.Sudoer
	}
	return runAs(peer, name)
}

// boxOf is what a run is to see, and the directory that it begins in.
func boxOf(cfg *config.Config, a *config.Agent, r *Run, peer *identity.Peer, as who, tier sandbox.Tier) (box *sandbox.Box, dir string, err error) {
	if tier == sandbox.Redirected {
		if len(r.Binds) > 0 || len(r.Publish) > 0 {
			return nil, "", errors.New("--bind and --publish are for the tiers workspace and strict: redirected has the host's files and ports")
		}
		return nil, r.Dir, nil
	}
	b := &sandbox.Box{Stage: RunDir, Run: as.credential(), Home: as.Home, Hidden: hiddenFolders}
	if tier == sandbox.Strict && len(r.Binds) > 0 {
		return nil, "", errors.New("in the tier strict the configuration says what a run sees: agents.mounts")
	}
	for _, m := range a.Mounts {
		bind := sandbox.Bind{Path: m.Path, Write: m.Mode == "rw", Hooks: r.AllowHooks}
		if below, ok := strings.CutPrefix(m.Path, "~/"); ok {
			bind.Path, bind.By = filepath.Join(as.Home, below), &b.Run
		}
		if tier == sandbox.Strict && peer.UID != 0 {
			bind.Swap = &sandbox.Swap{UID: peer.UID, GID: peer.GID, RunUID: as.UID, RunGID: as.GID}
		}
		b.Binds = append(b.Binds, bind)
	}
	if tier == sandbox.Strict {
		if dir = b.Home; covered(r.Dir, b.Binds) {
			dir = r.Dir
		}
		return b, dir, nil
	}
	dir, err = workspace(cfg, r, b)
	return b, dir, err
}

// workspace adds what the caller names, and the directory that the caller is in,
// and says which one the run begins in.
func workspace(cfg *config.Config, r *Run, b *sandbox.Box) (dir string, err error) {
	for _, text := range r.Binds {
		path, write := text, true
		if before, ok := strings.CutSuffix(text, ":ro"); ok {
			path, write = before, false
		} else if before, ok := strings.CutSuffix(text, ":rw"); ok {
			path = before
		}
		b.Binds = append(b.Binds, sandbox.Bind{Path: path, Write: write, By: &b.Run, Hooks: r.AllowHooks})
	}
	private := []string{cfg.StateDir, filepath.Dir(cfg.Control.Socket), filepath.Dir(cfg.Guard.Socket), cfg.Secrets.File.Identity}
	dir = r.Dir
	if !covered(dir, b.Binds) {
		err := sandbox.Bindable(dir, b.Home, private)
		switch {
		case err == nil:
			b.Binds = append(b.Binds, sandbox.Bind{Path: dir, Write: true, By: &b.Run, Hooks: r.AllowHooks})
		case len(r.Binds) > 0:
			dir = b.Home // there is something else to work on
		default:
			return "", err
		}
	}
	if len(b.Binds) > maxBinds {
		return "", fmt.Errorf("a run sees at most %d paths", maxBinds)
	}
	seen := map[string]bool{}
	for _, bind := range b.Binds {
		if seen[bind.Path] {
			return "", fmt.Errorf("%s is bound twice: by --bind, or in agents.mounts", bind.Path)
		}
		seen[bind.Path] = true
		if bind.By == nil {
			continue // the configuration's word
		}
		if err := sandbox.Bindable(bind.Path, b.Home, private); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// covered says whether a directory is in one that is bound.
func covered(dir string, binds []sandbox.Bind) bool {
	for _, b := range binds {
		if sandbox.Inside(dir, b.Path) {
			return true
		}
	}
	return false
}

func (w who) credential() sandbox.Credential {
	return sandbox.Credential{UID: w.UID, GID: w.GID, Groups: w.Groups}
}
