package sql

import (
	"strings"

	"github.com/postern/postern/internal/engine"
)

// A pivot is an effect that acts outside of the gateway: the server itself
// reads or writes files, runs programs, connects elsewhere, or loads code that
// can. What comes of it is neither decided nor masked nor on record.

// insideAdmin is what has the verb admin and stays within the database: other
// sessions, waiting, statistics. All else with that verb counts as a pivot.
var insideAdmin = map[string]bool{
	"pg_sleep": true, "pg_sleep_for": true, "pg_sleep_until": true, "pg_cancel_backend": true, "pg_terminate_backend": true,
	"pg_reload_conf": true, "pg_promote": true, "pg_switch_wal": true, "pg_export_snapshot": true, "pg_prewarm": true,
	"pg_log_standby_snapshot": true, "pg_create_restore_point": true, "pg_wal_replay_pause": true, "pg_wal_replay_resume": true,
	"pg_nextoid": true, "pg_relation_filepath": true, "pg_current_logfile": true, "pg_config": true, "currtid": true, "currtid2": true,
	"current_query": true, "loread": true, "lowrite": true, "lo_create": true, "lo_creat": true, "lo_open": true, "lo_close": true,
	"lo_unlink": true, "lo_get": true, "lo_put": true, "lo_from_bytea": true, "lo_truncate": true, "lo_truncate64": true,
	"lo_lseek": true, "lo_lseek64": true, "lo_tell": true, "lo_tell64": true,
	"prepare transaction": true, "commit prepared": true, "rollback prepared": true,
	"create database": true, "alter database": true, "alter database set": true, "create publication": true,
	"create event trigger": true, "alter event trigger": true,
}

// trustedLanguages are those whose code can do no more than SQL can.
var trustedLanguages = map[string]bool{"": true, "sql": true, "plpgsql": true, "plperl": true, "pltcl": true, "plv8": true}

// Pivot says whether an effect acts outside of the gateway. Of a function that
// is somebody's own it cannot be told, and is not said.
func Pivot(e engine.Effect) bool {
	switch e.Verb {
	case CopyFile, CopyProgram, Replication:
		return true
	case Do:
		return !trustedLanguages[e.Object]
	case Admin:
		_, name := Split(e.Object)
		return !insideAdmin[name] && !strings.HasPrefix(name, "drop ") && !strings.HasPrefix(name, "pg_stat_reset")
	}
	return false
}

// pivots is the fact: true when an effect is one, not known when something was
// not looked into.
func pivots(effects []engine.Effect) (pivot, known bool) {
	known = true
	for _, e := range effects {
		switch e.Verb {
		case engine.Unknown, Do, Call, Function:
			known = false
		}
		if Pivot(e) {
			return true, true
		}
	}
	return false, known
}

// Pivots is an example of every kind of pivot, for the warnings of a policy that
// lets one through.
var Pivots = []engine.Effect{
	{Verb: CopyProgram},
	{Verb: CopyFile},
	{Verb: Admin, Object: "dblink"},
	{Verb: Admin, Object: "pg_catalog.lo_export"},
	{Verb: Admin, Object: "pg_catalog.lo_import"},
	{Verb: Admin, Object: "pg_catalog.pg_read_file"},
	{Verb: Admin, Object: "create extension"},
	{Verb: Admin, Object: "create foreign server"},
	{Verb: Admin, Object: "create subscription"},
	{Verb: Admin, Object: "create function in language c"},
	{Verb: Admin, Object: "load"},
	{Verb: Admin, Object: "alter system"},
	{Verb: Do, Object: "plpython3u"},
	{Verb: Do, Object: "plperlu"},
}
