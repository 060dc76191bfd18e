package analyze

import (
	"strings"

	"github.com/postern/postern/internal/sql"
)

// catalogRelations is the tables and views of pg_catalog up to PostgreSQL 18.
var catalogRelations = set(`
	pg_aggregate pg_aios pg_am pg_amop pg_amproc pg_attrdef pg_attribute pg_auth_members pg_authid pg_available_extension_versions
	pg_available_extensions pg_backend_memory_contexts pg_cast pg_class pg_collation pg_config pg_constraint pg_conversion pg_cursors
	pg_database pg_db_role_setting pg_default_acl pg_depend pg_description pg_enum pg_event_trigger pg_extension pg_file_settings
	pg_foreign_data_wrapper pg_foreign_server pg_foreign_table pg_group pg_hba_file_rules pg_ident_file_mappings pg_index pg_indexes
	pg_inherits pg_init_privs pg_language pg_largeobject pg_largeobject_metadata pg_locks pg_matviews pg_namespace pg_opclass pg_operator
	pg_opfamily pg_parameter_acl pg_partitioned_table pg_policies pg_policy pg_prepared_statements pg_prepared_xacts pg_proc pg_publication
	pg_publication_namespace pg_publication_rel pg_publication_tables pg_range pg_replication_origin pg_replication_origin_status
	pg_replication_slots pg_rewrite pg_roles pg_rules pg_seclabel pg_seclabels pg_sequence pg_sequences pg_settings pg_shadow pg_shdepend
	pg_shdescription pg_shmem_allocations pg_shmem_allocations_numa pg_shseclabel pg_stat_activity pg_stat_all_indexes pg_stat_all_tables
	pg_stat_archiver pg_stat_bgwriter pg_stat_checkpointer pg_stat_database pg_stat_database_conflicts pg_stat_gssapi pg_stat_io
	pg_stat_progress_analyze pg_stat_progress_basebackup pg_stat_progress_cluster pg_stat_progress_copy pg_stat_progress_create_index
	pg_stat_progress_vacuum pg_stat_recovery_prefetch pg_stat_replication pg_stat_replication_slots pg_stat_slru pg_stat_ssl
	pg_stat_subscription pg_stat_subscription_stats pg_stat_sys_indexes pg_stat_sys_tables pg_stat_user_functions pg_stat_user_indexes
	pg_stat_user_tables pg_stat_wal pg_stat_wal_receiver pg_stat_xact_all_tables pg_stat_xact_sys_tables pg_stat_xact_user_functions
	pg_stat_xact_user_tables pg_statio_all_indexes pg_statio_all_sequences pg_statio_all_tables pg_statio_sys_indexes pg_statio_sys_sequences
	pg_statio_sys_tables pg_statio_user_indexes pg_statio_user_sequences pg_statio_user_tables pg_statistic pg_statistic_ext
	pg_statistic_ext_data pg_stats pg_stats_ext pg_stats_ext_exprs pg_subscription pg_subscription_rel pg_tables pg_tablespace
	pg_timezone_abbrevs pg_timezone_names pg_transform pg_trigger pg_ts_config pg_ts_config_map pg_ts_dict pg_ts_parser pg_ts_template pg_type
	pg_user pg_user_mapping pg_user_mappings pg_views pg_wait_events`)

// sensitiveRelations shows password hashes and connection strings, samples of
// the data of tables, or what other sessions run. The statistics extensions are
// in whatever schema they were installed to.
var sensitiveRelations = set(`
	pg_authid pg_shadow pg_db_role_setting pg_user_mapping pg_user_mappings pg_foreign_server pg_subscription
	pg_hba_file_rules pg_ident_file_mappings pg_file_settings
	pg_statistic pg_stats pg_statistic_ext_data pg_stats_ext pg_stats_ext_exprs pg_largeobject
	pg_stat_activity pg_stat_replication pg_stat_wal_receiver pg_stat_subscription
	pg_stat_statements pg_stat_statements_info pg_stat_monitor pg_dist_authinfo
	user_mapping_options foreign_server_options _pg_foreign_servers _pg_user_mappings`)

// harmlessSettings may be set by any session: they change how values look or
// how long things may take, not what a statement means or may do.
var harmlessSettings = set(`
	application_name bytea_output client_min_messages datestyle extra_float_digits gin_fuzzy_search_limit
	idle_in_transaction_session_timeout idle_session_timeout intervalstyle lc_messages lc_monetary lc_numeric lc_time
	lock_timeout statement_timeout transaction_timeout timezone timezone_abbreviations xmlbinary xmloption
	client_connection_check_interval tcp_keepalives_idle tcp_keepalives_interval tcp_keepalives_count tcp_user_timeout
	default_transaction_isolation default_transaction_read_only default_transaction_deferrable
	transaction_isolation transaction_read_only transaction_deferrable seed
	jit max_parallel_workers_per_gather enable_seqscan enable_indexscan enable_bitmapscan
	enable_hashjoin enable_mergejoin enable_nestloop enable_sort enable_hashagg enable_material enable_memoize
	cursor_tuple_fraction random_page_cost seq_page_cost effective_cache_size from_collapse_limit join_collapse_limit
	geqo plan_cache_mode quote_all_identifiers default_text_search_config array_nulls
	synchronize_seqscans check_function_bodies escape_string_warning default_with_oids restrict_nonsystem_relation_kind`)

// set splits a text into words.
func set(words string) map[string]bool {
	out := map[string]bool{}
	for _, w := range strings.Fields(words) {
		out[w] = true
	}
	return out
}

// readVerb is the verb of reading a table.
func readVerb(t sql.Table) string {
	if sensitiveRelations[t.Name] {
		return sql.Sensitive
	}
	return sql.Select
}

func isCatalog(t sql.Table) bool { return t.Schema == "pg_catalog" || t.Schema == "information_schema" }
