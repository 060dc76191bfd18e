package postgres

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgproto3/v2"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
	"github.com/postern/postern/internal/sql"
)

// An agent that knows people by pseudonyms may ask for them by pseudonyms. Where
// a statement compares a masked column with a value and nothing else uses that
// value, the value that the pseudonym stands for goes upstream in its place, as a
// parameter: what the server shows of running statements has none of it.

// comparison is a value that a statement compares with masked columns, or sets
// them to, and with no others.
type comparison struct {
	param, literal int // as in sql.Equality
	assigns        bool
	fields         []engine.Field
}

// restored is a value that stands upstream for what the agent wrote.
type restored struct {
	param       int
	literal     sql.Literal
	shown, real []byte
}

// comparisons finds those of s, by the catalog.
func (c *catalog) comparisons(s *sql.Statement) []comparison {
	if len(c.masked) == 0 {
		return nil
	}
	var out []comparison
	lost := map[[2]int]bool{}
	for _, q := range s.Equalities {
		key := [2]int{q.Param, q.Literal}
		f, masked, exists := c.fieldOf(q.Column, q.Place)
		switch {
		case !exists || lost[key]:
			continue
		case !masked:
			lost[key] = true
			continue
		}
		i := slices.IndexFunc(out, func(o comparison) bool { return o.param == q.Param && o.literal == q.Literal })
		if i < 0 {
			out = append(out, comparison{param: q.Param, literal: q.Literal, assigns: true})
			i = len(out) - 1
		}
		out[i].fields = append(out[i].fields, f)
		out[i].assigns = out[i].assigns && q.Assigns
	}
	return slices.DeleteFunc(out, func(o comparison) bool { return lost[[2]int{o.param, o.literal}] })
}

// fieldOf looks a column up, by its name or, where that is empty, by its place. One that its table does not have is another's; of
// one that is computed, or whose table is not known, nothing can be restored.
func (c *catalog) fieldOf(column sql.Column, place int) (f engine.Field, masked, exists bool) {
	r, ok := c.find(column.Table)
	if !ok || r == nil || column.Name == "*" {
		return f, false, true
	}
	attr := r.attribute(column.Name)
	if numbers := slices.Sorted(maps.Keys(r.columns)); column.Name == "" && place <= len(numbers) {
		attr = numbers[place-1]
	}
	if attr == 0 {
		return f, false, column.Sure || systemColumns[column.Name]
	}
	if !r.masked[attr] || r.hidden {
		return f, false, true
	}
	f = c.origin(r.oid, attr)
	f.Name, f.Type = r.columns[attr], r.types[attr]
	return f, f.Column != "", true
}

// restore finds the values that r's pseudonyms stand for. It reports whether
// every comparison of s with a masked column is with one: then the answer tells
// no more than the pseudonyms do. Of what is only prepared the values come later.
func (c *codec) restore(k *resolved, r *engine.Request) (values []restored, all bool) {
	all = true
	var literals []sql.Literal
	for _, m := range k.comparisons {
		v := restored{param: m.param}
		binaryFormat := false
		switch {
		case m.param > 0 && r.Kind == "prepare":
			continue
		case m.param > 0 && m.param <= len(r.Params):
			p := r.Params[m.param-1]
			if p.Null { // equal to nothing
				continue
			}
			v.shown, binaryFormat = p.Value, p.Binary
		case m.literal > 0 && r.Kind == "query" && !c.touched:
			if literals == nil {
				literals = sql.Literals(r.Text)
			}
			if m.literal > len(literals) {
				all = all && m.assigns
				continue
			}
			v.literal = literals[m.literal-1]
			v.shown = []byte(v.literal.Value(r.Text))
		default:
			all = all && m.assigns
			continue
		}
		if c.stands(&v, m, binaryFormat) {
			values = append(values, v)
		} else {
			all = all && m.assigns
		}
	}
	return values, all
}

// stands says whether v is a pseudonym for every column that it is compared
// with. A column is set to the value of what is surely one only.
func (c *codec) stands(v *restored, m comparison, binaryFormat bool) bool {
	for i, f := range m.fields {
		f.Binary = binaryFormat
		real, sure, ok := c.gate.Restore(f, v.shown)
		if !ok || m.assigns && !sure || i > 0 && !bytes.Equal(real, v.real) {
			return false
		}
		v.real = real
	}
	return true
}

// excused returns r without the effects of its comparisons, for when all of them
// are with pseudonyms.
func (c *codec) excused(r *resolved) *resolved {
	if r.byPseudonyms == nil {
		again := *r
		again.effects = slices.Concat(r.stmt.Effects, c.catalog.calls(r.stmt), c.catalog.effects(r.stmt, func(q sql.Equality) bool {
			return slices.ContainsFunc(r.comparisons, func(m comparison) bool { return m.param == q.Param && m.literal == q.Literal })
		}))
		again.byPseudonyms = &again
		r.byPseudonyms = &again
	}
	return r.byPseudonyms
}

// appendBind appends the Bind that msg is, which was decoded before, with values
// restored.
func appendBind(dst, msg []byte, values []restored) []byte {
	b, err := decodeBind(msg)
	if err != nil {
		panic(err)
	}
	m := pgproto3.Bind{DestinationPortal: string(b.portal), PreparedStatement: string(b.statement), ResultFormatCodes: b.results}
	for i, p := range b.params {
		for _, v := range values {
			if v.param == i+1 {
				p.Value = v.real
			}
		}
		code := int16(0)
		if p.Binary {
			code = 1
		}
		m.ParameterFormatCodes = append(m.ParameterFormatCodes, code)
		m.Parameters = append(m.Parameters, p.Value)
	}
	return encode(dst, &m)
}

// parameterized returns the text with its restored literals as parameters, and
// their values.
func parameterized(text string, values []restored) (string, [][]byte) {
	var b strings.Builder
	var params [][]byte
	slices.SortFunc(values, func(x, y restored) int { return x.literal.From - y.literal.From })
	at := 0
	for _, v := range values {
		params = append(params, v.real)
		b.WriteString(text[at:v.literal.From])
		b.WriteString("$" + strconv.Itoa(len(params)))
		at = v.literal.To
	}
	b.WriteString(text[at:])
	return b.String(), params
}

// queryByParameters sends a Query with restored literals in the extended
// protocol, and what comes back is a Query's answer.
func (c *codec) queryByParameters(out *messages.Out, e entry, text string, values []restored) {
	text, params := parameterized(text, values)
	p := &portal{statement: &statement{sql: e.resolved.source}}
	out.Up = appendParse(out.Up, "", text)
	out.Up = encode(out.Up, &pgproto3.Bind{Parameters: params})
	out.Up = encode(out.Up, &pgproto3.Describe{ObjectType: 'P'})
	out.Up = encode(out.Up, &pgproto3.Execute{})
	out.Up = encode(out.Up, &pgproto3.Close{ObjectType: 'S'}) // as a Query leaves none
	out.Up = encode(out.Up, &pgproto3.Sync{})
	part := func(kind byte, swallow bool) entry {
		return entry{kind: kind, swallow: swallow, resolved: e.resolved, restored: values, portal: p, query: true}
	}
	c.queue.push(part('P', true))
	c.queue.push(part('B', true))
	c.queue.push(part('D', false))
	e.kind, e.portal, e.query = 'E', p, true
	c.queue.push(e)
	c.queue.push(part('C', true))
	c.queue.push(entry{kind: 'S'})
}

// returning hides restored values in a result: a trigger may have copied one to
// where no mask is.
type returning struct {
	masker engine.Masker
	values []restored
	sized  bool // bytes of other lengths are no value of the type
}

// The shortest value that is looked for is as short as the shortest name.
func (r returning) Mask(v []byte) ([]byte, bool) {
	if r.masker != nil {
		var null bool
		if v, null = r.masker.Mask(v); null {
			return nil, true
		}
	}
	hidden := hide(v, r.values)
	return hidden, r.sized && len(hidden) > 0 && &hidden[0] != &v[0]
}

func hide(b []byte, values []restored) []byte {
	for _, v := range values {
		if len(v.real) >= minIdentity && bytes.Contains(b, v.real) {
			b = bytes.ReplaceAll(b, v.real, v.shown)
		}
	}
	return b
}

// hiding wraps the maskers of a result.
func hiding(maskers []engine.Masker, list []engine.Field, values []restored) []engine.Masker {
	if len(values) == 0 {
		return maskers
	}
	out := make([]engine.Masker, len(maskers))
	for i, m := range maskers {
		out[i] = returning{m, values, list[i].Binary && !sameInBinary[list[i].Type]}
	}
	return out
}

// sameInBinary are the types whose bytes are the text.
var sameInBinary = map[string]bool{
	"text": true, "varchar": true, "bpchar": true, "name": true, "json": true, "jsonb": true, "xml": true, "bytea": true, "unknown": true,
}
