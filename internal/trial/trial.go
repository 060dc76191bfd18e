// Package trial is what `postern policy` asks the daemon's own program, and what
// it answers: what a configuration would make of statements that nobody sends.
// posternd --decide FILE reads one Question per line of JSON and answers each with
// one Answer, so that what is foretold is what would be in force.
//
// It has the types of both sides and no behaviour besides reading a catalog. Start with Question.
package trial

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/postern/postern/pkg/control"
)

// maxCatalog bounds a file of a catalog: ten thousand tables are about 4 MiB.
const maxCatalog = 64 << 20

// Question is one statement of an agent.
type Question struct {
	Agent    string `json:"agent"`
	Target   string `json:"target"`
	Database string `json:"database,omitempty"`
	User     string `json:"user,omitempty"`
	Run      string `json:"run,omitempty"`
	Exe      string `json:"exe,omitempty"`
	UID      uint32 `json:"uid,omitempty"`
	Session  string `json:"session"` // PREPARE is followed to EXECUTE within one, in the order of the questions
	Text     string `json:"text"`
	// Effects are what a session with the catalog at hand has put on record. They
	// are taken as they are where there is no catalog now.
	Effects []Effect `json:"effects,omitempty"`
	// Fixed says that the effects are all there is: the text is no SQL.
	Fixed bool `json:"fixed,omitempty"`
}

// Effect of a statement, and in an Answer what it met.
type Effect struct {
	Verb   string `json:"verb"`
	Object string `json:"object,omitempty"`
	Pivot  bool   `json:"pivot,omitempty"` // it acts outside of the gateway
	Rule   string `json:"rule,omitempty"`  // empty: no rule matched
	Action string `json:"action,omitempty"`
	Missed []Miss `json:"missed,omitempty"`
}

func (e Effect) String() string { return strings.TrimSpace(e.Verb + " " + e.Object) }

// Miss is an allowing rule that did not match because facts were not known.
type Miss struct {
	Rule  string   `json:"rule"`
	Facts []string `json:"facts"`
}

// Mask is one that holds for the target.
type Mask struct {
	Columns []string `json:"columns,omitempty"`
	Detect  []string `json:"detect,omitempty"`
	With    string   `json:"with"`
}

// Answer is what would become of a Question.
type Answer struct {
	Error    string         `json:"error,omitempty"` // the question makes no sense; nothing else is set
	Refused  string         `json:"refused,omitempty"`
	Kinds    []string       `json:"kinds,omitempty"`
	Effects  []Effect       `json:"effects,omitempty"`
	Facts    map[string]any `json:"facts,omitempty"`
	Unknown  []string       `json:"unknown_facts,omitempty"`
	Masked   []string       `json:"masked,omitempty"` // columns of the tables it touches that a mask names
	Masks    []Mask         `json:"masks,omitempty"`
	Action   string         `json:"action"` // "allow", "ask" or "deny"
	Rule     string         `json:"rule,omitempty"`
	Reason   string         `json:"reason,omitempty"`
	Help     string         `json:"help,omitempty"`
	Observed bool           `json:"observed,omitempty"` // the agent is only observed now: it would go ahead
}

// ReadCatalog reads a file in the form that `postern policy catalog` prints.
func ReadCatalog(path string) (*control.Catalog, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCatalog+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxCatalog {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxCatalog)
	}
	var c control.Catalog
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s is no catalog: %w", path, err)
	}
	if len(c.Path) == 0 || len(c.Relations) == 0 {
		return nil, fmt.Errorf("%s is no catalog: it has no search_path or no relations; `postern policy catalog` prints one", path)
	}
	return &c, nil
}
