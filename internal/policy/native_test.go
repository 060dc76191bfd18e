package policy

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/postern/postern/internal/engine"
)

// TestNativeAgrees: what is evaluated without CEL has CEL's answer, whatever
// facts are missing or of another type.
func TestNativeAgrees(t *testing.T) {
	c, err := newConditions([]engine.Fact{
		{Name: "sql.by_key", Type: engine.Bool},
		{Name: "sql.restricted", Type: engine.Bool},
		{Name: "sql.limit", Type: engine.Int},
		{Name: "sql.kind", Type: engine.Text},
		{Name: "sql.tables", Type: engine.TextSet},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	leaves := []string{
		"request.sql.by_key", "request.sql.restricted", "true", "false", `"a" in request.sql.tables`, `"b" in request.sql.tables`,
		"request.sql.limit == 10", "request.sql.limit != 10", "request.sql.limit < 10", "request.sql.limit <= 10", "request.sql.limit > 10", "request.sql.limit >= -1",
		`request.sql.kind == "select"`, `request.sql.kind != "select"`, `request.sql.kind < "t"`, `request.sql.kind >= "select"`,
	}
	var expression func(depth int) string
	expression = func(depth int) string {
		if depth == 0 || r.IntN(4) == 0 {
			return leaves[r.IntN(len(leaves))]
		}
		switch r.IntN(3) {
		case 0:
			return "!(" + expression(depth-1) + ")"
		case 1:
			return "(" + expression(depth-1) + " && " + expression(depth-1) + ")"
		}
		return "(" + expression(depth-1) + " || " + expression(depth-1) + ")"
	}
	values := map[string][]any{
		"sql.by_key": {true, false, nil, "of another type"}, "sql.restricted": {true, false, nil}, "sql.limit": {int64(9), int64(10), int64(11), nil},
		"sql.kind": {"select", "table", "", nil}, "sql.tables": {[]string{"a"}, []string{"b", "a"}, []string{}, nil},
	}
	seen := map[answer]int{}
	for range 2000 {
		text := expression(4)
		made, err := c.compile(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if made.native == nil {
			t.Fatalf("%s is not evaluated here", text)
		}
		for range 10 {
			in := &Input{Facts: map[string]any{}}
			for name, of := range values {
				if v := of[r.IntN(len(of))]; v != nil {
					in.Facts[name] = v
				}
			}
			want := made.interpret(in)
			if got := made.native(in); got != want {
				t.Fatalf("%s with %v: %d, and CEL says %d", text, in.Facts, got, want)
			}
			seen[want]++
		}
	}
	if len(seen) != 3 {
		t.Errorf("only these answers: %v", fmt.Sprint(seen))
	}
}

// TestOthersAreInterpreted: what is not of the simple kind is left to CEL.
func TestOthersAreInterpreted(t *testing.T) {
	c, err := newConditions([]engine.Fact{{Name: "sql.tables", Type: engine.TextSet}, {Name: "sql.limit", Type: engine.Int}})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"request.sql.tables.all(t, t.startsWith('a'))", "1 / request.sql.limit > 0", "agent.name == 'planner'", "size(request.sql.tables) == 1",
		"10 > request.sql.limit", "request.sql.limit in [1, 2]", "request.sql.limit > 0 ? true : false",
	} {
		made, err := c.compile(text)
		if err != nil || made.native != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}
