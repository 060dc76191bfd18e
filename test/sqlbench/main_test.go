package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDecidersAgree: Postern, OPA and Cedar say the same to every request, so
// that they are measured at the same work.
func TestDecidersAgree(t *testing.T) {
	all, err := requests()
	if err != nil {
		t.Fatal(err)
	}
	for _, inner := range []bool{false, true} {
		ds, err := deciders(inner)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range ds {
			for i := range all {
				if allowed, err := d.allows(&all[i]); err != nil || allowed != all[i].allowed {
					t.Errorf("%s, conditions %t, request %d: %t, %v", d.name, inner, i, allowed, err)
				}
			}
		}
	}
}

// TestStatements: every statement is of the grammars that read it, the repeated
// ones are answered from memory and the unseen ones by the worker.
func TestStatements(t *testing.T) {
	worker := filepath.Join(t.TempDir(), "postern-sqlparse")
	build := exec.Command("go", "build", "-o", worker, "github.com/postern/postern/cmd/postern-sqlparse")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ctx := t.Context()
	c, _, err := classifier(ctx, worker)
	if err != nil {
		t.Fatal(err)
	}
	before := c.Stats()
	rows := statementRows(ctx, c)
	for _, r := range rows {
		if _, err := measure(&r, 1, time.Microsecond); err != nil {
			t.Error(err)
		}
		if got := r.names(); !slices.Equal(got, strings.Fields("pg_query_go postern sqlparser")) {
			t.Errorf("%s measures %q", r.name, got)
		}
	}
	after := c.Stats()
	if hits, misses := after.Hits-before.Hits, after.Misses-before.Misses; hits != batch || misses != batch {
		t.Errorf("%d were known and %d new, of %d each", hits, misses, batch)
	}
}
