package main

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/identity"
	registry "github.com/postern/postern/internal/run"
	"github.com/postern/postern/internal/secret"
)

const (
	// sweepInterval is how often it is looked whether runs are still there. The
	// guard tells of their ends; this is for those that it did not see.
	sweepInterval = 10 * time.Second
	// renewBefore is how long before its end a login is renewed.
	renewBefore = 5 * time.Minute
	// runsFile is where, in the state directory, runs are remembered.
	runsFile = "runs.json"
	// maxTokenFile bounds a file with a token.
	maxTokenFile = 16 << 10
)

// runs knows for whom the agents of this host run.
type runs struct {
	*registry.Registry
	daemon *daemon
	mount  string // of cgroup v2

	mu    sync.Mutex
	files map[string]*tokenFile // by agent
}

// openPeople opens what is known of who runs are for.
func (d *daemon) openPeople(cfg *config.Config, mount string) error {
	known, err := registry.Open(filepath.Join(cfg.StateDir, runsFile), time.Now)
	if err != nil {
		return err
	}
	d.runs = &runs{Registry: known, daemon: d, mount: mount, files: map[string]*tokenFile{}}
	d.people = &people{daemon: d}
	provider, err := providerOf(cfg, d)
	if err != nil {
		return err
	}
	d.people.use(provider)
	return nil
}

// announced answers the guard, which waits with a run until it is known for whom
// it is. With a run for nobody it does not wait.
func (r *runs) announced(ctx context.Context, l *guard.Launch) {
	log := r.daemon.log.With("run", l.Run, "agent", l.Agent, "uid", l.UID)
	run := registry.Run{Name: l.Run, Agent: l.Agent, Cgroup: l.Cgroup, CgroupID: l.CgroupID, UID: l.UID}
	if l.Ticket == "" {
		if err := r.Note(run); err != nil {
			log.Error("remember who launched a run", "error", err)
		}
		return
	}
	got, err := r.Bind(l.Ticket, run)
	bound := guard.Bound{Run: l.Run}
	if err != nil {
		bound.Error = err.Error()
		log.Warn("a run is refused", "error", err)
	} else {
		log.Info("a run begins", "for", got.Identity.String(), "narrowed", got.Narrowed)
	}
	ask, cancel := context.WithTimeout(ctx, guardTimeout)
	defer cancel()
	if err := r.daemon.guard.Bound(ask, bound); err != nil {
		log.Error("answer the guard", "error", err)
	}
}

// attend renews logins, and looks for runs that have ended, until ctx ends.
func (r *runs) attend(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		r.sweep()
		r.renew(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sweep forgets the runs whose cgroup is gone, or has become another.
func (r *runs) sweep() {
	ended, err := r.Sweep(func(g registry.Run) bool { return !r.there(g.Cgroup, g.CgroupID) })
	if err != nil {
		r.daemon.log.Error("remember which runs there are", "error", err)
	}
	for _, g := range ended {
		r.daemon.log.Info("a run ended", "run", g.Name, "agent", g.Agent, "for", g.Identity.String())
	}
	r.daemon.leases.Sweep(r.there)
}

// there says whether a cgroup is, and is still the same. One that cannot be
// looked at is there: to forget a run is to forget what it was narrowed to.
func (r *runs) there(cgroup string, id uint64) bool {
	now, err := identity.CgroupID(filepath.Join(r.mount, cgroup))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	return now == id
}

// ended is told by the guard of a run of which nothing is left.
func (r *runs) ended(name string) {
	r.daemon.leases.End(name)
	r.sweep()
}

// renew gives runs that are for who has logged in what the issuer says of them
// now.
func (r *runs) renew(ctx context.Context) {
	for _, g := range r.All() {
		if !g.Login || g.Identity == nil || time.Until(g.Identity.Expires) > renewBefore {
			continue
		}
		who, err := r.daemon.people.login(ctx, g.UID, g.Identity.Issuer)
		if err == nil && !who.Expires.After(g.Identity.Expires) {
			continue // it is not newer
		}
		if err == nil {
			err = r.Renew(g.Name, who)
		}
		if err != nil && ctx.Err() == nil {
			r.daemon.log.Warn("the login of a run cannot be renewed", "run", g.Name, "for", g.Identity.String(), "expires", g.Identity.Expires, "error", err)
		}
	}
}

// perAgent counts runs.
func (r *runs) perAgent() map[string]int {
	out := map[string]int{}
	for _, g := range r.All() {
		out[g.Agent]++
	}
	return out
}

// tell adds to a flow for whom it is: in a run, whom that was announced for, and
// who launched it; outside, whom the configuration says of its agent.
func (r *runs) tell(ctx context.Context, f *engine.Flow) {
	if f.Run == "" {
		f.Identity = r.service(ctx, f.Agent)
		return
	}
	// A run that nobody was named for is for nobody, whatever services are.
	if g, ok := r.Of(f.Run); ok && g.Agent == f.Agent {
		f.Identity, f.Only, f.Launcher = r.named(g.Identity), g.Only, g.UID
	}
}

// service is whom an agent's processes outside of runs are for.
func (r *runs) service(ctx context.Context, agent string) *engine.Identity {
	cfg := r.daemon.config()
	i := slices.IndexFunc(cfg.Agents, func(a config.Agent) bool { return a.Name == agent })
	if i < 0 {
		return nil
	}
	switch a := &cfg.Agents[i].Identity; {
	case a.Static != nil:
		s := a.Static
		return r.named(&engine.Identity{Issuer: engine.Static, Subject: s.Subject, Name: s.Name, Owner: s.Owner, Groups: s.Groups})
	case a.TokenFile != "":
		return r.named(r.fromFile(ctx, agent, a.TokenFile))
	}
	return nil
}

// named gives an identity the roles that the configuration in force has for it.
func (r *runs) named(i *engine.Identity) *engine.Identity {
	if i == nil {
		return nil
	}
	out := *i
	out.Roles = rolesOf(r.daemon.config(), i)
	return &out
}

func rolesOf(cfg *config.Config, i *engine.Identity) (roles []string) {
	for _, role := range cfg.Identity.Roles {
		if role.Issuer != "" && role.Issuer != i.Issuer {
			continue
		}
		in := slices.ContainsFunc(role.Groups, func(g string) bool { return slices.Contains(i.Groups, g) })
		if in || slices.Contains(role.Subjects, i.Subject) {
			roles = append(roles, role.Name)
		}
	}
	return roles
}

// tokenFile is the token of a service, which somebody else renews.
type tokenFile struct {
	content secret.Secret
	who     *engine.Identity
	err     error
	at      time.Time
}

// tokenFileAge is how long a file that was refused is not looked at again, so
// that an agent's connections do not become questions to its issuer.
const tokenFileAge = 10 * time.Second

var errTokenFile = errors.New("it is not a file with a token")

// fromFile is who the token in a file is of; nil when it cannot be told, which
// is on record in the log once.
func (r *runs) fromFile(ctx context.Context, agent, path string) *engine.Identity {
	content, err := readToken(path)
	r.mu.Lock()
	before := r.files[agent]
	r.mu.Unlock()
	if before != nil && err == nil && before.content.Equal(content.Reveal()) && (before.err == nil || time.Since(before.at) < tokenFileAge) {
		return before.who
	}
	now := &tokenFile{content: content, err: err, at: time.Now()}
	if err == nil {
		now.who, now.err = r.daemon.people.verify(ctx, content)
	}
	if now.err != nil && (before == nil || before.err == nil || before.err.Error() != now.err.Error()) {
		r.daemon.log.Warn("the token of an agent does not count", "agent", agent, "file", path, "error", now.err)
	}
	if now.err != nil && before != nil && before.who != nil {
		now.who = before.who // it lasts until it expires
	}
	r.mu.Lock()
	r.files[agent] = now
	r.mu.Unlock()
	return now.who
}
