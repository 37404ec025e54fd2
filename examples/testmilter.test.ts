/**
 * How to test a milter: a message goes through it in this process, without a mail server and without a socket.
 *
 *   node --import tsx --test examples/testmilter.test.ts
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { mock, test } from 'node:test';
import { testMilter, testSession } from 'milter-stream/testing';
import { REFUSED, TEST_ACTIONS, TestMilter } from './testmilter.js';

const sample = await readFile(new URL('sample.eml', import.meta.url));

// It prints every callback.
mock.method(console, 'log', () => {});

await test('the subject is tagged, and a header is added', async () => {
  // The actions that the factory gets: without these, all are allowed.
  const result = await testMilter(TestMilter, sample, { smfifOptions: TEST_ACTIONS });
  assert.equal(result.verdict, 'accept');
  assert.match(String(result.message), /^Subject: \[tested\] Lunch on Thursday\?\r\n/m);
  assert.match(String(result.message), /^X-Test-Milter: 79 bytes of body\r\n/m);
});

await test('one recipient is refused, the other gets the message', async () => {
  const result = await testMilter(TestMilter, sample, { from: 'alice@example.org', to: ['bob@example.com', REFUSED] });
  assert.deepEqual(result.envelope.to, ['<bob@example.com>']);
  assert.equal(result.recipients[1]?.reply?.code, 550);
});

await test('command by command, and several messages on one connection', async () => {
  const session = await testSession(TestMilter, { peer: { hostname: 'laptop.example.org', address: '192.0.2.7' } });
  await session.mailFrom('alice@example.org', ['SIZE=612']);
  assert.equal((await session.rcpt('bob@example.com')).outcome, 'continue');
  await session.abort();
  const { message } = await session.send({ from: '', to: ['bob@example.com'], message: 'From: b@example.org\n\n' });
  assert.equal(String(message), 'From: b@example.org\r\nX-Test-Milter: 0 bytes of body\r\n\r\n');
  await session.close();
});
