package main

import (
	"testing"
	"time"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/gateway"
	"github.com/postern/postern/internal/policy"
)

// TestDetectorsOfTheFile: what the file says of a detector is what masks find,
// and a change of it is a change of the masks.
func TestDetectorsOfTheFile(t *testing.T) {
	scan := func(pattern string) *gateway.Masks {
		t.Helper()
		cfg, problems := config.Parse("f", []byte(`
targets: [{name: db, protocol: postgres, hosts: [db:5432], anonymous: allow}]
detectors: [{name: badge, anchors: [badge], pattern: '`+pattern+`', check: luhn, with: hash}]
policies: [{name: p, masks: [{target: db, detect: [badge], with: redact}]}]
`), time.Now())
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		set, unfit := policy.Compile(policy.Config{Policies: []policy.Source{{Name: "p", Masks: []policy.Mask{{Target: "db", Detect: []string{"badge"}, With: "redact"}}}}}, map[string]engine.Protocol{"db": {Name: "postgres"}})
		if len(unfit) > 0 {
			t.Fatal(unfit)
		}
		p, _ := set.Policy("p")
		return masks(p, []*gateway.Target{{Name: "db"}}, detectors(cfg), []byte("a key"))["db"]
	}
	m := scan("[0-9]{8}")
	out, hits := m.Scanner.Mask(nil, []byte("badge 12345674, mail bob@example.com"))
	if len(hits) != 1 || hits[0].Detector != "badge" || len(out) != len("badge , mail bob@example.com")+32 {
		t.Errorf("%q, %v", out, hits)
	}
	if _, hits := m.Scanner.Mask(nil, []byte("badge 12345675")); hits != nil {
		t.Errorf("a wrong check digit: %v", hits)
	}
	if other := scan("[0-9]{9}"); other.Words[0] == m.Words[0] {
		t.Errorf("another pattern, the same words: %q", m.Words)
	}
}
