// postgres.js: pipelines by itself, prepares everything, describes first.
const fs = require('fs')
const assert = require('assert')
const postgres = require('postgres')

async function main() {
  const sql = postgres({
    host: process.env.PGHOST, port: 5432, user: process.env.PGUSER, password: process.env.PGPASSWORD, database: process.env.PGDATABASE,
    ssl: { ca: fs.readFileSync(process.env.PGSSLROOTCERT, 'utf8'), rejectUnauthorized: true }, max: 2,
  })
  const [row] = await sql`SELECT name, email FROM customers WHERE id = ${1}`
  assert.equal(row.name, 'Ada')
  assert.notEqual(row.email, 'ada@example.org')
  const many = await Promise.all(Array.from({ length: 40 }, (_, i) => sql`SELECT ${i}::int AS i`))
  assert.deepEqual(many.map((r) => r[0].i), Array.from({ length: 40 }, (_, i) => i))
  await sql`INSERT INTO scratch ${sql([{ id: 6000, note: 'a' }, { id: 6001, note: 'b' }])}`
  await assert.rejects(sql`DROP TABLE scratch`, (e) => e.code === '42501' && !!e.hint)
  await assert.rejects(sql.begin(async (tx) => {
    await tx`INSERT INTO scratch (id) VALUES (6002)`
    await tx`DROP TABLE scratch`
  }), (e) => e.code === '42501')
  const [n] = await sql`SELECT count(*)::int AS n FROM scratch WHERE id BETWEEN 6000 AND 6999`
  assert.equal(n.n, 2)
  let seen = 0
  await sql`SELECT id FROM scratch WHERE id BETWEEN 6000 AND 6999`.cursor(1, (rows) => { seen += rows.length })
  assert.equal(seen, 2)
  await sql`DELETE FROM scratch WHERE id BETWEEN 6000 AND 6999`
  await sql.end()
  console.log('ok')
}
main().catch((e) => { console.error(e); process.exit(1) })
