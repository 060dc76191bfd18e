package main

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"strings"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
)

// flowOf makes a flow of the kernel's record. What cannot be told to be of a run
// is an error: the run may be narrowed.
func (o *doors) flowOf(r *resident, record redirect.Record) (engine.Flow, error) {
	f := engine.Flow{
		Session: newSession(), Agent: r.agent, CgroupID: record.CgroupID, Netns: record.Netns,
		PID: record.TGID, TID: record.PID, UID: record.UID, GID: record.GID, Comm: record.Comm,
		Started: record.Started, Original: record.Original,
	}
	path, err := o.cgroups.Path(record.CgroupID)
	if err != nil {
		return f, fmt.Errorf("whose a connection is: %w", err)
	}
	f.Cgroup = strings.TrimPrefix(path, o.mount)
	f.Run = runOf(f.Cgroup, r.path)
	o.daemon.runs.tell(o.ctx, &f)
	if f.Run == "" {
		f.Container = o.containers.of(o.ctx, record.CgroupID, f.Cgroup, r.path)
	}
	f.Name, f.Unclear = o.daemon.names.meant(r.agent, record.Original)
	if facts, err := identity.AtAccept(int(record.TGID)); err == nil {
		f.Exe = facts.Exe
	}
	return f, nil
}

// runOf finds the run that a cgroup belongs to, if postern run made it.
func runOf(cgroup, agent string) string {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(cgroup, "/"), agent+"/")
	first, _, _ := strings.Cut(rest, "/")
	if !ok || !strings.HasPrefix(first, guard.RunPrefix) {
		return ""
	}
	return first
}

// agentOf names the agent of a policy cgroup.
func (o *doors) agentOf(cgroup uint64) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	for name, r := range o.residents {
		if r.cgroup.Load() == cgroup {
			return name
		}
	}
	return ""
}

// newSession returns an id of sixteen characters: 80 random bits.
func newSession() string {
	var b [10]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program first
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}
