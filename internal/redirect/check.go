package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/postern/postern/internal/identity"
)

// LinkState is what the kernel says of one pinned link.
type LinkState struct {
	Hook      string `json:"hook"`
	LinkID    uint32 `json:"link_id"`
	ProgramID uint32 `json:"program_id"`
	Tag       string `json:"tag"`       // of the program's instructions
	CgroupID  uint64 `json:"cgroup_id"` // the cgroup the link holds; 0 when it holds none
}

// Problem is one reason why the cgroup is not closed.
type Problem struct {
	Hook   string `json:"hook,omitempty"` // empty: all of them
	Detail string `json:"detail"`
}

func (p Problem) String() string {
	if p.Hook == "" {
		return p.Detail
	}
	return p.Hook + ": " + p.Detail
}

// Status is what `postern doctor` shows of an attachment.
type Status struct {
	Cgroup   string      `json:"cgroup"`
	CgroupID uint64      `json:"cgroup_id"`
	Pins     string      `json:"pins"`
	Links    []LinkState `json:"links"`
	Optional []LinkState `json:"optional"` // hooks that newer kernels have, and that are attached
	Problems []Problem   `json:"problems"`
}

// Check lists what is wrong with the attachment; nothing means that the cgroup
// is closed. It compares ids, not names: a slice that was stopped and started
// is another cgroup, whose pins still load and hold nothing.
func Check(o Options) []Problem { return StatusOf(o).Problems }

// StatusOf reads the attachment of the cgroup.
func StatusOf(o Options) Status {
	s := Status{Cgroup: o.Cgroup, Pins: filepath.Join(o.base(), layout), Links: []LinkState{}, Optional: []LinkState{}, Problems: []Problem{}}
	problem := func(hook, format string, args ...any) {
		s.Problems = append(s.Problems, Problem{Hook: hook, Detail: fmt.Sprintf(format, args...)})
	}
	id, err := identity.CgroupID(o.Cgroup)
	if err != nil {
		problem("", "%v", err)
		return s
	}
	s.CgroupID = id
	info, err := os.Stat(o.base())
	if errors.Is(err, fs.ErrNotExist) {
		problem("", "nothing is attached: run `postern-guard attach`")
		return s
	}
	if err != nil {
		problem("", "read the pins: %v", err)
		return s
	}
	if info.Mode().Perm() != 0o700 {
		problem("", "%s has mode %o, not 700: run `postern-guard attach` again", o.base(), info.Mode().Perm())
	}
	for _, h := range hooks {
		state, err := h.state(o)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			problem(h.name, "not attached: run `postern-guard attach`")
			continue
		case err != nil:
			problem(h.name, "%v", err)
			continue
		case state.CgroupID != id:
			problem(h.name, "attached to cgroup %d, not to %d: the cgroup was made anew, run `postern-guard attach`", state.CgroupID, id)
		}
		s.Links = append(s.Links, state)
	}
	var problems []Problem
	s.Optional, problems = optionalState(o, id)
	s.Problems = append(s.Problems, problems...)
	return s
}

func (h hook) state(o Options) (LinkState, error) {
	pinned, err := link.LoadPinnedLink(filepath.Join(o.links(), h.name), nil)
	if err != nil {
		return LinkState{}, err
	}
	defer pinned.Close()
	state, err := stateOf(pinned)
	if err != nil {
		return LinkState{}, err
	}
	state.Hook = h.name
	info, err := pinned.Info()
	if err != nil {
		return LinkState{}, err
	}
	if got := ebpf.AttachType(info.Cgroup().AttachType); got != h.attach {
		return LinkState{}, fmt.Errorf("the pin is a link of type %s, not %s", got, h.attach)
	}
	return state, nil
}

func stateOf(l link.Link) (LinkState, error) {
	info, err := l.Info()
	if err != nil {
		return LinkState{}, fmt.Errorf("read the link: %w", err)
	}
	cgroup := info.Cgroup()
	if cgroup == nil {
		return LinkState{}, errors.New("the pin is not a cgroup link")
	}
	program, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return LinkState{}, fmt.Errorf("open the link's program: %w", err)
	}
	defer program.Close()
	programInfo, err := program.Info()
	if err != nil {
		return LinkState{}, fmt.Errorf("read the link's program: %w", err)
	}
	return LinkState{
		LinkID:    uint32(info.ID),
		ProgramID: uint32(info.Program),
		Tag:       programInfo.Tag,
		CgroupID:  cgroup.CgroupId,
	}, nil
}
