package guard

import (
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/sandbox"
)

// refused wants an error that says this, or none for nothing.
func refused(t *testing.T, what string, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
}

// TestTierOf: what is not asked for follows from how a run is launched; nothing
// goes below what the configuration says.
func TestTierOf(t *testing.T) {
	own, none := config.Agent{Name: "a", Tier: "redirected", User: "svc"}, config.Agent{Name: "a", Tier: "redirected"}
	strict, workspace := config.Agent{Name: "a", Tier: "strict", User: "svc"}, config.Agent{Name: "a", Tier: "workspace"}
	for name, c := range map[string]struct {
		agent config.Agent
		run   Run
		want  sandbox.Tier
		err   string
	}{
		"on a terminal":             {own, Run{Terminal: true}, sandbox.Workspace, ""},
		"a service":                 {own, Run{}, sandbox.Strict, ""},
		"no user":                   {none, Run{}, sandbox.Workspace, ""},
		"root named one":            {none, Run{User: "svc"}, sandbox.Strict, ""},
		"sudo":                      {none, Run{Sudoer: "ann"}, sandbox.Workspace, ""},
		"asked for":                 {own, Run{Tier: "redirected"}, sandbox.Redirected, ""},
		"more than the least":       {workspace, Run{Tier: "strict"}, sandbox.Strict, ""},
		"the least, on a terminal":  {strict, Run{Terminal: true}, sandbox.Strict, ""},
		"less than the least":       {workspace, Run{Tier: "redirected"}, "", "agent a runs in the tier workspace at least"},
		"less than strict":          {strict, Run{Tier: "workspace", Terminal: true}, "", "agent a runs in the tier strict at least"},
		"a word that is no tier":    {none, Run{Tier: "open"}, "", `"open" is no tier: redirected, workspace or strict`},
		"a word in another writing": {none, Run{Tier: "Strict"}, "", "is no tier"},
	} {
		got, err := tierOf(&c.agent, &c.run)
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		refused(t, name, err, c.err)
	}
}

// TestAsOf: who a run is.
func TestAsOf(t *testing.T) {
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _, err := ids(nobody)
	if err != nil {
		t.Fatal(err)
	}
	root, ann := identity.Peer{}, identity.Peer{UID: 4242, GID: 4242, Groups: []uint32{50}}
	agent, own := config.Agent{Name: "a"}, config.Agent{Name: "a", User: "nobody"}
	for name, c := range map[string]struct {
		peer  identity.Peer
		agent config.Agent
		run   Run
		tier  sandbox.Tier
		uid   uint32
		err   string
	}{
		"themselves":             {ann, own, Run{}, sandbox.Workspace, 4242, ""},
		"strict":                 {ann, own, Run{}, sandbox.Strict, uid, ""},
		"strict by root":         {root, own, Run{Sudoer: "daemon"}, sandbox.Strict, uid, ""},
		"strict, no user":        {ann, agent, Run{}, sandbox.Strict, 0, "set agents.user of a"},
		"strict by sudo":         {root, agent, Run{Sudoer: "nobody"}, sandbox.Strict, 0, "set agents.user of a"},
		"sudo":                   {root, agent, Run{Sudoer: "nobody"}, sandbox.Workspace, uid, ""},
		"root names one":         {root, agent, Run{User: "nobody", Sudoer: "daemon"}, sandbox.Workspace, uid, ""},
		"root":                   {root, agent, Run{}, sandbox.Workspace, 0, "does not run as root"},
		"root by name":           {root, agent, Run{User: "root"}, sandbox.Strict, 0, "does not run as root"},
		"root by configuration":  {ann, config.Agent{Name: "a", User: "root"}, Run{}, sandbox.Strict, 0, "does not run as root"},
		"naming one":             {ann, own, Run{User: "nobody"}, sandbox.Workspace, 0, "only root may name the user"},
		"naming one, strict":     {ann, own, Run{User: "daemon"}, sandbox.Strict, 0, "only root may name the user"},
		"claiming to be by sudo": {ann, own, Run{Sudoer: "daemon"}, sandbox.Workspace, 4242, ""},
	} {
		got, err := asOf(&c.peer, &c.agent, &c.run, c.tier)
		if got.UID != c.uid {
			t.Errorf("%s: uid %d, want %d", name, got.UID, c.uid)
		}
		refused(t, name, err, c.err)
	}
}

// TestBoxOf: what a run sees, by whose word.
func TestBoxOf(t *testing.T) {
	cfg := &config.Config{
		StateDir: "/srv/postern/state", Control: config.Socket{Socket: "/srv/postern/run/control.sock"}, Guard: config.Socket{Socket: "/srv/postern/run/guard.sock"},
		Secrets: config.Secrets{File: config.FileSource{Identity: "/srv/keys/identity.txt"}},
	}
	agent := &config.Agent{Name: "a", Mounts: []config.Mount{{Path: "/data", Mode: "ro"}, {Path: "~/.cache", Mode: "rw"}}}
	ann, as := &identity.Peer{UID: 1000, GID: 1000}, who{UID: 1000, GID: 1000, Home: "/home/ann"}
	for name, c := range map[string]struct {
		tier sandbox.Tier
		run  Run
		see  string // path and mode of what is seen; ! is root's word
		dir  string
		err  string
	}{
		"a project":           {sandbox.Workspace, Run{Dir: "/home/ann/p"}, "!/data:ro /home/ann/.cache:rw /home/ann/p:rw", "/home/ann/p", ""},
		"more":                {sandbox.Workspace, Run{Dir: "/home/ann/p", Binds: []string{"/x:ro", "/y:z"}}, "!/data:ro /home/ann/.cache:rw /x:ro /y:z:rw /home/ann/p:rw", "/home/ann/p", ""},
		"in what is bound":    {sandbox.Workspace, Run{Dir: "/x/sub", Binds: []string{"/x:rw"}}, "!/data:ro /home/ann/.cache:rw /x:rw", "/x/sub", ""},
		"the project, ro":     {sandbox.Workspace, Run{Dir: "/x", Binds: []string{"/x:ro"}}, "!/data:ro /home/ann/.cache:rw /x:ro", "/x", ""},
		"in the mount":        {sandbox.Workspace, Run{Dir: "/data/sub"}, "!/data:ro /home/ann/.cache:rw", "/data/sub", ""},
		"at home, with more":  {sandbox.Workspace, Run{Dir: "/home/ann", Binds: []string{"/x"}}, "!/data:ro /home/ann/.cache:rw /x:rw", "/home/ann", ""},
		"in the root of all":  {sandbox.Workspace, Run{Dir: "/", Binds: []string{"/x"}}, "!/data:ro /home/ann/.cache:rw /x:rw", "/home/ann", ""},
		"strict":              {sandbox.Strict, Run{Dir: "/home/ann/p"}, "!/data:ro /home/ann/.cache:rw", "/home/ann", ""},
		"strict in the mount": {sandbox.Strict, Run{Dir: "/data/sub"}, "!/data:ro /home/ann/.cache:rw", "/data/sub", ""},
		"redirected":          {sandbox.Redirected, Run{Dir: "/anywhere"}, "", "/anywhere", ""},

		"at home":              {sandbox.Workspace, Run{Dir: "/home/ann"}, "", "", "/home/ann is or holds the home directory, which stays outside: go to a project, or name one with --bind"},
		"above home":           {sandbox.Workspace, Run{Dir: "/home"}, "", "", "is or holds the home directory"},
		"all":                  {sandbox.Workspace, Run{Dir: "/"}, "", "", "the whole file system cannot be bound"},
		"the system":           {sandbox.Workspace, Run{Dir: "/usr/local/src"}, "", "", "belongs to the system"},
		"home by bind":         {sandbox.Workspace, Run{Dir: "/p", Binds: []string{"/home/ann:ro"}}, "", "", "is or holds the home directory"},
		"sockets":              {sandbox.Workspace, Run{Dir: "/p", Binds: []string{"/run/user/1000"}}, "", "", "belongs to the system"},
		"postern's":            {sandbox.Workspace, Run{Dir: "/srv/postern"}, "", "", "has files of Postern's own"},
		"postern's sockets":    {sandbox.Workspace, Run{Dir: "/p", Binds: []string{"/srv/postern/run/x:ro"}}, "", "", "has files of Postern's own"},
		"the identity":         {sandbox.Workspace, Run{Dir: "/p", Binds: []string{"/srv/keys"}}, "", "", "has files of Postern's own"},
		"relative":             {sandbox.Workspace, Run{Dir: "/p", Binds: []string{"x"}}, "", "", "is not an absolute path"},
		"not clean":            {sandbox.Workspace, Run{Dir: "/p", Binds: []string{"/x/../home/ann"}}, "", "", "is not an absolute path"},
		"twice":                {sandbox.Workspace, Run{Dir: "/p", Binds: []string{"/x", "/x:ro"}}, "", "", "/x is bound twice"},
		"a mount by bind":      {sandbox.Workspace, Run{Dir: "/p", Binds: []string{"/data:rw"}}, "", "", "/data is bound twice"},
		"too many":             {sandbox.Workspace, Run{Dir: "/p", Binds: slices.Repeat([]string{"/x"}, 64)}, "", "", "at most 64"},
		"strict by bind":       {sandbox.Strict, Run{Dir: "/p", Binds: []string{"/x"}}, "", "", "the configuration says what a run sees: agents.mounts"},
		"redirected by bind":   {sandbox.Redirected, Run{Dir: "/p", Binds: []string{"/x"}}, "", "", "--bind and --publish are for the tiers workspace and strict"},
		"redirected published": {sandbox.Redirected, Run{Dir: "/p", Publish: []int{3000}}, "", "", "--bind and --publish are for the tiers workspace and strict"},
	} {
		box, dir, err := boxOf(cfg, agent, &c.run, ann, as, c.tier)
		refused(t, name, err, c.err)
		if err != nil {
			continue
		}
		var see []string
		if box != nil {
			for _, b := range box.Binds {
				text := b.Path + map[bool]string{true: ":rw", false: ":ro"}[b.Write]
				if b.By == nil {
					text = "!" + text
				} else if b.By.UID != as.UID {
					t.Errorf("%s: %s is opened as %d", name, b.Path, b.By.UID)
				}
				if (b.Swap != nil) != (c.tier == sandbox.Strict) {
					t.Errorf("%s: %s: swap %v", name, b.Path, b.Swap)
				}
				see = append(see, text)
			}
		}
		if got := strings.Join(see, " "); got != c.see || dir != c.dir {
			t.Errorf("%s: sees %q in %s, want %q in %s", name, got, dir, c.see, c.dir)
		}
	}
}

// TestBubblewrapMissing: there is no sandbox without it, and no run either.
func TestBubblewrapMissing(t *testing.T) {
	s := &Server{Options: Options{Bubblewrap: filepath.Join(t.TempDir(), "bwrap")}}
	_, err := s.bubblewrap(sandbox.Workspace)
	refused(t, "missing", err, "install bubblewrap, or use --tier redirected where the agent allows it")
	if err := os.WriteFile(s.Bubblewrap, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if at, err := s.bubblewrap(sandbox.Strict); err != nil || at != s.Bubblewrap {
		t.Errorf("%s, %v", at, err)
	}
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	if err := os.WriteFile(filepath.Join(bin, "bwrap"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if at, err := (&Server{}).bubblewrap(sandbox.Strict); err != nil || at != filepath.Join(bin, "bwrap") {
		t.Errorf("on the PATH: %s, %v", at, err)
	}
}

// TestPublishRefuses: only what is listed, and only what is free.
func TestPublishRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	s, agent := &Server{}, &config.Agent{Name: "a", Publish: []int{port}}
	for name, c := range map[string]struct {
		ports []int
		want  string
	}{
		"taken":      {[]int{port}, "address already in use"},
		"not listed": {[]int{port + 1}, "is not among agents.publish of a"},
		"too many":   {slices.Repeat([]int{port}, maxPorts+1), "at most 16 ports"},
	} {
		_, err := s.publish(agent, &Run{Publish: c.ports})
		refused(t, name, err, c.want)
	}
	taken.Close()
	p, err := s.publish(agent, &Run{Publish: []int{port}})
	if err != nil {
		t.Fatal(err)
	}
	p.close()
	if l, err := net.Listen("tcp", taken.Addr().String()); err != nil {
		t.Errorf("a port stays taken: %v", err)
	} else {
		l.Close()
	}
}

// TestPlaceholdersAreShared: the last run that uses one removes it.
func TestPlaceholdersAreShared(t *testing.T) {
	dir := t.TempDir()
	made := sandbox.Placeholder{Root: dir, Rel: ".idea", Folder: true}
	if err := os.Mkdir(made.Path(), 0o755); err != nil {
		t.Fatal(err)
	}
	theirs := sandbox.Placeholder{Root: dir, Rel: ".vscode", Folder: true}
	if err := os.Mkdir(theirs.Path(), 0o755); err != nil {
		t.Fatal(err)
	}
	var p placeholders
	// The one that did not make it is told of first.
	second := p.take(sandbox.Result{Held: []sandbox.Placeholder{made, theirs}})
	first := p.take(sandbox.Result{Made: []sandbox.Placeholder{made}, Held: []sandbox.Placeholder{theirs}})
	if errs := p.leave(first); len(errs) > 0 {
		t.Error(errs)
	}
	if _, err := os.Stat(made.Path()); err != nil {
		t.Errorf("removed under another run: %v", err)
	}
	if errs := p.leave(second); len(errs) > 0 {
		t.Error(errs)
	}
	if _, err := os.Stat(made.Path()); err == nil {
		t.Error("it stays")
	}
	if _, err := os.Stat(theirs.Path()); err != nil {
		t.Errorf("what was there before is gone: %v", err)
	}
}

// TestEnvironmentOfASandbox: what names things outside does not come along.
func TestEnvironmentOfASandbox(t *testing.T) {
	env := environment([]string{"HOME=/root", "SSH_AUTH_SOCK=/run/x", "TMPDIR=/tmp/ann", "DISPLAY=:0", "KEEP=1"}, who{UID: 1000, Home: "/home/ann"}, true)
	text := "\n" + strings.Join(env, "\n") + "\n"
	for _, want := range []string{"KEEP=1", "HOME=/home/ann"} {
		if strings.Count(text, "\n"+want+"\n") != 1 {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
	for _, unwanted := range []string{"SSH_AUTH_SOCK", "TMPDIR", "DISPLAY", "HOME=/root"} {
		if strings.Contains(text, unwanted) {
			t.Errorf("%s is in\n%s", unwanted, text)
		}
	}
}
