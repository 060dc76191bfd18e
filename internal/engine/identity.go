package engine

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Identity is on whose behalf a run acts, as an issuer has attested. It is made
// once and shared, never changed.
type Identity struct {
	Issuer  string            // as the configuration names it; Static for one that it states
	Subject string            // the issuer's own name for who it is, unique there
	Name    string            // for people to read
	Email   string            // empty: not told
	Owner   string            // of a workload: the person who answers for it; empty: not told
	Groups  []string          // as the issuer names them
	Roles   []string          // that the configuration gives to the groups
	Claims  map[string]string // what else the configuration takes from a token
	Expires time.Time         // of what attests it; zero: it does not
}

// Static is the issuer of identities that the configuration states.
const Static = "static"

// String is for people and logs: the name, and whose it is.
func (i *Identity) String() string {
	if i == nil {
		return ""
	}
	name := i.Name
	if name == "" {
		name = i.Subject
	}
	return name + " (" + i.Issuer + ")"
}

// Key tells one identity from all others: a name may be given twice, a subject
// is its issuer's.
func (i *Identity) Key() string {
	if i == nil {
		return ""
	}
	return i.Issuer + "\x00" + i.Subject
}

// Expired says whether what attests it has come to its end.
func (i *Identity) Expired(now time.Time) bool {
	return i != nil && !i.Expires.IsZero() && !now.Before(i.Expires)
}

// Narrowing is what a run was launched with less than its policy allows: a
// target, and of it these verbs, all where there are none.
type Narrowing struct {
	Target string   `json:"target"`
	Verbs  []string `json:"verbs,omitempty"`
}

// String is what ParseNarrowing reads.
func (n Narrowing) String() string {
	if len(n.Verbs) == 0 {
		return n.Target
	}
	return n.Target + ":" + strings.Join(n.Verbs, ",")
}

// session is the verb of what every conversation takes, whatever it is about. A
// narrowing to other verbs leaves it.
const session = "session"

// maxNarrowing bounds the targets, and the verbs of each, that a run can be
// narrowed to; a policy has fewer.
const maxNarrowing = 256

// ParseNarrowing reads "target" or "target:verb,verb".
func ParseNarrowing(s string) (Narrowing, error) {
	target, verbs, some := strings.Cut(s, ":")
	n := Narrowing{Target: strings.TrimSpace(target)}
	if n.Target == "" {
		return n, fmt.Errorf("%q names no target: write target, or target:verb,verb", s)
	}
	if !some {
		return n, nil
	}
	for v := range strings.SplitSeq(verbs, ",") {
		if v = strings.TrimSpace(v); v == "" {
			return n, fmt.Errorf("%q has an empty verb: write target:verb,verb", s)
		}
		n.Verbs = append(n.Verbs, v)
	}
	if len(n.Verbs) > maxNarrowing {
		return n, fmt.Errorf("%q has more than %d verbs", s, maxNarrowing)
	}
	return n, nil
}

// CheckNarrowing refuses a list that is too long to be meant, or has a target
// twice.
func CheckNarrowing(list []Narrowing) error {
	if len(list) > maxNarrowing {
		return fmt.Errorf("a run is narrowed to more than %d targets", maxNarrowing)
	}
	for i, n := range list {
		if n.Target == "" || len(n.Verbs) > maxNarrowing {
			return fmt.Errorf("a run is narrowed to no target, or to more than %d verbs of one", maxNarrowing)
		}
		if slices.ContainsFunc(list[:i], func(o Narrowing) bool { return o.Target == n.Target }) {
			return fmt.Errorf("target %s is there twice: write its verbs in one", n.Target)
		}
	}
	return nil
}

// Narrowed says whether a run that was launched with only this may do an effect
// on a target, as far as that goes: nil is no narrowing. An empty verb asks for
// the target alone.
func Narrowed(only []Narrowing, target, verb string) bool {
	if only == nil {
		return true
	}
	i := slices.IndexFunc(only, func(n Narrowing) bool { return n.Target == target })
	if i < 0 {
		return false
	}
	return verb == "" || verb == session || len(only[i].Verbs) == 0 || slices.Contains(only[i].Verbs, verb)
}
