// An OpenID provider on loopback, for tests: `node op.mjs OPTIONS`, where OPTIONS
// is JSON: port (0: any), life (of ID tokens, in seconds), skew (of its clock, the
// same), and key (a private JWK,
// so that a restarted provider is the same one). Its first line of output is its
// issuer. People log in with any password; who they are is in users.
import Provider from 'oidc-provider';
import { createServer } from 'node:http';
import { generateKeyPairSync, randomBytes } from 'node:crypto';

const options = { port: 0, life: 300, skew: 0, ...JSON.parse(process.argv[2] ?? '{}') };
const now = Date.now;
Date.now = () => now() + options.skew * 1000; // a clock that is wrong

const users = {
  alice: { name: 'Alice', email: 'alice@example.test', email_verified: true, groups: ['dba', 'sre'] },
  bob: { name: 'Bob', email: 'bob@example.test', email_verified: true, groups: ['analyst'] },
  mallory: { name: 'Mallory' },
};

const device = 'urn:ietf:params:oauth:grant-type:device_code';
// A native client may use any port of its redirect URI (RFC 8252, 7.3).
const people = {
  application_type: 'native', grant_types: ['authorization_code', 'refresh_token', device], response_types: ['code'],
  redirect_uris: ['http://127.0.0.1/callback', 'http://[::1]/callback'],
};
const clients = [
  { ...people, client_id: 'postern', token_endpoint_auth_method: 'none' },
  { ...people, client_id: 'postern-basic', client_secret: 'basic-secret & more', token_endpoint_auth_method: 'client_secret_basic' },
  { ...people, client_id: 'postern-post', client_secret: 'post-secret', token_endpoint_auth_method: 'client_secret_post' },
  { client_id: 'ci', client_secret: 'ci-secret', grant_types: ['client_credentials'], response_types: [], redirect_uris: [], token_endpoint_auth_method: 'client_secret_basic' },
];

const server = createServer();
server.listen(options.port, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const key = options.key ?? generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });
  const provider = new Provider(issuer, {
    clients,
    jwks: { keys: [{ ...key, use: 'sig', alg: 'RS256' }] },
    cookies: { keys: [randomBytes(16).toString('hex')] },
    features: {
      deviceFlow: { enabled: true },
      devInteractions: { enabled: true },
      clientCredentials: { enabled: true },
      // Access tokens for urn:postern are JWTs, which services bring along.
      resourceIndicators: {
        enabled: true,
        defaultResource: (ctx, client) => (client.clientId === 'ci' ? 'urn:postern' : undefined),
        getResourceServerInfo: () => ({ scope: 'use', audience: 'urn:postern', accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } }),
      },
    },
    claims: { openid: ['sub'], profile: ['name'], email: ['email', 'email_verified'], groups: ['groups'] },
    scopes: ['openid', 'offline_access', 'profile', 'email', 'groups'],
    conformIdTokenClaims: false,
    rotateRefreshToken: true,
    pkce: { required: () => true },
    ttl: { IdToken: options.life, AccessToken: 300, RefreshToken: 3600, DeviceCode: 600, ClientCredentials: 300, Interaction: 600, Session: 3600, Grant: 3600 },
    findAccount: (_ctx, id) => (users[id] ? { accountId: id, claims: async () => ({ sub: id, ...users[id] }) } : undefined),
    extraTokenClaims: (_ctx, token) => (token.kind === 'ClientCredentials' ? { groups: ['ci'] } : undefined),
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
