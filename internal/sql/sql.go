// Package sql says what a text of SQL would do: its effects, for the policy,
// and the facts about it that a `when` may ask for.
//
// The understanding is PostgreSQL's own grammar. It is a large piece of C, so it
// runs in worker processes (cmd/postern-sqlparse, which holds internal/sql/analyze);
// this package has no cgo. It owns the workers, the cache before them and the
// types of the answer. It knows nothing of connections or catalogs: what only a
// session knows (search_path, unique keys, prepared statements) is put in by the
// protocol through Statement.Resolve, Statement.Execute and ByKey.
//
// Start with Statement, then Classifier. The analysis supposes that the server
// reads the text as the grammar does: the encoding is UTF-8 and
// standard_conforming_strings is on. A protocol must see to both; a statement
// that would change either has the effect unknown.
package sql

import (
	"errors"
	"fmt"

	"github.com/postern/postern/internal/engine"
)

// The verbs of effects. An effect's object is a relation ("schema.name", or
// "name" where the text does not say the schema) unless the comment says
// otherwise. Names that contain a dot or a quote are quoted as in SQL.
const (
	Select      = "select"       // reads rows
	Insert      = "insert"       // adds rows
	Update      = "update"       // changes rows, INSERT … ON CONFLICT DO UPDATE included
	Delete      = "delete"       // removes rows
	Merge       = "merge"        // MERGE, besides the insert, update and delete it names
	Truncate    = "truncate"     // empties a table
	DDL         = "ddl"          // creates, alters or drops something
	Grant       = "grant"        // privileges, roles, ownership
	CopyIn      = "copy-in"      // COPY … FROM STDIN, besides insert
	CopyOut     = "copy-out"     // COPY … TO STDOUT, besides select
	CopyFile    = "copy-file"    // COPY from or to a file on the server
	CopyProgram = "copy-program" // COPY from or to a program on the server
	Call        = "call"         // CALL of a procedure: the procedure
	Do          = "do"           // a DO block, not looked into: its language
	Set         = "set"          // a parameter that matters: the parameter
	Session     = "session"      // transactions, SHOW, harmless SET, cursors, SELECT 1: a word for which
	Lock        = "lock"         // LOCK, SELECT … FOR UPDATE, advisory locks
	Listen      = "listen"       // LISTEN and UNLISTEN: the channel
	Notify      = "notify"       // NOTIFY and pg_notify: the channel
	Explain     = "explain"      // EXPLAIN, besides what it reads; ANALYZE besides all its statement does
	Function    = "function"     // a function or operator that is not known to be harmless: its name
	Admin       = "admin"        // files, network, other sessions, the server: the function or command
	Sensitive   = "sensitive"    // reads a catalog with password hashes, samples of data or others' statements
	Maintenance = "maintenance"  // VACUUM, ANALYZE, REINDEX, CLUSTER, REFRESH, CHECKPOINT
	Filter      = engine.Filter  // a masked column decides what comes back: the column
	Derive      = engine.Derive  // a masked column is written elsewhere: the column
	Replication = "replication"  // a connection of that kind; for the protocol, no statement has it
)

// Verbs is every verb of an effect, for engine.Protocol.
var Verbs = []string{
	Select, Insert, Update, Delete, Merge, Truncate, DDL, Grant, CopyIn, CopyOut, CopyFile, CopyProgram,
	Call, Do, Set, Session, Lock, Listen, Notify, Explain, Function, Admin, Sensitive, Maintenance, Filter, Derive,
	Replication, engine.Unknown,
}

// The names of facts.
const (
	FactTables     = "sql.tables"
	FactRelations  = "sql.relations"
	FactColumns    = "sql.columns"
	FactFunctions  = "sql.functions"
	FactRestricted = "sql.restricted"
	FactByKey      = "sql.by_key"
	FactLimit      = "sql.limit"
	FactJoins      = "sql.joins"
	FactStatements = "sql.statements"
	FactKind       = "sql.kind"
	FactParameters = "sql.parameters"
	FactPivot      = "sql.pivot"

	FactInTransaction = "sql.in_transaction"
)

// Facts is every fact a statement may carry, for engine.Protocol.
var Facts = []engine.Fact{
	{Name: FactTables, Type: engine.TextSet, Help: "the tables it touches, without their schemas"},
	{Name: FactRelations, Type: engine.TextSet, Help: "the tables it touches, as schema.table; unknown when the schema of one is"},
	{Name: FactColumns, Type: engine.TextSet, Help: `the columns it names anywhere; "*" stands for all of a table`},
	{Name: FactFunctions, Type: engine.TextSet, Help: "the functions it calls, without their schemas"},
	{Name: FactRestricted, Type: engine.Bool, Help: "every SELECT, UPDATE and DELETE in it has a condition on a column that is not always true"},
	{Name: FactByKey, Type: engine.Bool, Help: "every row it changes (or, when it changes none, reads) is named by a unique key or is a new row written out"},
	{Name: FactLimit, Type: engine.Int, Help: "the LIMIT of the outermost SELECT; unknown when there is none"},
	{Name: FactJoins, Type: engine.Int, Help: "how many joins there are, in all of it"},
	{Name: FactStatements, Type: engine.Int, Help: "how many statements the text holds"},
	{Name: FactKind, Type: engine.Text, Help: `what it is, such as "select" or "create table"; "batch" when the text holds several kinds`},
	{Name: FactParameters, Type: engine.Int, Help: "the highest $n"},
	{Name: FactPivot, Type: engine.Bool, Help: "it acts outside of the gateway: files, programs or connections of the server; unknown where code is not looked into"},
	{Name: FactInTransaction, Type: engine.Bool, Passing: true, Help: "a transaction block is open when it begins; unknown while an earlier statement that opens or ends one is still running"},
}

// Statement is all that one text does, every statement of a batch included. It
// is made once and shared: nobody changes it. Equal pointers promise equal
// contents, so it serves as engine.Request.Memo.
type Statement struct {
	Effects []engine.Effect // without doubles, in order of appearance; never empty
	Facts   map[string]any  // by the names above; by_key is never among them, see ByKey

	Kinds     []string // what each statement is, in lower case: "select", "create table"
	Tables    []Table  // every table named, in order of appearance
	Columns   []string // sorted; "*" when Star
	Star      bool     // a whole row is named somewhere: *, t.*, t, RETURNING *, INSERT without columns
	Functions []string // sorted, qualified as written or known

	Uses       []Use      // columns that are used for more than to be shown
	Equalities []Equality // columns that are compared with parameters or literals, or set to them
	Outputs    []Output   // of the one result that there is; nil where its columns are not known
	Copied     *Copied    // when it is one COPY … TO STDOUT and nothing else

	Parts        []Part        // each SELECT, INSERT, UPDATE, DELETE and MERGE in it, at any depth
	Settings     []Setting     // parameters it sets, in order
	Transactions []Transaction // what it does to transactions, in order
	Prepares     []Prepared    // SQL-level PREPAREs in it
	Executes     []string      // names that it EXECUTEs; each is also an unknown effect until Execute
	Deallocates  []string      // names it DEALLOCATEs, "" for all of them

	ReadsOnly   bool // every effect is select or session, so that running it changes nothing in the database
	DDL         bool // has effects ddl, grant or truncate, so catalogs and unique keys may change
	ReturnsRows bool // a statement in it may answer with rows
	Restricted  bool
	Limit       int64 // -1: none, or not a constant
	Joins       int
	Parameters  int

	// ByLiterals says that numbers in the text matter for what stands here, so
	// that another text of the same shape may have another answer.
	ByLiterals bool
}

// Table is a relation as the text names it.
type Table struct {
	Schema string // empty: the text does not say
	Name   string
}

// String returns the form of an effect's object.
func (t Table) String() string {
	if t.Schema == "" {
		return quote(t.Name)
	}
	return quote(t.Schema) + "." + quote(t.Name)
}

// Column is a column as far as the text tells. Where the text does not qualify
// its name it may be one of several tables, and each of them has a Column; those
// that the catalog does not have are not meant.
type Column struct {
	Table Table
	Name  string // "*": any of the row
	Sure  bool   // qualified: where the table has no such column, the name is a function of the row
}

// Purpose is what a column is used for, besides being shown.
type Purpose uint8

const (
	Filters Purpose = iota + 1 // a condition, an order, a group, a join, or what may fail by the value
	Derives                    // it is written elsewhere, or given to a function that is not known
)

// Use is a column and what it is used for.
type Use struct {
	Purpose Purpose
	Column  Column
}

// Equality is a column that must be equal to a parameter or a literal, or is set
// to one. Nothing else in the text uses that value.
type Equality struct {
	Column  Column
	Place   int // of a column that has no name in the text: the n-th of its table
	Param   int // $n, 0 for a literal
	Literal int // which of Literals, from 1; 0 for a parameter
	Assigns bool
}

// Output is one column of a result.
type Output struct {
	From []Column // what it is, or may be computed from
}

// Copied is how a COPY … TO STDOUT writes its rows.
type Copied struct {
	// Query has the same columns in its result, and may be described in place of
	// the COPY, of which PostgreSQL tells no columns.
	Query     string
	Table     Table // all of whose columns but generated ones are copied; else zero
	CSV       bool
	Header    bool   // the first line names the columns
	Null      string // how NULL is written
	Delimiter byte
	Quote     byte // of CSV
	Escape    byte // of CSV: before a quote in quotes
	Encoding  string
}

// Part is one SELECT, INSERT, UPDATE, DELETE or MERGE.
type Part struct {
	Verb         string
	Table        Table    // the one table it changes, or reads from; zero when there is none or several
	EqualColumns []string // columns of Table that the whole WHERE binds to constants or parameters
	Written      bool     // an INSERT whose rows are written out: VALUES or DEFAULT VALUES
	Restricted   bool     // its WHERE is a real restriction
}

// Setting is one parameter that a statement sets.
type Setting struct {
	Name  string // in lower case; "all" for RESET ALL and DISCARD ALL
	Value string // as text, lists joined by ", "; empty when Reset or not Known
	Known bool   // the value is a constant
	Reset bool   // RESET, or SET … TO DEFAULT
	Local bool   // until the end of the transaction
}

// Transaction is one step in the life of a transaction.
type Transaction struct {
	Step  TransactionStep
	Name  string // of a savepoint or a prepared transaction
	Chain bool   // COMMIT or ROLLBACK … AND CHAIN
}

// TransactionStep says what a transaction statement does.
type TransactionStep uint8

const (
	Begin TransactionStep = iota + 1
	Commit
	Rollback
	Savepoint
	Release
	RollbackTo
	PrepareTransaction
	CommitPrepared
	RollbackPrepared
)

// Prepared is a statement that SQL's PREPARE gives a name.
type Prepared struct {
	Name      string
	Statement *Statement
}

// ErrSyntax is what the grammar refuses.
type ErrSyntax struct {
	Message  string
	Position int // in characters from 1; 0 when not known
}

func (e *ErrSyntax) Error() string {
	if e.Position == 0 {
		return e.Message
	}
	return fmt.Sprintf("%s at character %d", e.Message, e.Position)
}

// ErrWorker is returned when no worker could say what the text does: it died,
// was too slow, or none could be started. The request is to be denied.
var ErrWorker = errors.New("the statement could not be analysed")
