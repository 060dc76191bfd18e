package postgres

import (
	"bytes"
	"slices"

	"github.com/jackc/pgproto3/v2"
)

// scrubber replaces what tells the agent who it really is upstream: the real
// user, database, host and address, by the placeholder's words. Secrets and
// personal data are the gate's to replace.
type scrubber struct {
	pairs [][2][]byte // real, shown
	user  []byte      // the placeholder's
}

// minIdentity is the shortest name that is replaced in free text: replacing
// "db" everywhere would garble more than it hides.
const minIdentity = 4

func newScrubber(user string, pairs ...[2]string) scrubber {
	s := scrubber{user: []byte(user)}
	for _, p := range pairs {
		if len(p[0]) >= minIdentity && p[0] != p[1] {
			s.pairs = append(s.pairs, [2][]byte{[]byte(p[0]), []byte(p[1])})
		}
	}
	// The longest first: orders_rw before orders.
	slices.SortFunc(s.pairs, func(a, b [2][]byte) int { return len(b[0]) - len(a[0]) })
	return s
}

func (s scrubber) scrub(b []byte) []byte {
	for _, p := range s.pairs {
		if bytes.Contains(b, p[0]) {
			b = bytes.ReplaceAll(b, p[0], p[1])
		}
	}
	return b
}

// appendParameter is a ParameterStatus as the agent may see it.
func (s scrubber) appendParameter(dst, name, value []byte) []byte {
	if string(name) == "session_authorization" {
		value = s.user
	}
	return encode(dst, &pgproto3.ParameterStatus{Name: string(name), Value: string(s.scrub(value))})
}

// maskedMessage replaces an upstream's words that may carry a masked value.
const maskedMessage = "the message is withheld: the statement uses masked columns"

// maskNotice masks the free text of an error or a notice. Of a statement that
// uses masked columns only the SQLSTATE and the names of objects are told: an
// error can be made to carry any value ("invalid input syntax for integer").
func (c *codec) maskNotice(n notice, e *entry) notice {
	withheld := e != nil && e.resolved != nil && len(e.resolved.derived) > 0
	if e != nil && e.portal != nil {
		if r := c.known(e.portal.statement.sql); r != nil && len(r.derived) > 0 {
			withheld = true
		}
	}
	withheld = withheld || c.catalog.maskedRelation(n.field('s'), n.field('t')) || e != nil && c.throughCursor(e)
	out := make(notice, 0, len(n))
	for _, f := range n {
		switch f.kind {
		case 'M':
			if withheld {
				f.value = []byte(maskedMessage)
			}
			f.value = c.freeText(f.value, e)
		case 'D', 'H', 'W', 'q':
			if withheld {
				continue
			}
			f.value = c.freeText(f.value, e)
		case 'S', 'V', 'C', 'P', 'p', 's', 't', 'c', 'd', 'n', 'F', 'L', 'R':
		default: // a field of a newer protocol: nobody knows what it says
			continue
		}
		out = append(out, f)
	}
	return out
}

func (c *codec) freeText(b []byte, e *entry) []byte {
	if e != nil && e.exchange != nil {
		b = e.exchange.Text(b)
	} else {
		b = c.gate.Scrub(b)
	}
	if e != nil {
		b = hide(b, e.restored)
	}
	return c.identity.scrub(b)
}
