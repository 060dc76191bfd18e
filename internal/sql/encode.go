package sql

import (
	"encoding/binary"
	"errors"

	"github.com/postern/postern/internal/engine"
)

// The form of a Statement between the processes: fields in the order below,
// integers as unsigned varints, strings as a length and the bytes, lists as a
// count and the elements, flags as bits. Facts and what Seal derives are left
// out. Both ends are of one build, so there is no version.

const (
	flagStar = 1 << iota
	flagReturnsRows
	flagRestricted
	flagByLiterals
)

var errEncoding = errors.New("malformed answer")

// Append appends the encoded Statement.
func (s *Statement) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, bits(s.Star, flagStar)|bits(s.ReturnsRows, flagReturnsRows)|
		bits(s.Restricted, flagRestricted)|bits(s.ByLiterals, flagByLiterals))
	b = binary.AppendUvarint(b, uint64(s.Limit+1))
	b = binary.AppendUvarint(b, uint64(s.Joins))
	b = binary.AppendUvarint(b, uint64(s.Parameters))
	for _, list := range [][]string{s.Kinds, s.Columns, s.Functions, s.Executes, s.Deallocates} {
		b = appendStrings(b, list)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Effects)))
	for _, e := range s.Effects {
		b = appendString(appendString(b, e.Verb), e.Object)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Tables)))
	for _, t := range s.Tables {
		b = appendTable(b, t)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Parts)))
	for _, p := range s.Parts {
		b = appendStrings(appendTable(appendString(b, p.Verb), p.Table), p.EqualColumns)
		b = binary.AppendUvarint(b, bits(p.Written, 1)|bits(p.Restricted, 2))
	}
	b = s.appendColumns(b)
	b = binary.AppendUvarint(b, uint64(len(s.Settings)))
	for _, v := range s.Settings {
		b = appendString(appendString(b, v.Name), v.Value)
		b = binary.AppendUvarint(b, bits(v.Known, 1)|bits(v.Reset, 2)|bits(v.Local, 4))
	}
	b = binary.AppendUvarint(b, uint64(len(s.Transactions)))
	for _, t := range s.Transactions {
		b = appendString(binary.AppendUvarint(b, uint64(t.Step)<<1|bits(t.Chain, 1)), t.Name)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Prepares)))
	for _, p := range s.Prepares {
		b = p.Statement.Append(appendString(b, p.Name))
	}
	return b
}

// appendColumns appends what is known of single columns.
func (s *Statement) appendColumns(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(s.Uses)))
	for _, u := range s.Uses {
		b = appendColumn(binary.AppendUvarint(b, uint64(u.Purpose)), u.Column)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Equalities)))
	for _, q := range s.Equalities {
		b = binary.AppendUvarint(b, uint64(q.Param)<<1|bits(q.Assigns, 1))
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(q.Literal)), uint64(q.Place))
		b = appendColumn(b, q.Column)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Outputs)))
	for _, o := range s.Outputs {
		b = binary.AppendUvarint(b, uint64(len(o.From)))
		for _, c := range o.From {
			b = appendColumn(b, c)
		}
	}
	if s.Copied == nil {
		return appendString(b, "")
	}
	return s.Copied.append(b)
}

// append appends the query first, which is not empty.
func (o *Copied) append(b []byte) []byte {
	b = appendString(appendTable(appendString(b, o.Query), o.Table), o.Null)
	return append(appendString(b, o.Encoding), byte(bits(o.CSV, 1)|bits(o.Header, 2)), o.Delimiter, o.Quote, o.Escape)
}

func appendColumn(b []byte, c Column) []byte {
	return binary.AppendUvarint(appendString(appendTable(b, c.Table), c.Name), bits(c.Sure, 1))
}

func bits(set bool, flag uint64) uint64 {
	if set {
		return flag
	}
	return 0
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

func appendTable(b []byte, t Table) []byte { return appendString(appendString(b, t.Schema), t.Name) }

// Decode reads what Append wrote and seals it. The worker is not trusted: a
// count is checked against the bytes that are there before room is made.
func Decode(b []byte) (*Statement, error) {
	d := &decoding{b: b}
	s := d.statement(0)
	if d.bad || len(d.b) > 0 {
		return nil, errEncoding
	}
	return s, nil
}

type decoding struct {
	b   []byte
	bad bool
}

func (d *decoding) number() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// small reads a number that fits an int wherever it goes.
func (d *decoding) small() int {
	v := d.number()
	if v > 1<<31 {
		d.bad = true
		return 0
	}
	return int(v)
}

// count reads the length of a list whose elements take a byte at least.
func (d *decoding) count() int {
	n := d.small()
	if n > len(d.b) {
		d.bad, d.b = true, nil
		return 0
	}
	return n
}

func (d *decoding) string() string {
	n := d.count()
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoding) strings() []string { return list(d, d.string) }

func (d *decoding) table() Table { return Table{Schema: d.string(), Name: d.string()} }

// list reads a count and the elements; nil when there are none.
func list[T any](d *decoding, read func() T) []T {
	n := d.count()
	var out []T
	for i := 0; i < n && !d.bad; i++ {
		out = append(out, read())
	}
	return out
}

func (d *decoding) statement(depth int) *Statement {
	if depth > 1 { // a PREPARE holds no other
		d.bad = true
		return nil
	}
	s := &Statement{}
	flags := d.number()
	s.Star, s.ReturnsRows = flags&flagStar != 0, flags&flagReturnsRows != 0
	s.Restricted, s.ByLiterals = flags&flagRestricted != 0, flags&flagByLiterals != 0
	s.Limit, s.Joins, s.Parameters = int64(d.small())-1, d.small(), d.small()
	s.Kinds, s.Columns, s.Functions = d.strings(), d.strings(), d.strings()
	s.Executes, s.Deallocates = d.strings(), d.strings()
	s.Effects = list(d, func() engine.Effect { return engine.Effect{Verb: d.string(), Object: d.string()} })
	s.Tables = list(d, d.table)
	s.Parts = list(d, func() Part {
		p := Part{Verb: d.string(), Table: d.table(), EqualColumns: d.strings()}
		flags := d.number()
		p.Written, p.Restricted = flags&1 != 0, flags&2 != 0
		return p
	})
	d.columns(s)
	s.Settings = list(d, func() Setting {
		v := Setting{Name: d.string(), Value: d.string()}
		flags := d.number()
		v.Known, v.Reset, v.Local = flags&1 != 0, flags&2 != 0, flags&4 != 0
		return v
	})
	s.Transactions = list(d, func() Transaction {
		step := d.number()
		return Transaction{Step: TransactionStep(step >> 1), Chain: step&1 != 0, Name: d.string()}
	})
	s.Prepares = list(d, func() Prepared { return Prepared{Name: d.string(), Statement: d.statement(depth + 1)} })
	if !d.bad {
		s.Seal()
	}
	return s
}

func (d *decoding) columns(s *Statement) {
	s.Uses = list(d, func() Use { return Use{Purpose: Purpose(d.number()), Column: d.column()} })
	s.Equalities = list(d, func() Equality {
		n := d.small()
		return Equality{Param: n >> 1, Assigns: n&1 != 0, Literal: d.small(), Place: d.small(), Column: d.column()}
	})
	s.Outputs = list(d, func() Output { return Output{From: list(d, d.column)} })
	if query := d.string(); query != "" {
		o := &Copied{Query: query, Table: d.table(), Null: d.string(), Encoding: d.string()}
		flags := d.byte()
		o.CSV, o.Header = flags&1 != 0, flags&2 != 0
		o.Delimiter, o.Quote, o.Escape = d.byte(), d.byte(), d.byte()
		s.Copied = o
	}
}

func (d *decoding) byte() byte {
	if len(d.b) == 0 {
		d.bad = true
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoding) column() Column {
	return Column{Table: d.table(), Name: d.string(), Sure: d.number()&1 != 0}
}
