package guard

import (
	"sync"

	"github.com/postern/postern/internal/sandbox"
)

// placeholders are what runs have made in people's folders to hold a name that
// was not there. Runs that are in one folder at a time share them, and removing
// one would end its being held in the others: the last one removes it.
type placeholders struct {
	// building is held by runs that are being built, and by who removes.
	building sync.RWMutex

	mu    sync.Mutex
	users map[string]int // runs, by path on the host
}

// take notes that a run uses what it has made, and what others have.
func (p *placeholders) take(r sandbox.Result) (used []sandbox.Placeholder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users == nil {
		p.users = map[string]int{}
	}
	for _, made := range r.Made {
		p.users[made.Path()]++
		used = append(used, made)
	}
	for _, held := range r.Held {
		if p.users[held.Path()] > 0 {
			p.users[held.Path()]++
			used = append(used, held)
		}
	}
	return used
}

// leave removes what no other run uses, in reverse: what is in a folder before
// the folder.
func (p *placeholders) leave(used []sandbox.Placeholder) (errs []error) {
	if len(used) == 0 {
		return nil
	}
	p.building.Lock()
	defer p.building.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(used) - 1; i >= 0; i-- {
		path := used[i].Path()
		if p.users[path]--; p.users[path] > 0 {
			continue
		}
		delete(p.users, path)
		if err := used[i].Remove(); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}
