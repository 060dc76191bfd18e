package guard

import (
	"errors"
	"io/fs"
	"slices"
	"sync"

	"github.com/postern/postern/internal/sandbox"
)

// placeholders are what runs have made in people's folders to hold a name that
// was not there. Runs that are in one folder at a time share them, and removing
// one would end its being held in the others: the last one removes it.
type placeholders struct {
	// building is held by runs that are being built, and by who removes.
	building sync.RWMutex

	mu   sync.Mutex
	held map[string]*placeholder // by path on the host
}

// placeholder is one, or what a person has there.
type placeholder struct {
	Runs int  `json:"runs"`
	Made bool `json:"made"` // by one of the runs
}

// take notes what a run has made and what it holds besides. Of two that are
// built at a time either may be told of first.
func (p *placeholders) take(r sandbox.Result) (used []sandbox.Placeholder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		p.held = map[string]*placeholder{}
	}
	for n, h := range append(slices.Clone(r.Made), r.Held...) {
		at := p.held[h.Path()]
		if at == nil {
			at = &placeholder{}
			p.held[h.Path()] = at
		}
		at.Runs++
		at.Made = at.Made || n < len(r.Made)
		used = append(used, h)
	}
	return used
}

// leave removes what no other run holds, in reverse: what is in a folder before
// the folder.
func (p *placeholders) leave(used []sandbox.Placeholder) (errs []error) {
	if len(used) == 0 {
		return nil
	}
	p.building.Lock()
	defer p.building.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range slices.Backward(used) {
		at := p.held[h.Path()]
		if at.Runs--; at.Runs > 0 {
			continue
		}
		delete(p.held, h.Path())
		if !at.Made {
			continue
		}
		if err := h.Remove(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errs
}
