package installed

import (
	"testing"

	"github.com/postern/postern/internal/bypass"
	"github.com/postern/postern/internal/redirect"
)

// TestHooksAreKinds: what is said to be counted is, by that name.
func TestHooksAreKinds(t *testing.T) {
	kinds := map[string]bool{}
	for k := redirect.Kind(0); k < 64; k++ {
		kinds[k.String()] = true
	}
	for _, a := range bypass.All() {
		for _, must := range a.Must {
			for _, h := range must.By {
				if h.Counted() && !kinds[string(h)] {
					t.Errorf("%s: no program counts %q", a.Name, h)
				}
			}
		}
	}
	for _, kind := range bypass.Silent {
		if !kinds[kind] {
			t.Errorf("no program counts %q", kind)
		}
	}
}
