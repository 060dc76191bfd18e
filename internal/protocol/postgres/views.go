package postgres

import (
	"slices"
	"strconv"
	"strings"
)

// The columns of a view carry the view's OID. Which of them come from masked
// columns its definition tells, as the server keeps it.

const (
	// maxViews bounds how many definitions a reading asks for.
	maxViews = 5000
	// maxView is the longest definition that is read, in bytes.
	maxView = 256 << 10
)

// viewColumn is where a column of a view comes from.
type viewColumn struct {
	table uint32 // whose column it is, 0 when it is computed
	attr  int16
	from  []columnID // what it is computed from
	lost  bool       // and from what was not followed
}

type columnID struct {
	table uint32
	attr  int16 // 0: the whole row
}

// hide finds the views over relations with masked columns, through views of views,
// until nothing changes: which columns they use is not asked of pg_depend, which
// says nothing of whole rows. It returns the query for their definitions.
func (r *catalogReading) hide() (query string) {
	var ids []string
	for changed := true; changed; {
		changed = false
		for _, d := range r.dependencies {
			view, of := r.into.relations[d[0]], r.into.relations[d[1]]
			if view == nil || of == nil || view.hidden || view == of {
				continue
			}
			if of.masks() {
				view.hidden, changed = true, true
				if view.view && len(ids) < maxViews {
					ids = append(ids, strconv.FormatUint(uint64(view.oid), 10))
				}
			}
		}
	}
	if len(ids) == 0 {
		return ""
	}
	return `SELECT r.ev_class, CASE WHEN pg_catalog.octet_length(r.ev_action::pg_catalog.text) OPERATOR(pg_catalog.<=) ` + strconv.Itoa(maxView) +
		` THEN r.ev_action::pg_catalog.text END FROM pg_catalog.pg_rewrite r
 WHERE r.ev_type OPERATOR(pg_catalog.=) '1'::pg_catalog."char" AND r.ev_class OPERATOR(pg_catalog.=) ANY (ARRAY[` + strings.Join(ids, ",") + `]::pg_catalog.oid[])`
}

// definition takes one row of the answer. What is not understood stays hidden.
func (r *catalogReading) definition(v []string) error {
	if len(v) != 2 {
		return malformed("catalog row")
	}
	oid, err := strconv.ParseUint(v[0], 10, 32)
	if err != nil {
		return malformed("catalog row")
	}
	view := r.into.relations[uint32(oid)]
	if view == nil || !view.hidden || !view.view {
		return nil
	}
	columns, ok := viewColumns(v[1])
	for attr := range view.columns {
		ok = ok && int(attr) <= len(columns)
	}
	if ok {
		view.hidden, r.views[view] = false, columns
	}
	return nil
}

// follow masks in the views whose definitions were read what comes from masked
// columns, and hides the computed ones.
func (r *catalogReading) follow() {
	for changed := true; changed; {
		changed = false
		for view, columns := range r.views {
			for attr := range view.columns {
				if !view.hides(attr) && r.followColumn(view, attr, columns[attr-1]) {
					changed = true
				}
			}
		}
	}
}

// followColumn reports whether the column of a view turned out to be masked.
func (r *catalogReading) followColumn(view *relation, attr int16, from viewColumn) bool {
	of := r.into.relations[from.table]
	switch {
	case of != nil && of.masked[from.attr]:
		r.mask(view, attr, of.source(from.attr))
		return true
	case from.lost, r.hidesAttribute(columnID{from.table, from.attr}), slices.ContainsFunc(from.from, r.hidesAttribute):
	default:
		return false
	}
	if view.derived == nil {
		view.derived = map[int16]bool{}
	}
	view.derived[attr] = true
	r.into.masked = append(r.into.masked, view.column(view.columns[attr]))
	return true
}

// hidesAttribute says whether what comes from a column may tell of a masked one. A
// table that is newer than the catalog may have any.
func (r *catalogReading) hidesAttribute(a columnID) bool {
	of := r.into.relations[a.table]
	if of == nil {
		return a.table >= firstUserOID
	}
	return of.hides(a.attr) || a.attr == 0 && of.masks()
}

// viewColumns reads the rule of a view: one viewColumn per column, by number.
func viewColumns(rule string) (columns []viewColumn, ok bool) {
	query, ok := parseNodes(rule)
	if !ok {
		return nil, false
	}
	computed := query.field("setOperations").kind != "" // of UNION and its like no origin is told
	for i, target := range query.list("targetList") {
		if target.word("resjunk") != "false" {
			continue
		}
		if target.number("resno") != int64(len(columns)+1) {
			return nil, false
		}
		c := viewColumn{table: uint32(target.number("resorigtbl")), attr: int16(target.number("resorigcol"))}
		if c.table == 0 || computed {
			w := &exprWalk{tables: query.list("rtable"), left: 4 * len(rule)}
			w.walk(query.list("targetList")[i].field("expr"), 0)
			c = viewColumn{from: w.found, lost: w.lost || computed}
		}
		columns = append(columns, c)
	}
	return columns, true
}

// exprWalk finds the columns that an expression uses.
type exprWalk struct {
	tables []node
	found  []columnID
	lost   bool
	left   int // steps
}

// The kinds of a range table entry that are followed.
const (
	rteRelation = "0"
	rteJoin     = "2"
)

func (w *exprWalk) walk(n node, depth int) {
	if w.left--; w.left < 0 || depth > maxNodeDepth || n.kind == "SUBLINK" || n.kind == "QUERY" || n.kind == "WINDOWFUNC" {
		w.lost = true
		return
	}
	if n.kind == "VAR" {
		w.variable(n, depth)
		return
	}
	for _, f := range n.fields {
		for _, v := range f.values {
			w.walk(v, depth+1)
		}
	}
	for _, v := range n.elements {
		w.walk(v, depth+1)
	}
}

func (w *exprWalk) variable(n node, depth int) {
	at, attr := n.number("varno"), n.number("varattno")
	if n.number("varlevelsup") != 0 || at < 1 || at > int64(len(w.tables)) {
		w.lost = true
		return
	}
	table := w.tables[at-1]
	switch table.word("rtekind") {
	case rteRelation:
		if attr >= 0 {
			w.found = append(w.found, columnID{uint32(table.number("relid")), int16(attr)})
		}
	case rteJoin:
		columns := table.list("joinaliasvars")
		if attr < 1 || attr > int64(len(columns)) {
			w.lost = true
			return
		}
		w.walk(columns[attr-1], depth+1)
	default:
		w.lost = true
	}
}
