// A configuration read with cloud-config-client: basic authentication, merged profiles, a secret, a change.

import assert from 'node:assert/strict';
import client from 'cloud-config-client';

const { SINEW_CONTROL, SINEW_TOKEN, SINEW_ADMIN_TOKEN } = process.env;

async function rest(method, path, body) {
  const answer = await fetch(SINEW_CONTROL + path, {
    method,
    headers: { authorization: `Bearer ${SINEW_ADMIN_TOKEN}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(60_000),
  });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
  return answer.json();
}

const write = (item, content, format) => rest('PUT', `/v1/config/items/${item}`, { content, format });

const { value: secret } = await rest('POST', '/v1/config/encrypt', { value: 'sekret' });
await write('default/application/default/main', '{"shared": true}', 'json');
await write('default/orders/prod/main', 'server:\n  port: 8080\n', 'yaml');
for (const name of ['first', 'second']) {
  await write('default/orders/default/main', `name=${name}\npassword=${secret}\n`, 'properties');
  const found = await client.load({
    endpoint: `${SINEW_CONTROL}/config`,
    name: 'orders',
    profiles: ['prod'],
    auth: { user: 'user', pass: SINEW_TOKEN },
  });
  assert.deepEqual(found.toObject(), { server: { port: 8080 }, name, password: 'sekret', shared: true });
}
console.log('cloud-config-client read what was written');
