package recording

import (
	"encoding/binary"
	"time"
)

// Identity is on whose behalf the agent ran, if somebody had attested that. It
// holds for every request of the session.
type Identity struct {
	Issuer  string    `json:"issuer"` // as the configuration names it; "static": it states the identity itself
	Subject string    `json:"subject"`
	Name    string    `json:"name,omitempty"`
	Email   string    `json:"email,omitempty"`
	Owner   string    `json:"owner,omitempty"` // the person who answers for a workload
	Groups  []string  `json:"groups,omitempty"`
	Roles   []string  `json:"roles,omitempty"`
	Expires time.Time `json:"expires,omitzero"` // of what attested it
	Allowed []string  `json:"allowed,omitempty"`
	// Narrowed says that the run was launched with Allowed only, "target" or
	// "target:verb,verb", which may be nothing.
	Narrowed bool `json:"narrowed,omitempty"`
}

// Kind implements Body.
func (*Identity) Kind() Kind { return KindIdentity }

// AppendTo implements Body.
func (i *Identity) AppendTo(dst []byte) []byte {
	for _, s := range []string{i.Issuer, i.Subject, i.Name, i.Email, i.Owner} {
		dst = appendString(dst, s)
	}
	for _, list := range [][]string{i.Groups, i.Roles} {
		dst = appendStrings(dst, list)
	}
	dst = appendTime(dst, i.Expires)
	dst = appendBool(dst, i.Narrowed)
	return appendStrings(dst, i.Allowed)
}

func (i *Identity) parse(d *decoder) {
	i.Issuer, i.Subject, i.Name, i.Email, i.Owner = d.string(), d.string(), d.string(), d.string(), d.string()
	i.Groups, i.Roles = d.strings(), d.strings()
	i.Expires = d.time()
	i.Narrowed = d.bool()
	i.Allowed = d.strings()
}

func appendStrings(dst []byte, list []string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for _, s := range list {
		dst = appendString(dst, s)
	}
	return dst
}

func (d *decoder) strings() (list []string) {
	for n := d.list(); n > 0 && !d.bad; n-- {
		list = append(list, d.string())
	}
	return list
}
