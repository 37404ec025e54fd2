// callInThread under AsyncFactory: what a callback finds in its thread, and what comes back from there.
import t from 'tap';
import type { FactoryOptions } from '../../lib/index.js';
import { connections, dial, serve } from '../helpers/dial.js';
import { ALL_ACTIONS, say } from '../helpers/mta.js';
import { Talker } from './in-thread-milters.js';

// Threads with tap's own loader, slow as it is: what they run is to be counted.
const OPTIONS: FactoryOptions = { workers: 1, smfifOptions: ALL_ACTIONS, callbackDeadline: 60_000 };

t.test('a marked callback has its arguments, macros and fields, and its edits are made', async (t) => {
  const { factory, errors } = await serve(t, Talker, OPTIONS);
  const { mta } = await dial(t, factory);
  await mta.negotiate();
  mta.send(say.macros('C', { j: 'mx' }));
  await mta.play(say.connect(), say.helo('h\udce9'));
  mta.send(say.macros('M', { i: 'Q1' }));
  t.strictSame(await mta.play(say.mail('<a@example.org>', 'SIZE=1'), say.rcpt('<no@example.com>'), say.rcpt()), [
    'continue',
    'reject',
    'continue',
  ]);
  t.strictSame(await mta.play(say.header('Subject', 'hü\udcff'), say.body('Hi\r\n')), ['continue', 'skip']);
  mta.send(say.eob());
  t.equal((await mta.reply()).type, 'progress');
  const chunks: string[] = [];
  let reply = await mta.reply();
  for (; reply.type === 'replBody'; reply = await mta.reply()) chunks.push(reply.chunk.toString());
  t.equal(chunks.join(''), 'first second third fourth');
  const headers: string[] = [];
  for (; reply.type === 'addHeader'; reply = await mta.reply()) headers.push(reply.value);
  t.strictSame(headers, [
    'helo h\udce9',
    'mailFrom <a@example.org> SIZE=1 Q1 Q1 mx',
    'header Subject hü\udcff',
    'body true Hi',
    'untouched true set up 1',
  ]);
  t.equal(reply.type, 'continue');
  mta.send(say.quit());
  await connections(factory, 0);
  t.strictSame(errors, []);
});

t.test('what goes wrong there follows the error policy, and the object goes on', async (t) => {
  const { factory, errors } = await serve(t, Talker, { ...OPTIONS, errorPolicy: 'reject' });
  const { mta } = await dial(t, factory);
  await mta.negotiate();
  const cases: Record<string, object> = {
    signal: { code: 'ERR_MILTER_UNSUPPORTED', message: /^signal cannot be cloned/ },
    throw: {
      code: 'ERR_MILTER_CALLBACK',
      stage: 'helo',
      message: 'helo() failed: thrown there',
      cause: { name: 'TypeError' },
    },
    nonsense: { code: 'ERR_MILTER_VERDICT', message: 'helo() returned "nonsense", which is no verdict' },
    function: { code: 'ERR_MILTER_VERDICT', message: /^helo\(\) returned a function, which is no verdict/ },
  };
  for (const [name, error] of Object.entries(cases)) {
    t.equal((await mta.ask(say.helo(name))).type, 'reject', name);
    t.match(errors.pop(), error);
  }
  t.match(await mta.ask(say.helo('text')), { type: 'replyCode', text: '550 5.7.1 said there' });
  t.equal((await mta.ask(say.helo('fine'))).type, 'continue');
  await mta.ask(say.mail());
  t.equal((await mta.ask(say.mail())).type, 'continue', 'which interrupts a message');
  t.match(errors.pop(), { message: 'abort() failed: abort there' });
  await mta.ask(say.helo('close'));
  t.match(errors.pop(), { message: 'abort() failed: abort there' });
  mta.send(say.quit());
  await connections(factory, 0);
  t.match(errors, [{ message: 'close() failed: close there' }]);
});

t.test('edits without a body, and those of an eob() that fails', async (t) => {
  const { factory, errors } = await serve(t, Talker, OPTIONS);
  const { mta } = await dial(t, factory);
  await mta.negotiate();
  await mta.play(say.helo('headers alone'), say.mail());
  const replies: string[] = [];
  mta.send(say.eob());
  while (replies.at(-1) !== 'continue') replies.push((await mta.reply()).type);
  t.strictSame(replies, ['progress', 'addHeader', 'addHeader', 'addHeader', 'continue']);
  await mta.play(say.helo('no edits'), say.mail());
  mta.send(say.eob());
  t.equal((await mta.reply()).type, 'progress');
  t.equal((await mta.reply()).type, 'tempFail');
  t.match(errors, [{ message: 'eob() failed: eob there' }]);
  const idle = await dial(t, factory);
  await idle.mta.negotiate();
  idle.mta.send(say.quit());
  await idle.mta.closed;
  t.equal(errors.length, 1, 'an object that nobody has called has no end either');
});

t.test('an object that was given up is called no more but for its end', async (t) => {
  const { factory, errors } = await serve(t, Talker, { ...OPTIONS, callbackDeadline: 5_000 });
  const { mta } = await dial(t, factory);
  await mta.negotiate();
  await mta.ask(say.helo('close'));
  t.equal((await mta.ask(say.helo('late'))).type, 'tempFail');
  t.equal((await mta.ask(say.helo('fine'))).type, 'tempFail');
  mta.send(say.quit());
  await connections(factory, 0);
  t.match(errors, [{ code: 'ERR_MILTER_DEADLINE' }, { message: 'close() failed: close there' }]);
});
