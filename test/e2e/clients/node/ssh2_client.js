// ssh2: a command, a shell on a terminal, a file there and back, and a forwarded
// connection, without a key.
const assert = require('assert')
const crypto = require('crypto')
const fs = require('fs')
const { Client } = require('ssh2')

const hear = (stream) => new Promise((resolve, reject) => {
  let text = ''
  let code = null
  stream.on('data', (b) => { text += b })
  stream.on('exit', (status) => { code = status })
  stream.on('close', () => resolve({ text, code }))
  stream.on('error', reject)
})
const call = (on, method, ...args) => new Promise((resolve, reject) => on[method](...args, (err, value) => (err ? reject(err) : resolve(value))))

async function main() {
  const [dir, port] = process.argv.slice(2)
  const known = fs.readFileSync('/run/postern/known_hosts', 'utf8')
  const c = new Client()
  await new Promise((resolve, reject) => c.on('ready', resolve).on('error', reject).connect({
    host: 'web.internal', username: 'root', authHandler: ['none'], hostVerifier: (key) => known.includes(key.toString('base64')),
  }))
  let s = await call(c, 'exec', 'cat; exit 42')
  s.end('by ssh2')
  assert.deepEqual(await hear(s), { text: 'by ssh2', code: 42 })
  s = await call(c, 'shell', { term: 'vt100' })
  s.write('echo $((40+2))-seen; exit 7\n')
  const shell = await hear(s)
  assert.match(shell.text, /42-seen/)
  assert.equal(shell.code, 7)
  const sftp = await call(c, 'sftp')
  const sent = crypto.randomBytes(300000)
  await call(sftp, 'writeFile', dir + '/ssh2', sent)
  assert.ok(sent.equals(await call(sftp, 'readFile', dir + '/ssh2')))
  await call(sftp, 'unlink', dir + '/ssh2')
  const forwarded = await call(c, 'forwardOut', '127.0.0.1', 1, '127.0.0.1', Number(port))
  const banner = await new Promise((resolve) => forwarded.once('data', resolve))
  assert.match(banner.toString(), /^SSH-2\.0/)
  forwarded.destroy()
  c.end()
  console.log('ok')
}

main().catch((e) => { console.error(e); process.exit(1) })
