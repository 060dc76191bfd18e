SELECT 1
--;;
-- ping
--;;
;
--;;
SELECT VERSION()
--;;
SET application_name = 'PostgreSQL JDBC Driver'
--;;
SET extra_float_digits = 3
--;;
SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE
--;;
SHOW TRANSACTION ISOLATION LEVEL
--;;
SHOW transaction_read_only
--;;
SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, ct.relname AS TABLE_NAME, a.attname AS COLUMN_NAME,
  (information_schema._pg_expandarray(i.indkey)).n AS KEY_SEQ, ci.relname AS PK_NAME,
  information_schema._pg_expandarray(i.indkey) AS KEYS, a.attnum AS A_ATTNUM
FROM pg_catalog.pg_class ct JOIN pg_catalog.pg_attribute a ON (ct.oid = a.attrelid)
  JOIN pg_catalog.pg_namespace n ON (ct.relnamespace = n.oid) JOIN pg_catalog.pg_index i ON (a.attrelid = i.indrelid)
  JOIN pg_catalog.pg_class ci ON (ci.oid = i.indexrelid) WHERE true AND ct.relname = 'u' AND i.indisprimary
--;;
select string_agg(word, ',') from pg_catalog.pg_get_keywords() where word <> ALL ('{a,abs}'::text[])
--;;
BEGIN
--;;
BEGIN; SET TRANSACTION ISOLATION LEVEL READ COMMITTED
--;;
SET DATESTYLE TO 'ISO'
--;;
SHOW client_encoding
--;;
select pg_catalog.version()
--;;
show standard_conforming_strings
--;;
SELECT CAST('test plain returns' AS VARCHAR(60)) AS anon_1
--;;
select current_schema()
--;;
SELECT t.oid, typarray FROM pg_type t JOIN pg_namespace ns ON typnamespace = ns.oid WHERE typname = 'hstore'
--;;
select b.oid, b.typarray from pg_catalog.pg_type a left join pg_catalog.pg_type b on b.oid = a.typelem
where a.typcategory = 'A' group by b.oid, b.typarray order by b.oid
--;;
SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new
--;;
SET client_encoding TO 'utf8';SET client_min_messages TO 'warning';SET standard_conforming_strings = on;SET SESSION timezone TO 'UTC'
--;;
SELECT set_config('TimeZone', 'UTC', false)
--;;
SET DateStyle=ISO; SET client_min_messages=notice; SELECT set_config('bytea_output','hex',false) FROM pg_catalog.pg_settings WHERE name = 'bytea_output'; SET client_encoding='UNICODE'
--;;
DISCARD ALL
--;;
DEALLOCATE pdo_stmt_00000001
--;;
SELECT c.relname FROM pg_class c WHERE pg_table_is_visible(c.oid)
--;;
SAVEPOINT "_EXEC_SVP_0x1"
--;;
DECLARE "name_1" CURSOR WITHOUT HOLD FOR SELECT * FROM orders
--;;
FETCH FORWARD 2000 FROM "name_1"
--;;
CLOSE "name_1"
--;;
ROLLBACK
