package analyze

import (
	_ "embed"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/postern/postern/internal/sql"
)

//go:embed pure.txt
var pureText string

// pureFunctions is the functions of pg_catalog whose call is no effect.
var pureFunctions = func() map[string]bool {
	var words strings.Builder
	for line := range strings.Lines(pureText) {
		if !strings.HasPrefix(line, "#") {
			words.WriteString(line)
		}
	}
	return set(words.String())
}()

// sessionFunctions tell about the session. A SELECT of nothing else is how
// clients say hello.
var sessionFunctions = set(`
	version current_database current_schema current_schemas current_user session_user current_setting
	pg_backend_pid pg_client_encoding pg_is_in_recovery pg_postmaster_start_time pg_conf_load_time pg_my_temp_schema
	pg_is_other_temp_schema pg_listening_channels pg_trigger_depth pg_jit_available pg_typeof getdatabaseencoding
	inet_client_addr inet_client_port inet_server_addr inet_server_port
	now clock_timestamp statement_timestamp transaction_timestamp timeofday
	txid_current txid_current_if_assigned pg_current_xact_id pg_current_xact_id_if_assigned`)

// rowFunctions take a whole row as their only argument, so that t.f is one of
// their calls where t has no column f.
var rowFunctions = set(`
	to_json to_jsonb row_to_json json_agg jsonb_agg json_agg_strict jsonb_agg_strict array_agg json_build_array jsonb_build_array
	concat count quote_literal quote_nullable hash_record any_value array_sample record_out record_send
	hash_record_extended max min xmlforest lag lead first_value last_value`)

// adminFunctions reach files, the network, other sessions or the server, or run
// a query that is given as text. They are known by their name in any schema:
// extensions go where they are installed to.
var adminFunctions = set(`
	cursor_to_xml cursor_to_xmlschema database_to_xml database_to_xml_and_xmlschema database_to_xmlschema
	query_to_xml query_to_xml_and_xmlschema query_to_xmlschema schema_to_xml schema_to_xml_and_xmlschema schema_to_xmlschema
	table_to_xml table_to_xml_and_xmlschema table_to_xmlschema ts_stat ts_rewrite xpath_table crosstab crosstabn connectby
	loread lowrite pg_cancel_backend pg_terminate_backend pg_reload_conf pg_stat_file pg_promote pg_switch_wal pg_sleep
	pg_sleep_for pg_sleep_until pg_current_logfile pg_config pg_export_snapshot pg_import_system_collations pg_nextoid
	pg_extension_config_dump pg_log_standby_snapshot pg_relation_filepath pg_drop_replication_slot
	pg_logical_emit_message pg_create_restore_point pg_wal_replay_pause pg_wal_replay_resume pg_stop_making_pinned_objects
	pg_file_write pg_file_read pg_file_rename pg_file_unlink pg_file_sync pg_file_length pg_logdir_ls
	pg_prewarm http http_get http_post http_put http_delete http_patch http_head plsh plpython_call_handler
	file_fdw_handler postgres_fdw_get_connections postgres_fdw_disconnect postgres_fdw_disconnect_all
	currtid currtid2 current_query suppress_redundant_updates_trigger`)

// adminPrefixes are families of such functions.
var adminPrefixes = []string{
	"dblink", "lo_", "pg_read_", "pg_ls_", "pg_backup_", "pg_start_backup", "pg_stop_backup", "pg_rotate_logfile",
	"pg_replication_", "pg_logical_slot_", "pg_create_logical_", "pg_create_physical_", "pg_copy_logical_", "pg_copy_physical_",
	"pg_control_", "pg_stat_reset", "pg_log_backend", "binary_upgrade_", "pg_sync_", "aws_", "lambda_", "cron_", "pg_restore_",
	"pg_clear_", "brin_summarize", "brin_desummarize", "gin_clean",
}

// sensitiveFunctions show what the sensitive relations show.
var sensitiveFunctions = set(`
	pg_stat_get_activity pg_stat_get_backend_activity pg_stat_get_wal_senders pg_stat_get_wal_receiver pg_stat_get_subscription
	pg_mcv_list_items pg_hba_file_rules pg_ident_file_mappings pg_show_all_file_settings pg_stat_statements pg_prepared_statement pg_cursor`)

// knownOperators is the names of operators of pg_catalog. An operator of
// another name is somebody's function.
var knownOperators = set(`!! !~ !~* !~~ !~~* # ## #- #> #>> % & && &< &<| &> * *< *<= *<> *= *> *>= + - -> ->> -|- / < <-> <<
	<<= <<| <= <> != <@ <^ = > >= >> >>= >^ ? ?# ?& ?- ?-| ?| ?|| @ @-@ @> @? @@ @@@ ^ ^@ | |&> |/ |>> || ||/ ~ ~* ~<=~ ~<~ ~=
	~>=~ ~>~ ~~ ~~*`)

// call takes a function call.
func (a *analyzer) call(f *pg.FuncCall) {
	name := stringsOf(f.Funcname)
	if len(name) == 0 {
		return
	}
	if !builtin(name) {
		a.function(name)
		return
	}
	switch last := name[len(name)-1]; last {
	case "set_config":
		a.named(name)
		a.setConfig(f)
	case "pg_notify":
		a.named(name)
		a.add(sql.Notify, textOf(argument(f, 0)))
	default:
		a.function(name)
	}
}

// builtin says whether a name means a function of pg_catalog, provided that
// there is one of that name: pg_catalog comes first in the search_path.
func builtin(name []string) bool {
	return len(name) == 1 || len(name) == 2 && name[0] == "pg_catalog"
}

// ofStandard says whether a function is one of those that the views of
// information_schema are made of, and JDBC's metadata too.
func ofStandard(name []string) bool {
	return len(name) == 2 && name[0] == "information_schema" && strings.HasPrefix(name[1], "_pg_")
}

// named remembers that a function is called and returns its object.
func (a *analyzer) named(name []string) string {
	last := name[len(name)-1]
	object := sql.Object("", last)
	switch {
	case builtin(name) && isKnown(last):
		object = sql.Object("pg_catalog", last)
	case len(name) > 1:
		object = sql.Object(name[len(name)-2], last)
	}
	mark(&a.functions, object)
	return object
}

func isKnown(name string) bool {
	return pureFunctions[name] || adminFunctions[name] || sensitiveFunctions[name] || name == "set_config" || name == "pg_notify" ||
		name == "nextval" || name == "setval" ||
		strings.HasPrefix(name, "lo_") || strings.HasPrefix(name, "pg_")
}

// function gives a call of a function its effect, by its name.
func (a *analyzer) function(name []string) {
	if len(name) == 0 {
		return
	}
	object, last := a.named(name), name[len(name)-1]
	switch {
	case adminFunctions[last], hasPrefix(last, adminPrefixes):
		a.add(sql.Admin, object)
	case sensitiveFunctions[last]:
		a.add(sql.Sensitive, object)
	case strings.Contains(last, "advisory_"):
		a.add(sql.Lock, object)
	case builtin(name) && pureFunctions[last], ofStandard(name):
		a.plain = append(a.plain, last)
	case last == "set_config", last == "pg_notify":
		a.add(sql.Admin, object) // called in a way whose arguments were not read
	default:
		a.add(sql.Function, object)
	}
}

// operator takes an operator's name.
func (a *analyzer) operator(nodes []*pg.Node) {
	name := stringsOf(nodes)
	if len(name) == 0 {
		return
	}
	last := name[len(name)-1]
	switch {
	case builtin(name) && (knownOperators[last] || isWord(last)):
	case len(name) > 1:
		a.add(sql.Function, sql.Object(name[len(name)-2], last))
	default:
		a.add(sql.Function, sql.Object("", last))
	}
}

// isWord says whether an operator is one that the grammar spells, such as
// BETWEEN.
func isWord(op string) bool { return op != "" && op[0] >= 'A' && op[0] <= 'Z' }

// setConfig takes set_config(name, value, local), which is SET.
func (a *analyzer) setConfig(f *pg.FuncCall) {
	name, ok := a.settingName(f)
	if !ok || len(f.Args) != 3 || argument(f, 0).GetNamedArgExpr() != nil {
		a.unknown("set_config")
		return
	}
	value, known := constantText(argument(f, 1))
	local := argument(f, 2).GetTypeCast().GetArg().GetAConst().GetSval().GetSval()
	setting := sql.Setting{
		Name: strings.ToLower(name), Value: value, Known: known,
		Local: argument(f, 2).GetAConst().GetBoolval().GetBoolval() || strings.HasPrefix(local, "t"),
	}
	if argument(f, 1).GetAConst().GetIsnull() {
		setting.Reset, setting.Known = true, false
	}
	a.set(setting)
}

func argument(f *pg.FuncCall, i int) *pg.Node {
	if i >= len(f.Args) {
		return nil
	}
	return f.Args[i]
}

func textOf(n *pg.Node) string { s, _ := constantText(n); return s }

// constantText returns the text of a string constant, cast or not.
func constantText(n *pg.Node) (string, bool) {
	if c := n.GetTypeCast(); c != nil {
		n = c.Arg
	}
	c := n.GetAConst()
	if c == nil || c.Isnull || c.GetSval() == nil {
		return "", false
	}
	return c.GetSval().Sval, true
}

func hasPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
