// The life of a service with eureka-js-client.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Eureka } from 'eureka-js-client';

const { SINEW_CONTROL, SINEW_TOKEN, SINEW_EUREKA } = process.env;
const quiet = { debug() {}, info() {}, warn() {}, error() {} };

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

/** What the REST API knows: status by id. */
async function known(service) {
  const { instances } = await rest('GET', `/v1/services/${service}`);
  return Object.fromEntries(instances.map((instance) => [instance.id, instance.status]));
}

/** Waits for what must happen, however long a busy machine takes. */
async function until(what, condition) {
  const end = Date.now() + 60_000;
  while (!(await condition())) {
    assert.ok(Date.now() < end, `it did not happen: ${what}`);
    await sleep(50);
  }
  console.log(`ok: ${what}`);
}

/** Its default path is of the second version; the token is in the URL. */
function client(instance, eureka, more = {}) {
  const url = SINEW_EUREKA.replace('http://', `http://client:${SINEW_TOKEN}@`);
  return new Eureka({
    logger: quiet,
    instance,
    eureka: { serviceUrls: { default: [`${url}/eureka/v2/apps/`] }, maxRetries: 0, ...eureka },
    ...more,
  });
}

function service(app, port, duration, more) {
  return {
    app,
    hostName: `${app}.local`,
    ipAddr: '127.0.0.1',
    port: { $: port, '@enabled': 'true' },
    vipAddress: `${app}-a,${app}-b`,
    dataCenterInfo: { '@class': 'com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo', name: 'MyOwn' },
    leaseInfo: { renewalIntervalInSecs: 1, durationInSecs: duration },
    ...more,
  };
}

function start(eureka) {
  return new Promise((done, failed) => eureka.start((error) => (error ? failed(error) : done())));
}

function stop(eureka) {
  return new Promise((done, failed) => eureka.stop((error) => (error ? failed(error) : done())));
}

const onlyReads = { registerWithEureka: false, registryFetchInterval: 200 };
const readers = {
  whole: client({}, onlyReads),
  // It takes one list after the other, and then what changed.
  deltas: client({}, onlyReads, { shouldUseDelta: true }),
};
const seen = (app) =>
  Object.values(readers).map((reader) => reader.getInstancesByAppId(app).map((found) => found.instanceId).join());
const both = (text) => (app) => assert.deepEqual(seen(app), [text, text]) ?? true;
const happens = (what, app, text) =>
  until(what, () => seen(app).every((found) => found === text));

const web = client(
  service('web', 4001, 8, { instanceId: 'web:1', metadata: { color: 'blue' } }),
  { heartbeatInterval: 500, fetchRegistry: false },
);
await start(web);
assert.deepEqual(await known('web'), { 'web:1': 'up' });
console.log('ok: registered');

await Promise.all(Object.values(readers).map(start));
both('web:1')('web');
for (const reader of Object.values(readers)) {
  const [found] = reader.getInstancesByVipAddress('web-b');
  assert.deepEqual(found.port, { $: 4001, '@enabled': 'true' });
  assert.equal(found.metadata.color, 'blue');
  assert.equal(found.status, 'UP');
}
console.log('ok: found by name and by virtual address');

await rest('PUT', '/v1/services/stock/instances/stock-1', { address: '127.0.0.1', port: 4002, ttl_ms: 600_000 });
await happens('what REST registers is seen', 'STOCK', 'stock-1');

await rest('PUT', '/v1/services/web/instances/web:1/status', { status: 'draining' });
await until('who drains is chosen no more', () => seen('WEB')[0] === '');
await rest('PUT', '/v1/services/web/instances/web:1/status', { status: 'up' });
await happens('and up again', 'WEB', 'web:1');

let beats = 0;
web.on('heartbeat', () => (beats += 1));
const end = Date.now() + 12_000;
while (Date.now() < end) {
  assert.deepEqual(await known('web'), { 'web:1': 'up' }, 'its heartbeats keep it');
  await sleep(250);
}
assert.ok(beats > 0);
console.log('ok: heartbeats keep it beyond its lease');

const again = once(web, 'registered', { signal: AbortSignal.timeout(60_000) });
await rest('DELETE', '/v1/services/web/instances/web:1');
await again;
assert.deepEqual(await known('web'), { 'web:1': 'up' });
console.log('ok: on 404 it registers again');

// Without an id of its own it is known by its host.
const silent = client(service('silent', 4003, 2), { heartbeatInterval: 3_600_000, fetchRegistry: false });
await start(silent);
await until('a silent one expires', async () => Object.keys(await known('silent')).length === 0);
await happens('and all readers know', 'SILENT', '');

const polite = client(service('polite', 4004, 600), { heartbeatInterval: 3_600_000, fetchRegistry: false });
await start(polite);
await happens('the polite one is seen', 'POLITE', 'polite.local');
await stop(polite);
assert.deepEqual(await known('polite'), {});
await happens('its end is seen', 'POLITE', '');

await stop(web);
assert.deepEqual(await known('web'), {});
console.log('all is well');
// The silent one still has a timer.
process.exit(0);
