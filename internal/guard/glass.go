package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
)

const (
	// MaxGlass is how long the glass may stay broken at once. Who needs more says
	// so again.
	MaxGlass = 4 * time.Hour
	// minReason and maxReason bound what somebody has to write, in bytes.
	minReason, maxReason = 8, 1000
	// glassFile is where it is on record, in a directory of root's beside the
	// daemon's state: neither agents nor the daemon can change it.
	glassFile = "break-glass.jsonl"
)

// Glass asks for agents to be let past the gateway for a while, or no longer.
type Glass struct {
	Agent  string        `json:"agent,omitempty"` // empty: all
	For    time.Duration `json:"for"`             // 0: mend it now
	Reason string        `json:"reason"`
}

// GlassFile is the record of broken glass, for a state directory.
func GlassFile(stateDir string) string { return besideGlass(stateDir, glassFile) }

func besideGlass(stateDir, name string) string { return filepath.Join(stateDir+"-guard", name) }

// glassEntry is one line of it.
type glassEntry struct {
	Time   time.Time  `json:"time"`
	Event  string     `json:"event"` // "broken", "mended"
	Agent  string     `json:"agent"` // "*": all
	Until  *time.Time `json:"until,omitempty"`
	Reason string     `json:"reason,omitempty"`
	UID    uint32     `json:"uid"`
	PID    int        `json:"pid"`
}

// breakGlass is on record before it is done. The kernel ends it by itself,
// whether or not guard and daemon run.
func (s *Server) breakGlass(peer *identity.Peer, g Glass) error {
	if peer.UID != 0 {
		return errors.New("only root may break the glass")
	}
	g.Reason = strings.TrimSpace(g.Reason)
	switch {
	case g.For < 0 || g.For > MaxGlass:
		return fmt.Errorf("the glass can be broken for at most %v at once", MaxGlass)
	case g.For == 0:
		return s.mendGlass(peer, g)
	case len(g.Reason) < minReason || len(g.Reason) > maxReason:
		return fmt.Errorf("a reason has %d to %d characters", minReason, maxReason)
	}
	cfg, err := s.config()
	if err != nil {
		return err
	}
	cgroup, name, err := s.glassOf(cfg, g.Agent)
	if err != nil {
		return err
	}
	now := time.Now()
	until := now.Add(g.For)
	entry := glassEntry{Time: now, Event: "broken", Agent: name, Until: &until, Reason: g.Reason, UID: peer.UID, PID: peer.PID}
	if err := note(GlassFile(cfg.StateDir), entry); err != nil {
		return fmt.Errorf("it cannot be put on record, so it is not done: %w", err)
	}
	if err := s.kernel.BreakGlass(cgroup, g.For); err != nil {
		return err
	}
	s.Log.Error("THE GLASS IS BROKEN", "agent", name, "for", g.For, "reason", g.Reason, "by_pid", peer.PID)
	return nil
}

// glassOf is the policy cgroup of an agent, or everybody's.
func (s *Server) glassOf(cfg *config.Config, agent string) (cgroup uint64, name string, err error) {
	if agent == "" {
		return redirect.Everybody, "*", nil
	}
	a, err := agentOf(cfg, agent)
	if err != nil {
		return 0, "", err
	}
	cgroup, err = identity.CgroupID(filepath.Join(s.mount, a.Cgroup))
	return cgroup, a.Name, err
}

// mendGlass is done before it is on record, and whatever the configuration is
// like: nothing is to keep agents past the gateway.
func (s *Server) mendGlass(peer *identity.Peer, g Glass) error {
	cfg := config.Legible(s.Config)
	cgroup, name, err := s.glassOf(cfg, g.Agent)
	if err != nil {
		return fmt.Errorf("%w; without an agent it is mended for all", err)
	}
	if err := s.kernel.BreakGlass(cgroup, 0); err != nil {
		return err
	}
	s.Log.Error("THE GLASS IS MENDED", "agent", name, "by_pid", peer.PID)
	entry := glassEntry{Time: time.Now(), Event: "mended", Agent: name, Reason: g.Reason, UID: peer.UID, PID: peer.PID}
	if err := note(GlassFile(cfg.StateDir), entry); err != nil {
		return fmt.Errorf("it is mended, which cannot be put on record: %w", err)
	}
	broken, err := s.kernel.Broken()
	if err != nil {
		return err
	}
	if until, all := broken[redirect.Everybody]; all {
		return fmt.Errorf("it is mended for %s alone, and broken for all agents until %s: end that without an agent", name, until.Format(time.DateTime))
	}
	return nil
}

// note appends a line and waits for the disk.
func note(path string, entry glassEntry) error {
	line, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

// glass is for whom the glass is broken, by name, "*" for all, and until when.
func (s *Server) glass() (map[string]time.Time, error) {
	broken, err := s.kernel.Broken()
	if err != nil || len(broken) == 0 {
		return nil, err
	}
	names := map[uint64]string{redirect.Everybody: "*"}
	if cfg, err := s.config(); err == nil {
		for _, a := range cfg.Agents {
			if id, err := identity.CgroupID(filepath.Join(s.mount, a.Cgroup)); err == nil {
				names[id] = a.Name
			}
		}
	}
	out := map[string]time.Time{}
	for cgroup, until := range broken {
		name, ok := names[cgroup]
		if !ok {
			name = fmt.Sprintf("cgroup %d", cgroup)
		}
		out[name] = until
	}
	return out, nil
}
