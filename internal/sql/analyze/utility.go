package analyze

import (
	"slices"
	"strings"
	"unicode"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/sql"
)

func (a *analyzer) unknown(object string) { a.add(engine.Unknown, object) }

// definitions says what the statements do that create, alter or drop
// something, by the name of their message. Those marked admin load code, reach
// another server or the file system, or concern the whole server.
var definitions = func() map[string]definition {
	out := map[string]definition{}
	for name := range set(`AlterCollation AlterDomain AlterTable AlterPolicy AlterEnum AlterFunction AlterObjectDepends
		AlterObjectSchema AlterOperator AlterOpFamily AlterStats AlterTSConfiguration AlterTSDictionary AlterType AlterSeq
		AlterPublication Comment CompositeType Create CreateCast CreateConversion CreateDomain CreateEnum CreateFunction
		CreateOpClass CreateOpFamily CreatePolicy CreateRange CreateSchema CreateSeq CreateStats CreateTransform CreateTrig
		Define Drop Index Rename Rule View CreateTableAs ReplicaIdentity AlterTableMoveAll AlterExtensionContents`) {
		out[name+"Stmt"] = definition{ddl: true}
	}
	for name := range set(`AlterDatabase AlterDatabaseRefreshColl AlterDatabaseSet AlterEventTrig AlterExtension AlterFdw
		AlterForeignServer AlterSubscription AlterTableSpaceOptions AlterUserMapping CreateAm CreateEventTrig CreateExtension
		CreateFdw CreateForeignServer CreateForeignTable CreatePLang CreatePublication CreateSubscription CreateTableSpace
		CreateUserMapping Createdb DropSubscription DropTableSpace DropUserMapping Dropdb ImportForeignSchema`) {
		out[name+"Stmt"] = definition{ddl: true, admin: true}
	}
	for name := range set(`AlterDefaultPrivileges AlterRole AlterRoleSet CreateRole DropRole Grant GrantRole ReassignOwned SecLabel`) {
		out[name+"Stmt"] = definition{grant: true}
	}
	for name := range set(`AlterOwner DropOwned`) {
		out[name+"Stmt"] = definition{ddl: true, grant: true}
	}
	return out
}()

type definition struct{ ddl, admin, grant bool }

// utility takes a statement that is no query.
func (a *analyzer) utility(m proto.Message, name string, sc *scope) {
	if d, ok := definitions[name]; ok {
		a.define(m, d, sc)
		return
	}
	switch m := m.(type) {
	case *pg.TransactionStmt:
		a.transaction(m)
	case *pg.VariableSetStmt:
		a.variable(m)
	case *pg.VariableShowStmt:
		a.s.ReturnsRows = true
		a.add(sql.Session, "show")
	case *pg.ConstraintsSetStmt:
		a.add(sql.Session, "set constraints")
	case *pg.DiscardStmt:
		a.discard(m)
	case *pg.PrepareStmt, *pg.ExecuteStmt, *pg.DeallocateStmt, *pg.DeclareCursorStmt, *pg.FetchStmt, *pg.ClosePortalStmt:
		a.byName(m, sc)
	case *pg.ExplainStmt:
		a.explain(m, sc)
	case *pg.CopyStmt:
		a.copy(m, sc)
	case *pg.TruncateStmt:
		a.truncate(m)
	case *pg.LockStmt:
		for _, n := range m.Relations {
			a.add(sql.Lock, a.table(n.GetRangeVar()).String())
		}
	case *pg.ListenStmt:
		a.add(sql.Listen, m.Conditionname)
	case *pg.UnlistenStmt:
		a.add(sql.Listen, m.Conditionname)
	case *pg.NotifyStmt:
		a.add(sql.Notify, m.Conditionname)
	case *pg.CallStmt:
		a.procedure(m.Funccall, sc)
	case *pg.DoStmt:
		a.add(sql.Do, language(m.Args))
	case *pg.VacuumStmt, *pg.ClusterStmt, *pg.ReindexStmt, *pg.RefreshMatViewStmt, *pg.CheckPointStmt:
		a.maintain(m)
	case *pg.AlterSystemStmt:
		a.add(sql.Admin, "alter system")
	case *pg.LoadStmt:
		a.add(sql.Admin, "load")
	case *pg.ReturnStmt:
		a.descend(m, sc) // in the body of a function
	default:
		a.unknown(kindOf(m))
		a.descend(m, sc)
	}
}

// procedure takes CALL. What is harmless in a SELECT is a call here all the same.
func (a *analyzer) procedure(f *pg.FuncCall, sc *scope) {
	a.s.ReturnsRows = true
	object := a.named(stringsOf(f.GetFuncname()))
	a.add(sql.Call, object)
	before := slices.Clone(a.s.Effects)
	a.call(f)
	if e := (engine.Effect{Verb: sql.Function, Object: object}); !slices.Contains(before, e) {
		a.s.Effects = slices.DeleteFunc(a.s.Effects, func(other engine.Effect) bool { return other == e })
	}
	a.descend(f, sc)
}

// define takes a statement that creates, alters or drops something. What it
// reads besides (a view's query, a default's function) counts too.
func (a *analyzer) define(m proto.Message, d definition, sc *scope) {
	objects, fields := a.subjects(m)
	if len(objects) == 0 {
		objects = []string{""}
	}
	for _, o := range objects {
		if d.ddl {
			a.add(sql.DDL, o)
		}
		if d.grant {
			a.add(sql.Grant, o)
		}
	}
	if d.admin {
		a.add(sql.Admin, kindOf(m))
	}
	switch m := m.(type) {
	case *pg.DropStmt:
		if m.Behavior == pg.DropBehavior_DROP_CASCADE {
			a.add(sql.DDL, "") // whatever depends on it
		}
	case *pg.CreateFunctionStmt:
		switch language(m.Options) {
		case "sql", "plpgsql":
		default:
			a.add(sql.Admin, "create function in language "+language(m.Options))
		}
	}
	// ALTER ROLE … SET is for sessions to come.
	a.descend(m, sc, append(fields, "setstmt")...)
}

// subjects returns what a statement is about, and the fields that say so and
// are not read from.
func (a *analyzer) subjects(m proto.Message) (objects []string, fields []protoreflect.Name) {
	r := m.ProtoReflect()
	for _, name := range []protoreflect.Name{
		"relation", "view", "table", "sequence", "typevar", "base_stmt", "into", "objects", "object", "relations",
		"trigname", "domainname", "funcname", "func", "defnames", "type_name", "schemaname", "name", "extname", "dbname", "servername", "subname", "pubname", "granted_roles", "roles", "role",
	} {
		fd := r.Descriptor().Fields().ByName(name)
		if fd == nil || !r.Has(fd) {
			continue
		}
		found := a.namesIn(fd, r.Get(fd))
		if len(found) > 0 || fd.Kind() == protoreflect.MessageKind && name != "base_stmt" {
			fields = append(fields, name)
		}
		if len(objects) == 0 {
			objects = found
		}
		if name == "relation" || name == "objects" {
			break
		}
	}
	return objects, fields
}

// namesIn returns the objects that a field names.
func (a *analyzer) namesIn(fd protoreflect.FieldDescriptor, v protoreflect.Value) []string {
	switch {
	case fd.Kind() == protoreflect.StringKind && !fd.IsList():
		return []string{v.String()}
	case fd.Kind() != protoreflect.MessageKind:
		return nil
	case !fd.IsList():
		if o := a.nameOf(v.Message().Interface()); o != "" {
			return []string{o}
		}
		return nil
	}
	var out, parts []string
	for i := range v.List().Len() {
		n, ok := v.List().Get(i).Message().Interface().(*pg.Node)
		if !ok {
			continue
		}
		if s := n.GetString_(); s != nil {
			parts = append(parts, s.Sval)
		} else if o := a.nameOf(inner(n)); o != "" {
			out = append(out, o)
		}
	}
	switch {
	case len(parts) == 0:
	case fd.Name() == "objects":
		for _, p := range parts {
			out = append(out, sql.Object("", p))
		}
	default:
		out = append(out, joined(parts))
	}
	return out
}

// nameOf returns the object that a message names, or "".
func (a *analyzer) nameOf(m proto.Message) string {
	switch m := m.(type) {
	case *pg.Node:
		return a.nameOf(inner(m))
	case *pg.RangeVar:
		return a.table(m).String()
	case *pg.IntoClause:
		return a.table(m.GetRel()).String()
	case *pg.CreateStmt:
		return a.table(m.GetRelation()).String()
	case *pg.List:
		return joined(stringsOf(m.Items))
	case *pg.String:
		return sql.Object("", m.Sval)
	case *pg.TypeName:
		return joined(stringsOf(m.Names))
	case *pg.ObjectWithArgs:
		return joined(stringsOf(m.Objname))
	case *pg.RoleSpec:
		return m.Rolename
	case *pg.AccessPriv:
		return m.PrivName
	}
	return ""
}

// joined makes an object of the parts of a qualified name. The name of a
// database or of a column beside a table's is left out.
func joined(parts []string) string {
	switch len(parts) {
	case 0:
		return ""
	case 1:
		return sql.Object("", parts[0])
	}
	return sql.Object(parts[len(parts)-2], parts[len(parts)-1])
}

func language(options []*pg.Node) string {
	for _, n := range options {
		if d := n.GetDefElem(); d.GetDefname() == "language" {
			return strings.ToLower(d.GetArg().GetString_().GetSval())
		}
	}
	return "plpgsql"
}

func (a *analyzer) maintain(m proto.Message) {
	var tables []*pg.RangeVar
	switch m := m.(type) {
	case *pg.VacuumStmt:
		for _, n := range m.Rels {
			tables = append(tables, n.GetVacuumRelation().GetRelation())
		}
	case *pg.ClusterStmt:
		tables = append(tables, m.Relation)
	case *pg.ReindexStmt:
		tables = append(tables, m.Relation)
	case *pg.RefreshMatViewStmt:
		tables = append(tables, m.Relation)
	}
	done := false
	for _, rv := range tables {
		if rv != nil {
			a.add(sql.Maintenance, a.table(rv).String())
			done = true
		}
	}
	if !done {
		a.add(sql.Maintenance, "")
	}
}

func (a *analyzer) truncate(m *pg.TruncateStmt) {
	for _, n := range m.Relations {
		a.target(n.GetRangeVar(), sql.Truncate)
	}
	if m.Behavior == pg.DropBehavior_DROP_CASCADE {
		a.add(sql.Truncate, "") // whatever refers to it
	}
	a.s.Restricted = false
}

func (a *analyzer) copy(m *pg.CopyStmt, sc *scope) {
	verb := sql.CopyOut
	switch {
	case m.IsProgram:
		verb = sql.CopyProgram
	case m.Filename != "":
		verb = sql.CopyFile
	case m.IsFrom:
		verb = sql.CopyIn
	}
	for _, n := range m.Attlist {
		mark(&a.columns, n.GetString_().GetSval())
	}
	if m.Relation == nil {
		before := len(a.s.Tables)
		a.walk(m.Query, sc)
		for _, t := range a.s.Tables[min(before, len(a.s.Tables)):] {
			a.add(verb, t.String())
		}
		if len(a.s.Tables) == before {
			a.add(verb, "")
		}
		return
	}
	a.s.Star = a.s.Star || len(m.Attlist) == 0
	if m.IsFrom {
		t := a.target(m.Relation, sql.Insert)
		a.add(verb, t.String())
		a.s.Parts = append(a.s.Parts, sql.Part{Verb: sql.Insert, Table: t})
		a.descend(m, sc, "relation")
		return
	}
	t := a.table(m.Relation)
	a.add(readVerb(t), t.String())
	a.add(verb, t.String())
	a.s.Parts = append(a.s.Parts, sql.Part{Verb: sql.Select, Table: t})
	a.descend(m, sc, "relation")
}

// explain takes EXPLAIN. With ANALYZE the statement runs. Without it nothing is
// changed, but the plan tells of the data, and planning calls functions.
func (a *analyzer) explain(m *pg.ExplainStmt, sc *scope) {
	a.s.ReturnsRows = true
	analyzes := false
	for _, n := range m.Options {
		if d := n.GetDefElem(); d.GetDefname() == "analyze" {
			analyzes = !isFalse(d.Arg)
			a.s.ByLiterals = a.s.ByLiterals || d.GetArg().GetInteger() != nil || d.GetArg().GetFloat() != nil
		}
	}
	outer := a.s.Effects
	a.s.Effects = nil
	a.walk(m.Query, sc)
	if s := m.Query.GetSelectStmt(); s != nil && len(a.s.Effects) == 0 {
		a.tableless()
	}
	effects := a.s.Effects
	a.s.Effects = outer
	named := false
	for _, e := range effects {
		switch e.Verb {
		case sql.Select, sql.Insert, sql.Update, sql.Delete, sql.Merge:
			a.add(sql.Explain, e.Object)
			named = true
		}
	}
	if !named {
		a.add(sql.Explain, "")
	}
	for _, e := range effects {
		switch e.Verb {
		case sql.Insert, sql.Update, sql.Delete, sql.Merge, sql.Lock, sql.DDL:
			if !analyzes {
				if e.Verb != sql.DDL {
					a.add(sql.Select, e.Object)
				}
				continue
			}
		}
		a.add(e.Verb, e.Object)
	}
	if !analyzes {
		// The parts are not run, so they change no rows.
		for i := range a.s.Parts {
			a.s.Parts[i].Verb = sql.Select
		}
	}
}

// isFalse says whether an option is switched off.
func isFalse(n *pg.Node) bool {
	switch strings.ToLower(n.GetString_().GetSval()) {
	case "false", "off", "no", "0":
		return true
	}
	return n.GetBoolean() != nil && !n.GetBoolean().Boolval || n.GetInteger() != nil && n.GetInteger().Ival == 0
}

// kindOf names a statement in words: "select", "create table".
func kindOf(m proto.Message) string {
	switch m := m.(type) {
	case nil:
		return ""
	case *pg.SelectStmt:
		if m.IntoClause != nil {
			return "select into"
		}
		return "select"
	case *pg.TransactionStmt:
		return transactionKinds[m.Kind]
	case *pg.FetchStmt:
		if m.Ismove {
			return "move"
		}
		return "fetch"
	}
	name := strings.TrimSuffix(string(m.ProtoReflect().Descriptor().Name()), "Stmt")
	if kind, ok := kinds[name]; ok {
		return kind
	}
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// kinds is where the name of the message is not what people write.
var kinds = map[string]string{
	"Create": "create table", "Index": "create index", "View": "create view", "Rule": "create rule", "CreateTrig": "create trigger",
	"CreateSeq": "create sequence", "AlterSeq": "alter sequence", "Define": "create", "VariableSet": "set", "VariableShow": "show",
	"ConstraintsSet": "set constraints", "DeclareCursor": "declare cursor", "ClosePortal": "close", "Createdb": "create database",
	"Dropdb": "drop database", "RefreshMatView": "refresh materialized view", "CheckPoint": "checkpoint", "Trans": "transaction",
	"CreateEventTrig": "create event trigger", "CompositeType": "create type", "SecLabel": "security label", "CreatePLang": "create language",
}
