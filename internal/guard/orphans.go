package guard

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// orphans are runs of a guard that was killed: by their cgroups, which are anybody's to
// remove when nobody is in them any more.
func (s *Server) orphans() (dirs []string) {
	mine := map[string]bool{}
	for _, g := range s.live.all() {
		mine[g.dir] = true
	}
	err := filepath.WalkDir(s.Redirect.Cgroup, func(dir string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !e.IsDir() {
			return nil
		}
		if err == nil && isRunName(e.Name()) {
			if !mine[dir] {
				dirs = append(dirs, dir)
			}
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		s.Log.Error("look for runs of a guard before", "error", err)
	}
	return dirs
}

// buryOrphans removes their cgroups as they end, and tells the daemon, until none is
// left or ctx ends.
func (s *Server) buryOrphans(ctx context.Context, dirs []string) {
	if len(dirs) > 0 {
		s.Log.Info("runs of a guard that was killed go on without one", "runs", len(dirs))
	}
	tick := time.NewTicker(tidyInterval)
	defer tick.Stop()
	for len(dirs) > 0 && ctx.Err() == nil {
		var left []string
		for _, dir := range dirs {
			if !populated(dir) {
				if err := removeCgroup(dir); err != nil {
					s.Log.Error("end a run", "run", filepath.Base(dir), "error", err)
				}
				s.doors.tellEnded(filepath.Base(dir))
				continue
			}
			left = append(left, dir)
		}
		dirs = left
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// populated says whether somebody is in a cgroup or below it, or may be.
func populated(dir string) bool {
	events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV)
	}
	return !strings.Contains(string(events), "populated 0")
}
