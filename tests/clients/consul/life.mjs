// The life of a service, of keys and of locks with the npm client `consul`.

import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import Consul from 'consul';

const { SINEW_CONTROL, SINEW_TOKEN, SINEW_CONSUL } = process.env;
const { hostname, port } = new URL(SINEW_CONSUL);
const consul = new Consul({ host: hostname, port, defaults: { token: SINEW_TOKEN } });

async function rest(method, path, body) {
  const answer = await fetch(SINEW_CONTROL + path, {
    method,
    headers: { authorization: `Bearer ${SINEW_TOKEN}`, 'content-type': 'application/json' },
    body: body && JSON.stringify(body),
    signal: AbortSignal.timeout(30_000),
  });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
  return answer.status === 204 ? null : answer.json();
}

/** Waits for what must happen, however long a busy machine takes. */
async function until(what, condition) {
  const end = Date.now() + 120_000;
  while (!(await condition())) {
    assert.ok(Date.now() < end, `it did not happen: ${what}`);
    await sleep(50);
  }
  console.log(`ok: ${what}`);
}

/** What a watch was told, newest last. */
function watch(method, options) {
  const told = [];
  const watch = consul.watch({ method, options: { wait: '60s', ...options } });
  watch.on('change', (data) => told.push(data));
  watch.on('error', (error) => assert.fail(error));
  return { told, end: () => watch.end() };
}

// Who may.
const stranger = new Consul({ host: hostname, port });
await assert.rejects(stranger.agent.service.list(), (error) => error.response.statusCode === 403);
assert.equal((await consul.agent.self()).Config.NodeName, 'sinew');
assert.equal((await consul.agent.members()).length, 1);
assert.ok(await consul.status.leader());
assert.equal((await consul.status.peers()).length, 1);

// A service: watched, passed, changed, dropped.
const services = watch(consul.catalog.service.list, {});
const orders = watch(consul.health.service, { service: 'orders', passing: true });
await until('watches begin with what is there', () => orders.told.length === 1 && services.told.length === 1);
assert.deepEqual([orders.told[0], services.told[0]], [[], {}]);

const service = (port) => ({
  id: 'orders-1',
  name: 'orders',
  address: '127.0.0.1',
  port,
  tags: ['v1'],
  meta: { zone: 'a' },
  check: { ttl: '30s', deregistercriticalserviceafter: '10m', notes: 'by hand' },
});
await consul.agent.service.register(service(8080));
assert.deepEqual(Object.keys(await consul.agent.service.list()), ['orders-1']);
const [check] = await consul.health.checks('orders');
assert.deepEqual([check.CheckID, check.Status, check.Notes], ['service:orders-1', 'critical', 'by hand']);
await consul.agent.check.pass('service:orders-1');
await until('the watch sees it when it passes', () => orders.told.at(-1).length === 1);
const [entry] = orders.told.at(-1);
assert.deepEqual([entry.Service.Port, entry.Service.Tags, entry.Service.Meta], [8080, ['v1'], { zone: 'a' }]);
await until('its name and tags are told', () => services.told.at(-1).orders?.[0] === 'v1');

const before = [orders.told.length, services.told.length];
for (let beat = 0; beat < 5; beat++) {
  await consul.agent.check.pass({ id: 'service:orders-1', note: `beat ${beat}` });
  await rest('PUT', '/v1/services/stock/instances/stock-1', { address: '127.0.0.1', port: 1 + beat, ttl_ms: 600_000 });
  await consul.kv.set(`noise/${beat}`, 'x');
}
await until('a new service is told', () => services.told.at(-1).stock);
await consul.agent.service.register(service(8081));
await until('a change is told', () => orders.told.at(-1)[0].Service.Port === 8081);
assert.equal(orders.told.length, before[0] + 1, 'and nothing else was');
assert.equal(services.told.length, before[1] + 1, 'names and tags alone were told');
assert.equal((await consul.catalog.service.nodes('stock'))[0].ServicePort, 5);
assert.equal((await consul.catalog.node.list()).length, 1);
assert.equal((await consul.health.state('passing')).length, 2);

await consul.agent.service.maintenance({ id: 'orders-1', enable: true });
await until('maintenance is told', () => orders.told.at(-1).length === 0);
await consul.agent.service.maintenance({ id: 'orders-1', enable: false });
await until('and its end', () => orders.told.at(-1).length === 1);
await consul.agent.check.register({ name: 'disk', serviceid: 'orders-1', tcp: '127.0.0.1:1', interval: '1h' });
assert.ok((await consul.agent.check.list()).disk);
await consul.agent.check.deregister('disk');
assert.ok(!(await consul.agent.check.list()).disk);
await consul.agent.check.fail('service:orders-1');
await until('failing is told', () => orders.told.at(-1).length === 0);
await assert.rejects(consul.agent.service.register({ name: 'x', check: { script: 'true', interval: '1s' } }));

await consul.agent.service.register({ name: 'silent', check: { ttl: '2s', deregistercriticalserviceafter: '4s' } });
await consul.agent.check.pass('service:silent');
await until('a silent one goes', async () => (await consul.health.service('silent')).length === 0);
await consul.agent.service.deregister('orders-1');
await until('dropping is told', () => services.told.at(-1).orders === undefined);
orders.end();
services.end();

// Keys.
const color = watch(consul.kv.get, { key: 'app/color' });
const tree = watch(consul.kv.get, { key: 'app/', recurse: true });
await until('watches of keys begin', () => color.told.length === 1 && tree.told.length === 1);
assert.equal(await consul.kv.set('app/color', 'blue'), true);
await until('a key is told', () => color.told.at(-1)?.Value === 'blue');
await until('its tree too', () => tree.told.at(-1)?.length === 1);
const told = color.told.length;
await consul.kv.set('app/size', '7');
await consul.kv.set('other', 'x');
await until('the tree is told', () => tree.told.at(-1).length === 2);
await consul.kv.del('app/color');
await until('a deletion is told', () => color.told.at(-1) === undefined && tree.told.at(-1).length === 1);
assert.equal(color.told.length, told + 1, 'others changed nothing');
assert.deepEqual(await consul.kv.keys({ key: 'app/', separator: '/' }), ['app/size']);
assert.notEqual(await consul.kv.set({ key: 'app/size', value: '8', cas: '0' }), true);
assert.equal((await consul.kv.get({ key: 'app/size', raw: true })).toString(), '7');
await consul.kv.del({ key: 'app/', recurse: true });
await until('the end of the tree is told', () => tree.told.at(-1) === undefined);
color.end();
tree.end();
const result = await consul.transaction.create([
  { KV: { Verb: 'set', Key: 't/1', Value: Buffer.from('1').toString('base64') } },
  { KV: { Verb: 'check-not-exists', Key: 't/2' } },
]);
assert.equal(result.Results.length, 1);

// Locks.
const create = async (more) => (await consul.session.create({ ttl: '10s', lockdelay: '0s', ...more })).ID;
const [a, b] = [await create({ name: 'a' }), await create({ name: 'b', behavior: 'delete' })];
assert.equal((await consul.session.list()).length, 2);
assert.equal((await consul.session.get(a)).Name, 'a');
assert.equal((await consul.session.node('sinew')).length, 2);
assert.equal(await consul.kv.set({ key: 'leader', value: 'a', acquire: a }), true);
assert.notEqual(await consul.kv.set({ key: 'leader', value: 'b', acquire: b }), true);
assert.equal(await consul.kv.set({ key: 'leader', value: 'a', release: a }), true);
assert.equal(await consul.kv.set({ key: 'leader', value: 'b', acquire: b }), true);
const leader = watch(consul.kv.get, { key: 'leader' });
await until('the leader is told', () => leader.told.at(-1)?.Session === b);
await until('an expired session takes its key along', async () => {
  assert.equal((await consul.session.renew(a))[0].ID, a);
  return leader.told.at(-1) === undefined;
});
leader.end();
assert.equal(await consul.session.get(b), undefined);
await consul.session.destroy(a);
assert.deepEqual(await consul.session.list(), []);

console.log('all is well');
process.exit(0);
