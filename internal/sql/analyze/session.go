package analyze

import (
	"slices"
	"strconv"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"

	"github.com/postern/postern/internal/sql"
)

var transactionKinds = map[pg.TransactionStmtKind]string{
	pg.TransactionStmtKind_TRANS_STMT_BEGIN:             "begin",
	pg.TransactionStmtKind_TRANS_STMT_START:             "begin",
	pg.TransactionStmtKind_TRANS_STMT_COMMIT:            "commit",
	pg.TransactionStmtKind_TRANS_STMT_ROLLBACK:          "rollback",
	pg.TransactionStmtKind_TRANS_STMT_SAVEPOINT:         "savepoint",
	pg.TransactionStmtKind_TRANS_STMT_RELEASE:           "release",
	pg.TransactionStmtKind_TRANS_STMT_ROLLBACK_TO:       "rollback to",
	pg.TransactionStmtKind_TRANS_STMT_PREPARE:           "prepare transaction",
	pg.TransactionStmtKind_TRANS_STMT_COMMIT_PREPARED:   "commit prepared",
	pg.TransactionStmtKind_TRANS_STMT_ROLLBACK_PREPARED: "rollback prepared",
}

var transactionSteps = map[string]sql.TransactionStep{
	"begin": sql.Begin, "commit": sql.Commit, "rollback": sql.Rollback, "savepoint": sql.Savepoint, "release": sql.Release,
	"rollback to": sql.RollbackTo, "prepare transaction": sql.PrepareTransaction,
	"commit prepared": sql.CommitPrepared, "rollback prepared": sql.RollbackPrepared,
}

func (a *analyzer) transaction(m *pg.TransactionStmt) {
	kind := transactionKinds[m.Kind]
	step, ok := transactionSteps[kind]
	if !ok {
		a.unknown("transaction")
		return
	}
	t := sql.Transaction{Step: step, Name: m.SavepointName, Chain: m.Chain}
	switch step {
	case sql.PrepareTransaction, sql.CommitPrepared, sql.RollbackPrepared:
		// It outlives the session, and another session's may be meant.
		t.Name = m.Gid
		a.add(sql.Admin, kind)
	default:
		a.add(sql.Session, kind)
	}
	a.s.Transactions = append(a.s.Transactions, t)
}

func (a *analyzer) variable(m *pg.VariableSetStmt) {
	name := strings.ToLower(m.Name)
	switch m.Kind {
	case pg.VariableSetKind_VAR_SET_MULTI: // SET TRANSACTION and its kin
		a.add(sql.Session, "set transaction")
		return
	case pg.VariableSetKind_VAR_RESET_ALL:
		a.add(sql.Session, "reset all")
		a.s.Settings = append(a.s.Settings, sql.Setting{Name: "all", Reset: true})
		return
	}
	s := sql.Setting{Name: name, Local: m.IsLocal}
	switch m.Kind {
	case pg.VariableSetKind_VAR_SET_DEFAULT, pg.VariableSetKind_VAR_RESET:
		s.Reset = true
	case pg.VariableSetKind_VAR_SET_VALUE:
		s.Value, s.Known = a.values(m.Args)
	}
	a.set(s)
}

// values joins the constants of a SET.
func (a *analyzer) values(args []*pg.Node) (string, bool) {
	var out []string
	for _, n := range args {
		if c := n.GetTypeCast(); c != nil {
			n = c.Arg
		}
		c := n.GetAConst()
		switch v := c.GetVal().(type) {
		case *pg.A_Const_Sval:
			out = append(out, v.Sval.Sval)
		case *pg.A_Const_Ival:
			a.s.ByLiterals = true
			out = append(out, strconv.Itoa(int(v.Ival.Ival)))
		case *pg.A_Const_Fval:
			a.s.ByLiterals = true
			out = append(out, v.Fval.Fval)
		default:
			return "", false
		}
	}
	return strings.Join(out, ", "), true
}

// set gives a setting its effect. What would change how the server reads
// statements is unknown, since nothing said here would hold after it.
func (a *analyzer) set(s sql.Setting) {
	a.s.Settings = append(a.s.Settings, s)
	if len(a.s.Settings) > maxEffects {
		panic(errTooMuch)
	}
	switch {
	case s.Name == "client_encoding" && !s.Reset && !(s.Known && isUTF8(s.Value)),
		s.Name == "standard_conforming_strings" && !s.Reset && !(s.Known && isOn(s.Value)):
		a.unknown(s.Name)
	case s.Name == "client_encoding", s.Name == "standard_conforming_strings", harmlessSettings[s.Name],
		s.Name == "search_path" && s.Known && (s.Value == "" || s.Value == "pg_catalog"):
		a.add(sql.Session, s.Name)
	default:
		a.add(sql.Set, s.Name)
	}
}

func isUTF8(encoding string) bool {
	word := strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r == ' ' {
			return -1
		}
		return r
	}, strings.ToLower(encoding))
	return word == "utf8" || word == "unicode"
}

func isOn(value string) bool {
	switch strings.ToLower(value) {
	case "on", "true", "yes", "1":
		return true
	}
	return false
}

func (a *analyzer) discard(m *pg.DiscardStmt) {
	a.add(sql.Session, "discard")
	if m.Target == pg.DiscardMode_DISCARD_ALL {
		a.s.Settings = append(a.s.Settings, sql.Setting{Name: "all", Reset: true})
		a.s.Deallocates = append(a.s.Deallocates, "")
	}
}

// byName takes the statements about prepared statements and cursors.
func (a *analyzer) byName(m proto.Message, sc *scope) {
	switch m := m.(type) {
	case *pg.PrepareStmt:
		a.prepare(m, sc)
	case *pg.ExecuteStmt:
		a.s.ReturnsRows = true
		if !slices.Contains(a.s.Executes, m.Name) {
			a.s.Executes = append(a.s.Executes, m.Name)
		}
		a.unknown(sql.ExecuteObject(m.Name))
		a.descend(m, sc)
	case *pg.DeallocateStmt:
		a.add(sql.Session, "deallocate")
		a.s.Deallocates = append(a.s.Deallocates, m.Name)
	case *pg.DeclareCursorStmt:
		a.add(sql.Session, "declare")
		a.walk(m.Query, sc)
	case *pg.FetchStmt:
		a.s.ReturnsRows = a.s.ReturnsRows || !m.Ismove
		a.add(sql.Session, kindOf(m))
	case *pg.ClosePortalStmt:
		a.add(sql.Session, "close")
	}
}

// prepare takes PREPARE. Its statement has its effects here already: what may
// not run is refused as early as can be.
func (a *analyzer) prepare(m *pg.PrepareStmt, sc *scope) {
	inside, err := analyze([]*pg.RawStmt{{Stmt: m.Query}}, "")
	if err != nil {
		a.unknown("prepare")
		return
	}
	a.s.Prepares = append(a.s.Prepares, sql.Prepared{Name: m.Name, Statement: inside})
	if len(a.s.Prepares) > maxEffects {
		panic(errTooMuch)
	}
	a.s.ByLiterals = a.s.ByLiterals || inside.ByLiterals
	a.add(sql.Session, "prepare")
	a.walk(m.Query, sc)
}
