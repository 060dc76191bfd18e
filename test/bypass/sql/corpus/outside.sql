## copy-program,insert | leaves
COPY orders TO PROGRAM 'cat > @FILE@'

COPY (SELECT 1) TO PROGRAM 'touch @FILE@'

COPY scratch (note) FROM PROGRAM 'touch @FILE@; echo x'

copy/**/orders/**/to/**/program/**/'cat > @FILE@'

COPY orders TO PROGRAM E'cat > @FILE@'

COPY orders TO PROGRAM U&'cat > @FILE@'

SELECT 1; COPY orders TO PROGRAM 'cat > @FILE@'

COPY orders TO PROGRAM 'cat > @FILE@' WITH (FORMAT csv)

BEGIN; COPY orders TO PROGRAM 'cat > @FILE@'; ROLLBACK

## copy-file | leaves
COPY orders TO '@FILE@'

COPY (SELECT 'x') TO '@FILE@' WITH BINARY

COPY orders (id) TO '@FILE@' CSV

## copy-file,insert,ddl | runs
COPY scratch (note) FROM '/etc/hostname'

CREATE TEMP TABLE f (l text); COPY f FROM '/etc/passwd'; SELECT * FROM f

## function,admin,unknown,do,select,sensitive | shows
SELECT pg_read_file('@SECRET@')

SELECT pg_read_file('@SECRET@', 0, 100)

SELECT pg_catalog.pg_read_file('@SECRET@')

SELECT "pg_read_file"('@SECRET@')

SELECT convert_from(pg_read_binary_file('@SECRET@'), 'UTF8')

SELECT * FROM pg_read_file('@SECRET@') AS t

SELECT id FROM orders WHERE pg_read_file('@SECRET@')::int = id

SELECT lo_import('@SECRET@', 4712); SELECT convert_from(lo_get(4712), 'UTF8')

DO $$ BEGIN PERFORM lo_import('@SECRET@', 4713); END $$; SELECT convert_from(loread(lo_open(4713, 262144), 100), 'UTF8')

SELECT * FROM dblink('host=@SOCKET@ port=@PORT@ dbname=@DB@ user=postgres', 'SELECT email FROM customers') AS t (email text)

SELECT dblink_exec('host=@SOCKET@ port=@PORT@ dbname=@DB@ user=postgres', 'DELETE FROM orders'), 'canary-effect'

SELECT * FROM query_to_xml('SELECT email FROM customers', true, true, '')

SELECT table_to_xml('customers', true, true, '')

SELECT schema_to_xml('public', true, true, '')

SELECT database_to_xml(true, true, '')

SELECT cursor_to_xml(leak('c'), 10, true, true, '')

SELECT leaking()

SELECT * FROM leaking() AS t (e)

SELECT xpath('//email/text()', query_to_xml('SELECT email FROM customers', true, false, ''))

SELECT pg_ls_dir('@HERE@')

SELECT name FROM pg_ls_waldir() UNION ALL SELECT pg_ls_dir('@HERE@')

SELECT (pg_stat_file('@SECRET@')).size, 'canary-effect'

## function,admin,unknown,do,ddl,explain | leaves
SELECT lo_export(4711, '@FILE@')

SELECT lo_export(4711, U&'@FILE@')

SELECT count(lo_export(4711, '@FILE@')) FROM orders WHERE id = 1

SELECT pg_file_write('@FILE@', 'x', false)

DO $$ BEGIN COPY orders TO PROGRAM 'cat > @FILE@'; END $$

CREATE FUNCTION mine() RETURNS int LANGUAGE plpgsql AS $$ BEGIN COPY orders TO PROGRAM 'cat > @FILE@'; RETURN 1; END $$; SELECT mine()

SELECT writes_file('@FILE@')

EXPLAIN ANALYZE SELECT writes_file('@FILE@')

## admin,function,unknown,lock,maintenance,set | runs
SELECT pg_terminate_backend(0)

SELECT pg_cancel_backend(0)

SELECT pg_reload_conf()

SELECT pg_rotate_logfile()

SELECT pg_switch_wal()

SELECT pg_create_restore_point('x')

SELECT pg_advisory_lock(1)

SELECT pg_sleep(0.01)

SELECT lo_create(0)

SELECT lo_unlink(lo_create(0))

SELECT pg_stat_reset()

SELECT pg_export_snapshot()

SELECT nextval('numbers')

SELECT setval('numbers', 1)

SELECT pg_promote(false) WHERE false

SELECT pg_logical_emit_message(false, 'x', 'y')

SELECT pg_replication_origin_create('corpus_@N@')

SELECT pg_create_physical_replication_slot('corpus_@N@')

SELECT set_config('x.y', 'z', false), pg_notify('a', 'b')

SELECT dblink_connect('c', 'host=@SOCKET@ port=@PORT@ dbname=@DB@ user=postgres')

SELECT currval('numbers') FROM (SELECT nextval('numbers')) s

VACUUM orders

ANALYZE orders

CHECKPOINT

LOAD 'auto_explain'

## admin,ddl,set,function,unknown | runs
ALTER SYSTEM SET log_min_duration_statement = 5000

ALTER SYSTEM RESET log_min_duration_statement

CREATE DATABASE corpus_made_@N@ TEMPLATE template0

## lock,select | runs
BEGIN; LOCK TABLE orders

BEGIN; LOCK orders IN ACCESS SHARE MODE

## lock,update,select | locks
BEGIN; SELECT * FROM orders FOR UPDATE

BEGIN; SELECT id FROM orders FOR NO KEY UPDATE NOWAIT

BEGIN; SELECT id FROM orders FOR SHARE SKIP LOCKED

BEGIN; SELECT o.id FROM orders o, staff FOR KEY SHARE OF o

## listen | runs
LISTEN ch

LISTEN "Ch"

## notify | runs
NOTIFY ch

NOTIFY ch, 'payload'

## set,unknown,update | runs
SET search_path = side, public

SET LOCAL search_path TO side

SELECT set_config('search_path', 'side', false)

SELECT set_config('search' || '_path', 'side', false)

SET ROLE corpus_other

SET LOCAL ROLE corpus_other

SET SESSION AUTHORIZATION corpus_other

SET SESSION AUTHORIZATION DEFAULT

RESET SESSION AUTHORIZATION

RESET ROLE

SET ROLE NONE

SET session_replication_role = replica

SET row_security = off

SET lo_compat_privileges = on

SET local_preload_libraries = 'x'

SET session_preload_libraries = 'x'

SET client_encoding = 'SQL_ASCII'

SET NAMES 'LATIN1'

SET standard_conforming_strings = off

SET backslash_quote = on

SET log_statement = 'none'

SET plan_cache_mode = force_generic_plan; SET search_path = side

SELECT pg_catalog.set_config('role', 'corpus_other', false)

UPDATE pg_settings SET setting = 'side' WHERE name = 'search_path'

WITH x AS (SELECT set_config('search_path', 'side', true)) SELECT * FROM x

## sensitive | shows
SELECT rolpassword FROM pg_authid WHERE rolname = 'corpus_other'

SELECT passwd FROM pg_shadow WHERE usename = 'corpus_other'

SELECT passwd FROM pg_catalog.pg_user_mappings m, pg_shadow s WHERE s.usename = 'corpus_other'

SELECT (SELECT rolpassword FROM pg_authid WHERE rolname = 'corpus_other')

SELECT array_agg(a) FROM pg_authid a WHERE rolname = 'corpus_other'

TABLE pg_shadow

COPY pg_authid TO STDOUT

SELECT most_common_vals FROM pg_stats WHERE tablename = 'customers' AND attname = 'email'

SELECT histogram_bounds, most_common_vals FROM pg_catalog.pg_stats WHERE tablename = 'customers'

SELECT stavalues1 FROM pg_statistic WHERE starelid = 'customers'::regclass

SELECT umoptions FROM pg_user_mapping

SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid() AND 'canary-effect' <> ''

SELECT statement FROM pg_prepared_statements UNION ALL SELECT query FROM pg_stat_activity WHERE query LIKE '%canary-effect%'

SELECT lomdata FROM (SELECT convert_from(data, 'UTF8') AS lomdata FROM pg_largeobject) s
