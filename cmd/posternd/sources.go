package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/metrics"
	"github.com/postern/postern/internal/secret/arena"
	"github.com/postern/postern/internal/secret/lease"
	"github.com/postern/postern/internal/secret/source"
	"github.com/postern/postern/internal/secret/source/aws"
	"github.com/postern/postern/internal/secret/source/azure"
	"github.com/postern/postern/internal/secret/source/env"
	"github.com/postern/postern/internal/secret/source/exec"
	"github.com/postern/postern/internal/secret/source/file"
	"github.com/postern/postern/internal/secret/source/gcp"
	"github.com/postern/postern/internal/secret/source/systemd"
	"github.com/postern/postern/internal/secret/source/vault"
	pkgcontrol "github.com/postern/postern/pkg/control"
)

// arenaSize is room for a thousand secrets; what does not fit is on the heap, and
// the log says so.
const arenaSize = 256 << 10

// openSecrets opens where secrets are kept in memory, and what was lent out.
func (d *daemon) openSecrets(cfg *config.Config) (err error) {
	kept, err := openArena()
	if err != nil {
		return err
	}
	kind, why := kept.Kind()
	d.log.Info("secrets in memory", "kept", kind.String(), "why", why)
	d.memory = kept
	d.secrets = source.NewSet(source.SetOptions{Arena: kept, Observer: source.Observer{
		Fetched: func(name string, took time.Duration, err error) { d.metrics.Fetched(name, took, err) },
		Rotated: func(name string, ref source.Ref) {
			d.metrics.Rotated(name)
			d.log.Info("a secret was rotated; new sessions use the new one", "source", name, "path", ref.Path)
		},
		StaleUsed: func(name string, ref source.Ref, err error) {
			d.metrics.StaleUsed(name)
			d.log.Warn("a secret source does not answer; the last known value is used", "source", name, "path", ref.Path, "error", err)
		},
		Exposed: func(name string, ref source.Ref, err error) {
			d.log.Warn("a secret is on the heap", "source", name, "path", ref.Path, "error", err)
		},
	}})
	d.leases, err = lease.Open(lease.Options{
		Path: filepath.Join(cfg.StateDir, leasesFile), Now: time.Now, Log: d.log, Issuer: func(name string) (source.Issuer, error) { return d.builder.issuer(name) },
		Changed: func(name, what string) { d.metrics.Lease(name, what) },
	})
	return err
}

// memoryCheck says how secrets that are kept lie in memory, and why not better.
func (d *daemon) memoryCheck() pkgcontrol.Check {
	kind, why := d.memory.Kind()
	c := pkgcontrol.Check{Name: "secrets in memory", OK: kind == arena.Hidden, Detail: kind.String()}
	if why != nil {
		c.Detail += ": " + why.Error()
	}
	switch kind {
	case arena.Locked:
		c.Help = "memfd_secret takes Linux 5.14, and before 6.5 secretmem.enable=1 on the kernel's command line"
	case arena.Undumped:
		c.Help = "raise LimitMEMLOCK= of posternd.service"
	}
	return c
}

// openArena takes less where the memory that may be locked does not suffice.
func openArena() (*arena.Arena, error) {
	a, err := arena.New(arenaSize)
	if err != nil {
		return nil, err
	}
	if kind, _ := a.Kind(); kind != arena.Undumped {
		return a, nil
	}
	small, err := arena.New(arena.DefaultSize)
	if err != nil {
		return a, nil //nolint:nilerr // the larger one is there
	}
	if kind, _ := small.Kind(); kind == arena.Undumped {
		return a, small.Close()
	}
	return small, a.Close()
}

// addSources makes the sources of a configuration those that are asked.
func (d *daemon) addSources(cfg *config.Config) error {
	made, err := sourcesOf(cfg, filepath.Dir(d.path), d.log, d.madeSources())
	if err != nil {
		return err
	}
	d.cfgMu.Lock()
	d.sources = made
	d.cfgMu.Unlock()
	for name, m := range made {
		o := source.Options{}
		if at := slices.IndexFunc(cfg.Secrets.Sources, func(c config.Source) bool { return c.Name == name }); at >= 0 {
			o = source.Options{Fresh: cfg.Secrets.Sources[at].Refresh, Stale: cfg.Secrets.Sources[at].Stale}
		}
		d.secrets.Add(name, m.source, o)
		d.metrics.Source(name)
	}
	return nil
}

// madeSources are those of the configuration in force.
func (d *daemon) madeSources() map[string]madeSource {
	d.cfgMu.Lock()
	defer d.cfgMu.Unlock()
	return d.sources
}

// forgetSecrets wipes what a configuration that is in force does not name.
func (d *daemon) forgetSecrets(cfg *config.Config) {
	refs := cfg.SecretRefs()
	made := d.madeSources()
	d.secrets.Retain(func(name string) bool { _, ok := made[name]; return ok }, func(name string, ref source.Ref) bool {
		return slices.ContainsFunc(refs, func(r *config.SecretRef) bool {
			return r.Source == name && r.Path == ref.Path && r.Key == ref.Key
		})
	})
}

// madeSource is a source, and what it was made of.
type madeSource struct {
	source source.Source
	of     config.Source
}

// sourcesOf makes the sources of a configuration, by name. It asks none. What is
// configured as before is what there was: it has logged in, maybe by what can be
// used once.
func sourcesOf(cfg *config.Config, dir string, log *slog.Logger, before map[string]madeSource) (map[string]madeSource, error) {
	out := map[string]madeSource{
		"file":    {source: file.New(file.Options{Dir: dir, Identity: cfg.Secrets.File.Identity})},
		"systemd": {source: systemd.New(systemd.Options{})},
		"env":     {source: env.New(log)},
	}
	for _, c := range cfg.Secrets.Sources {
		at := c.Pos
		c.Pos, c.Refresh, c.Stale = config.Pos{}, 0, 0
		if b, ok := before[c.Name]; ok && reflect.DeepEqual(b.of, c) {
			out[c.Name] = b
			continue
		}
		made, err := sourceOf(&c, dir, log)
		if err != nil {
			return nil, fmt.Errorf("%s: source %s: %w", at, c.Name, err)
		}
		out[c.Name] = madeSource{made, c}
	}
	return out, nil
}

func sourceOf(c *config.Source, dir string, log *slog.Logger) (source.Source, error) {
	switch {
	case c.Vault != nil:
		return vaultSource(c.Vault, dir, log)
	case c.Exec != nil:
		return exec.New(exec.Options{Command: c.Exec.Command, Timeout: c.Exec.Timeout, Env: c.Exec.Env})
	case c.AWS != nil:
		return awsSource(c.AWS)
	case c.GCP != nil:
		return gcpSource(c.GCP)
	case c.Azure != nil:
		return azureSource(c.Azure)
	}
	return nil, errors.New("it is of no kind")
}

func vaultSource(c *config.VaultSource, dir string, log *slog.Logger) (source.Source, error) {
	o := vault.Options{Address: c.Address, Namespace: c.Namespace, CA: c.CA, ServerName: c.ServerName, Timeout: c.Timeout, Dir: dir, Log: log}
	if strings.HasPrefix(c.Address, "/") {
		o.Address = "unix://" + c.Address
	}
	switch a := c.Auth; a.Method {
	case "token":
		o.Auth = &vault.TokenFile{Path: a.TokenFile}
	case "approle":
		o.Auth = &vault.AppRole{Mount: a.Mount, RoleID: a.RoleID, SecretID: a.SecretIDFile, Wrapped: a.Wrapped}
	case "jwt":
		o.Auth = vault.JWT{Mount: a.Mount, Role: a.Role, Path: a.TokenFile}
	case "kubernetes":
		o.Auth = vault.Kubernetes{Mount: a.Mount, Role: a.Role, Path: a.TokenFile}
	case "cert":
		o.Auth = vault.Cert{Mount: a.Mount, Role: a.Role, File: a.Cert, Key: a.Key}
	case "agent":
		o.Auth = vault.Agent{}
	}
	return vault.New(o)
}

func awsSource(a *config.AWSSource) (source.Source, error) {
	roots, err := pool(a.CA)
	if err != nil {
		return nil, err
	}
	return aws.New(context.Background(), aws.Options{
		Service: aws.Service(a.Service), Region: a.Region, Profile: a.Profile, Role: a.Role, External: a.ExternalID,
		WebIdentity: a.WebIdentity, Metadata: a.Metadata, Endpoint: a.Endpoint, Roots: roots,
	})
}

func gcpSource(g *config.GCPSource) (source.Source, error) {
	roots, err := pool(g.CA)
	if err != nil {
		return nil, err
	}
	return gcp.New(gcp.Options{Project: g.Project, Credentials: g.Credentials, Metadata: g.Metadata, Endpoint: g.Endpoint, Roots: roots})
}

func azureSource(a *config.AzureSource) (source.Source, error) {
	roots, err := pool(a.CA)
	if err != nil {
		return nil, err
	}
	return azure.New(azure.Options{
		Vault: a.Vault, Tenant: a.Tenant, ClientID: a.ClientID, SecretFile: a.Secret, CertificateFile: a.Certificate, TokenFile: a.Token,
		Managed: a.Managed, Authority: a.Authority, Roots: roots,
	})
}

// shownSecrets is what is known of secrets and leases, and nothing that is one.
func (d *daemon) shownSecrets() pkgcontrol.Secrets {
	out := pkgcontrol.Secrets{Secrets: []pkgcontrol.Secret{}, Leases: []pkgcontrol.Lease{}}
	type key struct{ source, path, key string }
	users := map[key][]string{}
	cfg := d.config()
	for i := range cfg.Targets {
		for _, r := range cfg.Targets[i].SecretRefs() {
			k := key{r.Source, r.Path, r.Key}
			if !slices.Contains(users[k], cfg.Targets[i].Name) {
				users[k] = append(users[k], cfg.Targets[i].Name)
			}
		}
	}
	seen := map[key]bool{}
	for _, v := range d.secrets.Known() {
		k := key{v.Source, v.Ref.Path, v.Ref.Key}
		seen[k] = true
		s := pkgcontrol.Secret{
			Source: v.Source, Path: v.Ref.Path, Key: v.Ref.Key, Targets: users[k], Fetched: v.Fetched, Expires: v.Expires,
			Version: v.Version, Used: v.LastUsed, Stale: v.Stale,
		}
		if v.LastError != nil {
			s.Error = v.LastError.Error()
		}
		out.Secrets = append(out.Secrets, s)
	}
	for k, targets := range users {
		if !seen[k] { // nobody has needed it yet
			out.Secrets = append(out.Secrets, pkgcontrol.Secret{Source: k.source, Path: k.path, Key: k.key, Targets: targets})
		}
	}
	slices.SortStableFunc(out.Secrets, func(a, b pkgcontrol.Secret) int {
		return slices.Compare([]string{a.Source, a.Path, a.Key}, []string{b.Source, b.Path, b.Key})
	})
	for _, e := range d.leases.List() {
		out.Leases = append(out.Leases, pkgcontrol.Lease{
			Source: e.Source, Target: e.Target, For: e.Scope.ID, Began: e.Began, Expires: e.Expires, Ending: e.Ending, Error: e.Error,
		})
	}
	return out
}

// leaseUse counts leases for metrics.
func (d *daemon) leaseUse() map[string]metrics.LeaseUse {
	out := map[string]metrics.LeaseUse{}
	for name, m := range d.madeSources() {
		if _, ok := m.source.(source.Issuer); ok {
			out[name] = metrics.LeaseUse{}
		}
	}
	for _, e := range d.leases.List() {
		u := out[e.Source]
		u.Out++
		switch {
		case e.Ending:
			u.Ending++
		case !e.Expires.IsZero() && (u.Ends.IsZero() || e.Expires.Before(u.Ends)):
			u.Ends = e.Expires
		}
		out[e.Source] = u
	}
	return out
}

var errNoTarget = errors.New("there is no such target")

// refreshSecrets asks the sources anew, of one target or of all.
func (d *daemon) refreshSecrets(ctx context.Context, target string) error {
	if target == "" {
		return d.secrets.Refresh(ctx)
	}
	cfg := d.config()
	at := slices.IndexFunc(cfg.Targets, func(t config.Target) bool { return t.Name == target })
	if at < 0 {
		return errNoTarget
	}
	refs := cfg.Targets[at].SecretRefs()
	return d.secrets.RefreshOnly(ctx, func(name string, ref source.Ref) bool {
		return slices.ContainsFunc(refs, func(r *config.SecretRef) bool {
			return r.Source == name && r.Path == ref.Path && r.Key == ref.Key
		})
	})
}
