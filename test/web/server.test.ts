// The page's server: whom it answers, what it tells those who look on, and that the slow and the gone cost nothing.
import { once } from 'node:events';
import { connect } from 'node:net';
import t, { type Test } from 'tap';
import type { CaptureEvent, ConversationRecord } from '../../lib/capture/index.js';
import { createLadder, parseWebPlace, type Ladder, type LadderOptions } from '../../lib/web/index.js';
import { History, type Drop } from '../../lib/web/history.js';
import { isLoopback } from '../../lib/web/place.js';
import { ordinary, scene } from './scenes.js';
import { ask, Looking } from './viewing.js';

async function serving(t: Test, options?: LadderOptions): Promise<{ ladder: Ladder; url: string; port: string }> {
  const ladder = createLadder(options);
  t.teardown(() => ladder.close());
  const { url } = await ladder.listen();
  return { ladder, url, port: new URL(url).port };
}

function note(session: string, type: 'open' | 'close' | 'garbage', text = ''): ConversationRecord {
  return { type, session, time: 1, text };
}

t.test('the page is there for whoever knows the token, with headers that let nothing else in', async (t) => {
  const { url, port } = await serving(t, { title: 'inet:8891' });
  t.match(url, /^http:\/\/127\.0\.0\.1:\d+\/[\w-]{32}\/$/);
  const { status, headers, text } = await ask(url);
  t.equal(status, 200);
  t.match(text, '<title>inet:8891 - milter-stream</title>');
  t.match(headers, {
    'content-type': 'text/html; charset=utf-8',
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    'cache-control': 'no-store',
    'cross-origin-opener-policy': 'same-origin',
    'cross-origin-resource-policy': 'same-origin',
  });
  const policy = headers['content-security-policy'] as string;
  t.match(policy, /^default-src 'none'; script-src 'sha256-[^ ]+'; style-src 'sha256-[^ ]+'; /);
  t.match(policy, "connect-src 'self'");
  t.match(policy, "frame-ancestors 'none'");
  t.notMatch(policy, 'unsafe');

  const token = new URL(url).pathname.slice(1, -1);
  const other = `${token.startsWith('A') ? 'B' : 'A'}${token.slice(1)}`;
  for (const path of [
    'favicon.ico',
    other,
    `${other}/`,
    `${token}x/`,
    `${token}/x`,
    `${token}/../`,
    `?${token}/`,
    token,
  ]) {
    const answer = await ask(`http://127.0.0.1:${port}/${path}`);
    t.match(answer, { status: 404, text: 'Not found\n', headers: { 'content-security-policy': policy } }, path);
  }
  const second = createLadder();
  t.teardown(() => second.close());
  t.not((await second.listen()).url.split('/')[3], token, 'each has its own');
});

t.test('it answers to names that are its own, and to no page but its own', async (t) => {
  const { url, port } = await serving(t);
  const status = async (headers: Record<string, string>): Promise<number> => (await ask(url, headers)).status;
  for (const Host of [`127.0.0.1:${port}`, 'localhost:9000', 'LOCALHOST', '[::1]:1', '192.0.2.1:80']) {
    t.equal(await status({ Host }), 200, Host);
    t.equal(await status({ Host, Origin: `http://${Host}` }), 200);
  }
  for (const Host of [
    'evil.example',
    `evil.example:${port}`,
    '127.0.0.1.evil.example',
    '[evil]',
    'localhost:x',
    'a@localhost',
  ]) {
    t.equal(await status({ Host }), 403, Host);
  }
  for (const Origin of ['null', 'http://evil.example', `https://127.0.0.1:${port}`, 'http://127.0.0.1:1']) {
    t.equal(await status({ Origin }), 403, Origin);
  }
  t.equal(await status({ 'Sec-Fetch-Site': 'none' }), 200);
  t.equal(await status({ 'Sec-Fetch-Site': 'same-origin' }), 200);
  for (const site of ['cross-site', 'same-site']) {
    const from = { 'Sec-Fetch-Site': site };
    t.equal(await status(from), 403, 'a script or an image of another page');
    t.equal(await status({ ...from, 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'iframe' }), 403, 'a frame in it');
    t.equal(await status({ ...from, 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'document' }), 200, 'a link in it');
  }
});

t.test('no other method', async (t) => {
  const { url } = await serving(t);
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS', 'HEAD', 'PATCH']) {
    for (const place of [url, `${url}events`])
      t.match(await ask(place, {}, method), { status: 405, headers: { allow: 'GET' } });
  }
  t.equal((await ask(`${url}x`, {}, 'POST')).status, 405);
});

t.test('a request without a name is refused', async (t) => {
  const { url, port } = await serving(t);
  const socket = connect(Number(port), '127.0.0.1');
  socket.end(`GET ${new URL(url).pathname} HTTP/1.0\r\n\r\n`);
  const [answer] = (await once(socket.setEncoding('latin1'), 'data')) as [string];
  t.match(answer, /^HTTP\/1.1 403 /);
});

t.test('whoever looks on hears what was, and then what comes', async (t) => {
  const { ladder, url } = await serving(t);
  for (const event of ordinary().slice(0, 5)) ladder.event(event);
  const looking = await Looking.at(url);
  t.equal(looking.response.headers['content-type'], 'text/event-stream');
  t.equal(looking.response.headers['cache-control'], 'no-store');
  t.strictSame(await looking.next(), { kind: 'hello' });
  const past = await looking.until((what) => 'name' in what && what.name === 'continue');
  t.match(past[0], { kind: 'open', session: '1', at: 0 });
  ladder.event({ type: 'problem', session: '', time: 1, text: 'line 7' });
  t.match(await looking.next(), { kind: 'problem', session: '', text: 'line 7' });
  ladder.event({ type: 'close', session: '1', time: 1, from: 'mta' });
  ladder.event({ type: 'open', session: '1', time: 2 });
  ladder.event({ type: 'problem', session: '1', time: 2, text: 'line 9' });
  t.match(await looking.next(), { kind: 'close', id: 1 });
  t.match(await looking.next(), { kind: 'open', id: 3, at: 0 }, 'the next one of that name is another');
  t.match(await looking.next(), { kind: 'problem', id: 3, text: 'line 9' });
  t.equal(ladder.viewers, 1);
  await ladder.close();
  t.strictSame(await looking.next(), { kind: 'end' });
  t.equal(await looking.next(), undefined);
  await ladder.close();
});

t.test('what is dropped is taken back from those who have heard of it', async (t) => {
  const { ladder, url } = await serving(t, { maxSessions: 2 });
  const early = await Looking.at(url);
  ladder.take(note('a', 'open'));
  await early.until((what) => what.kind === 'open');
  for (const [session, type] of [
    ['b', 'open'],
    ['b', 'close'],
    ['c', 'open'],
  ] as const)
    ladder.take(note(session, type));
  t.match(await early.until((what) => 'session' in what && what.session === 'c'), [
    { id: 2, kind: 'open' },
    { id: 2, kind: 'close' },
    { kind: 'drop', id: 2 },
    { kind: 'state', dropped: 1 },
    { id: 3 },
  ]);
  const late = await Looking.at(url);
  t.match(await late.until((what) => 'session' in what && what.session === 'c'), [
    { kind: 'hello' },
    { kind: 'state', dropped: 1 },
    { session: 'a', kind: 'open' },
    { session: 'c', kind: 'open' },
  ]);
});

t.test(
  'a slow page costs nothing: it misses what is dropped meanwhile, and the rest comes when it reads on',
  async (t) => {
    const maxLength = 200_000;
    const { ladder, url, port } = await serving(t, { maxLength, limit: 10_000 });
    const { pathname } = new URL(url);
    const socket = connect(Number(port), '127.0.0.1');
    t.teardown(() => socket.destroy());
    socket.write(`GET ${pathname}events HTTP/1.1\r\nHost: localhost\r\n\r\n`);
    await once(socket, 'readable');
    const bytes = Buffer.alloc(10_000, 'x');
    const sessions = 6_000;
    for (let i = 1; i <= sessions; i++) {
      ladder.take(note(`s${i}`, 'open'));
      ladder.take({ ...note(`s${i}`, 'garbage'), bytes } as ConversationRecord);
      ladder.take(note(`s${i}`, 'close'));
      // As between the packets of a proxy: what can be written is written.
      if (i % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    let [text, length] = ['', 0];
    for await (const chunk of socket.setEncoding('latin1')) {
      text = (text + (chunk as string)).slice(-200_000);
      length += (chunk as string).length;
      if (text.includes(`"session":"s${sessions}"`) && text.includes('"kind":"close"', text.indexOf(`"s${sessions}"`)))
        break;
    }
    t.ok(length < 40_000_000, 'of 80 MB most was never written to this one');
    t.match(text, '{"kind":"drop","id":');
    t.match(text, /\{"kind":"state","dropped":5\d\d\d\}/);
  },
);

t.test('a page that is gone is forgotten, and too many are refused', async (t) => {
  const { ladder, url } = await serving(t, { maxViewers: 2 });
  const [first] = [await Looking.at(url), await Looking.at(url)];
  t.match(await ask(`${url}events`), { status: 503, text: 'Too many pages look on already\n' });
  t.equal((await ask(url)).status, 200, 'the page itself is there');
  first.leave();
  while (ladder.viewers === 2) await new Promise((resolve) => setImmediate(resolve));
  ladder.take(note('a', 'open'));
  const again = await Looking.at(url);
  t.strictSame(await again.next(), { kind: 'hello' });
});

t.test('close() waits for nobody who does not read', async (t) => {
  const ladder = createLadder();
  const { url } = await ladder.listen();
  const looking = await Looking.at(url);
  const bytes = Buffer.alloc(4096);
  for (let i = 0; i < 5_000; i++) ladder.take({ ...note('a', 'garbage'), bytes } as ConversationRecord);
  await ladder.close();
  t.equal(ladder.viewers, 0);
  looking.leave();
});

t.test('where it can be reached from elsewhere it warns, and answers to that name', async (t) => {
  for (const [host, shown] of [
    ['0.0.0.0', '127.0.0.1'],
    ['::', '[::1]'],
    ['::1', '[::1]'],
    ['localhost', 'localhost'],
  ] as const) {
    const ladder = createLadder();
    t.teardown(() => ladder.close());
    const { url, warning } = await ladder.listen({ host });
    t.equal(new URL(url).hostname, shown);
    t.equal(warning === undefined, host === '::1' || host === 'localhost', host);
    if (warning !== undefined) t.match(warning, host);
    t.equal((await ask(url)).status, 200);
    await t.rejects(ladder.listen(), { code: 'ERR_MILTER_SEQUENCE' });
  }
  t.strictSame(['127.8.9.10', '127.example.org', '10.0.0.1', '::ffff:127.0.0.1'].map(isLoopback), [
    true,
    false,
    false,
    false,
  ]);
});

t.test('a place that is taken is an error; another may be tried', async (t) => {
  const { port } = await serving(t);
  const ladder = createLadder();
  t.teardown(() => ladder.close());
  await t.rejects(ladder.listen({ port: Number(port) }), { code: 'ERR_MILTER_LISTEN', message: /EADDRINUSE/ });
  t.match(await ladder.listen(), { url: /^http/ });
  await using other = createLadder();
  t.match(await other.listen(), { url: /^http/ });
});

t.test('PORT, HOST:PORT, [ADDRESS]:PORT', async (t) => {
  t.strictSame(['8080', '0.0.0.0:0', 'localhost:65535', '[::1]:80'].map(parseWebPlace), [
    { host: '127.0.0.1', port: 8080 },
    { host: '0.0.0.0', port: 0 },
    { host: 'localhost', port: 65_535 },
    { host: '::1', port: 80 },
  ]);
  for (const text of ['', 'x', ':80', '::1:80', '[x]:80', '65536', '1:2:3', '-1', 'a b:80', '80 ', 'http://a:80']) {
    t.throws(() => parseWebPlace(text), { code: 'ERR_MILTER_ADDRESS' }, text);
  }
});

t.test('options are checked', async (t) => {
  for (const options of [{ maxSessions: 0 }, { maxLength: 0.5 }, { maxViewers: -1 }, { limit: 0 }, { slow: 0 }]) {
    t.throws(() => createLadder(options), { code: 'ERR_MILTER_OPTION' });
  }
});

t.test('whatever comes, in whatever order: it is taken', async (t) => {
  const ladder = createLadder({ maxSessions: 3, maxLength: 2_000 });
  const events: CaptureEvent[] = [...ordinary(), ...scene('__proto__', []), ...ordinary().toReversed()];
  t.doesNotThrow(() => events.forEach((event) => ladder.event(event)));
});

t.test('what is kept: sessions that are over go first, and a single one loses its older half', async (t) => {
  const drops: Drop[] = [];
  const history = new History({ maxSessions: 10, maxLength: 100 }, (drop) => drops.push(drop));
  const kept = (): string => {
    let all = '';
    for (let next = history.after(0); next !== undefined; next = history.after(next.seq)) all += next.json.slice(0, 2);
    return all;
  };
  const add = (id: number, at: number, isLast = false): void =>
    history.add({ id, at }, `${String.fromCharCode(96 + id)}${at}`.padEnd(20, '.'), isLast);
  add(1, 0);
  add(2, 0);
  add(2, 1, true);
  add(3, 0);
  add(1, 1);
  t.equal(kept(), 'a0b0b1c0a1');
  t.strictSame(drops, []);
  add(1, 2);
  t.strictSame(drops.splice(0), [{ id: 2 }]);
  t.equal(kept(), 'a0c0a1a2');
  add(3, 1);
  add(3, 2);
  t.strictSame(drops.splice(0), [{ id: 1 }], 'nobody is over: the oldest');
  t.equal(kept(), 'c0c1c2');
  for (let at = 3; at <= 5; at++) add(3, at);
  t.strictSame(drops.splice(0), [{ id: 3, before: 3 }]);
  t.equal(kept(), 'c3c4c5');
  t.equal(history.after(0)?.seq, 9);
  history.add({ id: 3, at: 6 }, 'x'.repeat(200), true);
  t.strictSame(drops.splice(0), [{ id: 3, before: 5 }]);
  t.equal(kept(), 'c5xx');
  add(4, 0);
  t.equal(kept(), 'd0');
});
