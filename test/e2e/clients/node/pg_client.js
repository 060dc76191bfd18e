// node-postgres, text protocol and prepared statements.
const fs = require('fs')
const assert = require('assert')
const { Client } = require('pg')

async function main() {
  const c = new Client({
    host: process.env.PGHOST, port: 5432, user: process.env.PGUSER, password: process.env.PGPASSWORD, database: process.env.PGDATABASE,
    ssl: { ca: fs.readFileSync(process.env.PGSSLROOTCERT, 'utf8'), rejectUnauthorized: true },
  })
  await c.connect()
  let r = await c.query('SELECT name, email FROM customers WHERE id = $1', [1])
  assert.equal(r.rows[0].name, 'Ada')
  assert.notEqual(r.rows[0].email, 'ada@example.org')
  for (let i = 0; i < 3; i++) {
    r = await c.query({ name: 'by-id', text: 'SELECT name FROM customers WHERE id = $1', values: [2] })
    assert.equal(r.rows[0].name, 'Grace')
  }
  r = await c.query('SELECT 1 AS a; SELECT 2 AS b')
  assert.deepEqual(r.map((x) => x.rows[0]), [{ a: 1 }, { b: 2 }])
  await assert.rejects(c.query('DROP TABLE scratch'), (e) => e.code === '42501' && /no-ddl/.test(e.detail) && !!e.hint)
  await c.query('BEGIN')
  await c.query('INSERT INTO scratch (id) VALUES ($1)', [5000])
  await assert.rejects(c.query('DROP TABLE scratch'), (e) => e.code === '42501')
  r = await c.query('COMMIT')
  assert.equal(r.command, 'ROLLBACK')
  r = await c.query('SELECT count(*)::int AS n FROM scratch WHERE id = 5000')
  assert.equal(r.rows[0].n, 0)
  const told = new Promise((resolve) => c.on('notification', (m) => resolve(m.payload)))
  await c.query('LISTEN news5')
  await c.query("NOTIFY news5, 'five'")
  assert.equal(await told, 'five')
  await c.end()
  console.log('ok')
}
main().catch((e) => { console.error(e); process.exit(1) })
