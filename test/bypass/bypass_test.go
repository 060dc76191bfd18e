package bypass

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	attempts "github.com/postern/postern/internal/bypass"
	"github.com/postern/postern/internal/config"
)

// cases are the tiers that runs can be launched in, and the agents to be there.
var cases = []struct {
	agent string
	tier  attempts.Tier
}{
	{"planner", attempts.Redirected},
	{"sealed", attempts.Redirected}, // with agents.unix
	{"planner", attempts.Workspace},
	{"planner", attempts.Strict},
}

// listTimeout bounds one tier's list, which takes some five seconds.
const listTimeout = 5 * time.Minute

// TestAttempts makes the whole list in every tier. What must be stopped is, by
// what should, and nothing of it arrives outside.
func TestAttempts(t *testing.T) {
	needRoot(t)
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s_%s", c.tier, c.agent), func(t *testing.T) {
			theWorld.allowed(t, c.agent, c.tier)
			ctx, cancel := context.WithTimeout(t.Context(), listTimeout)
			defer cancel()
			judge, err := theWorld.judged.Judge(ctx, theWorld.agent(t, c.agent), c.tier, nil)
			if err != nil {
				t.Fatal(err)
			}
			list := attempts.All()
			verdicts, err := judge.Run(ctx, list)
			if err != nil {
				t.Error(err)
			}
			for _, v := range verdicts {
				t.Run(fmt.Sprintf("%s/%s", v.Attempt, v.Family), func(t *testing.T) { check(t, list, v) })
			}
			theWorld.allowed(t, c.agent, c.tier)
		})
	}
}

func (w *world) agent(t *testing.T, name string) config.Agent {
	t.Helper()
	i := slices.IndexFunc(w.config.Agents, func(a config.Agent) bool { return a.Name == name })
	if i < 0 {
		t.Fatalf("there is no agent %s", name)
	}
	return w.config.Agents[i]
}

func check(t *testing.T, list []attempts.Attempt, v attempts.Verdict) {
	a := list[slices.IndexFunc(list, func(a attempts.Attempt) bool { return a.Name == v.Attempt })]
	what := fmt.Sprintf("%s %s, by %v: %s", v.Tries, v.Result, v.By, v.Detail)
	switch {
	case v.Result == attempts.Failed:
		t.Errorf("%s\n%s", what, strings.Join(v.Frames, "\n"))
	case v.Unexplained:
		t.Errorf("%s; should be stopped by one of %v", what, a.Must)
	case v.Result == attempts.Absent && a.Needs == "":
		t.Errorf("%s; it needs nothing, so that it is there to be tried", what)
	}
	t.Log(what)
}

// allowed: the agent reaches what it may, so that the list does not pass
// because nothing works.
func (w *world) allowed(t *testing.T, agent string, tier attempts.Tier) {
	t.Helper()
	cmd := w.postern.RunIn(tier.String(), agent, nil, "psql", "-X", "-A", "-t", "-c", "SELECT count(*) FROM orders",
		"host=orders-db.internal user=app dbname=orders sslmode=verify-full sslrootcert=/run/postern/root.pem")
	cmd.Dir = w.project
	cmd.Env = append(cmd.Env, "PGPASSWORD="+placeholder)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "20" {
		t.Fatalf("the agent does not reach what it may: %q, %v", out, err)
	}
}
