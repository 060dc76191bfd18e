// What an ORM's engine asks a catalog when it introspects a schema: many joins
// of pg_catalog and information_schema, with parameters that are arrays.
const fs = require('fs')
const path = require('path')
const { Client } = require(path.join(__dirname, '..', 'node', 'node_modules', 'pg'))

const namespaces = ['public', 'apps']
const queries = {
  version: ['SELECT current_setting(\'server_version_num\')::integer AS version', []],
  namespaces: ['SELECT n.nspname AS name FROM pg_namespace n WHERE n.nspname = ANY ($1) ORDER BY n.nspname', [namespaces]],
  tables: [`SELECT t.relname AS name, n.nspname AS namespace, t.relkind AS kind, t.relispartition AS part,
      (t.relhassubclass AND t.relkind = 'p') AS parted, t.relrowsecurity AS secured, obj_description(t.oid, 'pg_class') AS description
    FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE n.nspname = ANY ($1) AND t.relkind IN ('r', 'p') ORDER BY n.nspname, t.relname`, [namespaces]],
  views: ['SELECT viewname, schemaname, definition FROM pg_catalog.pg_views WHERE schemaname = ANY ($1) ORDER BY 2, 1', [namespaces]],
  columns: [`SELECT col.table_name, col.column_name, format_type(att.atttypid, att.atttypmod) AS formatted, col.numeric_precision, col.data_type,
      pg_get_expr(def.adbin, def.adrelid) AS column_default, col.is_nullable, col.is_identity, col.character_maximum_length,
      col_description(att.attrelid, ordinal_position) AS description
    FROM information_schema.columns col
    JOIN (SELECT a.attname, c.relname, n.nspname, a.attrelid, a.attnum, a.atttypid, a.atttypmod FROM pg_attribute a
      JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace) att
      ON att.attname = col.column_name AND att.relname = col.table_name AND att.nspname = col.table_schema
    LEFT OUTER JOIN pg_attrdef def ON def.adrelid = att.attrelid AND def.adnum = att.attnum
    WHERE col.table_schema = ANY ($1) ORDER BY col.table_schema, col.table_name, col.ordinal_position`, [namespaces]],
  keys: [`SELECT con.conname, cl.relname AS child, att2.attname AS child_column, parent.relname AS parent, att.attname AS parent_column,
      con.confdeltype, con.confupdtype, con.condeferrable, con.condeferred
    FROM (SELECT unnest(c.conkey) AS ck, unnest(c.confkey) AS pk, generate_subscripts(c.conkey, 1) AS at, c.* FROM pg_constraint c
      WHERE c.contype = 'f' AND c.connamespace = ANY (SELECT oid FROM pg_namespace WHERE nspname = ANY ($1))) con
    JOIN pg_attribute att ON att.attrelid = con.confrelid AND att.attnum = con.pk
    JOIN pg_class cl ON cl.oid = con.conrelid JOIN pg_class parent ON parent.oid = con.confrelid
    JOIN pg_attribute att2 ON att2.attrelid = con.conrelid AND att2.attnum = con.ck ORDER BY con.conname, con.at`, [namespaces]],
  indexes: [`WITH raw AS (SELECT i.indrelid, i.indexrelid, i.indisunique, i.indisprimary, unnest(i.indkey) AS attnum, generate_subscripts(i.indkey, 1) AS at,
        unnest(i.indclass) AS opclass, i.indoption FROM pg_index i WHERE i.indpred IS NULL)
    SELECT t.relname, ic.relname AS index, raw.indisunique, raw.indisprimary, a.attname, am.amname, op.opcname, op.opcdefault,
      CASE raw.indoption[raw.at] & 1 WHEN 1 THEN 'DESC' ELSE 'ASC' END AS direction
    FROM raw JOIN pg_class t ON t.oid = raw.indrelid JOIN pg_class ic ON ic.oid = raw.indexrelid JOIN pg_am am ON am.oid = ic.relam
    JOIN pg_namespace n ON n.oid = t.relnamespace JOIN pg_opclass op ON op.oid = raw.opclass
    LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = raw.attnum
    WHERE n.nspname = ANY ($1) ORDER BY t.relname, ic.relname, raw.at`, [namespaces]],
  enums: [`SELECT t.typname, e.enumlabel, n.nspname FROM pg_type t JOIN pg_enum e ON t.oid = e.enumtypid JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE n.nspname = ANY ($1) ORDER BY t.typname, e.enumsortorder`, [namespaces]],
  sequences: [`SELECT sequencename, schemaname, start_value, min_value, max_value, increment_by, cycle, cache_size FROM pg_sequences
    WHERE schemaname = ANY ($1) ORDER BY 1`, [namespaces]],
  procedures: [`SELECT p.proname, n.nspname, CASE WHEN l.lanname = 'internal' THEN p.prosrc ELSE pg_get_functiondef(p.oid) END AS definition
    FROM pg_proc p LEFT JOIN pg_namespace n ON n.oid = p.pronamespace LEFT JOIN pg_language l ON l.oid = p.prolang
    WHERE n.nspname = ANY ($1) AND p.prokind NOT IN ('a', 'w') ORDER BY 1`, [namespaces]],
  extensions: ['SELECT extname, extversion, extrelocatable FROM pg_extension ORDER BY 1', []],
  checks: [`SELECT con.conname, pg_get_constraintdef(con.oid) FROM pg_constraint con JOIN pg_namespace n ON n.oid = con.connamespace
    WHERE con.contype IN ('c', 'x') AND n.nspname = ANY ($1) ORDER BY 1`, [namespaces]],
}

async function main() {
  const c = new Client({
    host: process.env.PGHOST, port: +process.env.PGPORT, user: process.env.PGUSER, password: process.env.PGPASSWORD, database: process.env.PGDATABASE,
    ssl: { ca: fs.readFileSync(process.env.PGSSLROOTCERT, 'utf8'), checkServerIdentity: () => undefined },
  })
  await c.connect()
  for (const [name, [text, values]] of Object.entries(queries)) {
    const r = await c.query(text, values)
    console.log(name, r.rows.length, JSON.stringify(r.rows))
  }
  await c.end()
}
main().catch((e) => { console.error(e); process.exit(1) })
