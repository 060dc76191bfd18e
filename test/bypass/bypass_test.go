package bypass

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	attempts "github.com/postern/postern/internal/bypass"
)

// tiers are those that runs can be launched in.
var tiers = []attempts.Tier{attempts.Redirected, attempts.Workspace, attempts.Strict}

// listTimeout bounds one tier's list, which takes some twenty seconds.
const listTimeout = 5 * time.Minute

// TestAttempts makes the whole list in every tier. What must be stopped is, by
// what should, and nothing of it arrives outside.
func TestAttempts(t *testing.T) {
	needRoot(t)
	for _, tier := range tiers {
		t.Run(tier.String(), func(t *testing.T) {
			theWorld.allowed(t, tier)
			ctx, cancel := context.WithTimeout(t.Context(), listTimeout)
			defer cancel()
			judge, err := theWorld.judged.Judge(ctx, theWorld.config.Agents[0], tier, nil)
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
			theWorld.allowed(t, tier)
		})
	}
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
func (w *world) allowed(t *testing.T, tier attempts.Tier) {
	t.Helper()
	cmd := w.postern.RunIn(tier.String(), "planner", nil, "psql", "-X", "-A", "-t", "-c", "SELECT count(*) FROM orders",
		"host=orders-db.internal user=app dbname=orders sslmode=verify-full sslrootcert=/run/postern/root.pem")
	cmd.Dir = w.project
	cmd.Env = append(cmd.Env, "PGPASSWORD="+placeholder)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "20" {
		t.Fatalf("the agent does not reach what it may: %q, %v", out, err)
	}
}
