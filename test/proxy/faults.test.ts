// Faults on request: what a mail server sees of them, with a real milter on a real socket behind.
import t, { type Test } from 'tap';
import { MilterClient, type ClientOptions, type MessageResult } from '../../lib/client/index.js';
import { formatAddress, type MilterProtocol } from '../../lib/index.js';
import type { MilterError } from '../../lib/errors.js';
import { faults, type FaultOptions } from '../../lib/proxy/faults.js';
import { createProxy, type Proxy } from '../../lib/proxy/index.js';
import { serving } from '../cli/milters.js';
import { memoryInUse } from '../helpers/memory.js';
import { each, gate, STAGES } from '../helpers/milter.js';
import { ALL_ACTIONS, ALL_STEPS, Mta, say } from '../helpers/mta.js';
import { fakeMilter, agrees } from '../helpers/fake-milter.js';
import { connectedPair } from '../helpers/pair.js';

const mail = { from: '<a@example.org>', to: ['<b@example.com>', '<c@example.com>'], message: 'Subject: hi\n\nbody\n' };

interface Scene {
  readonly address: string;
  readonly proxy: Proxy;
  /** The callbacks of the milter that were called. */
  readonly heard: string[];
  /** What was said of faults. */
  readonly told: string[];
}

/** A milter that overrides everything and adds a header, behind a proxy with faults. */
async function scene(t: Test, specs: readonly string[], options: FaultOptions = {}): Promise<Scene> {
  const heard: string[] = [];
  const told: string[] = [];
  const script = Object.fromEntries(
    STAGES.map((stage) => [
      stage,
      function (this: MilterProtocol) {
        heard.push(stage);
        if (stage === 'eob') this.addHeader('X-Seen', 'yes');
      },
    ]),
  );
  const milter = await serving(t, { ...each(STAGES), ...script });
  const onFault = (text: string, id: string): void => void told.push(`${id} ${text}`);
  const { hooks, options: more } = faults(specs, { onFault, ...options });
  const proxy = createProxy(milter, hooks, more);
  t.teardown(() => proxy.destroy());
  return { address: formatAddress(await proxy.listen('inet:0')), proxy, heard, told };
}

async function sent(address: string, options: ClientOptions = {}): Promise<MessageResult> {
  const client = new MilterClient(address, options);
  await client.connect();
  try {
    return await client.send(mail);
  } finally {
    await client.quit();
  }
}

const failure = (address: string, options: ClientOptions = {}): Promise<MilterError> =>
  sent(address, options).then(
    () => Promise.reject(new Error('it was sent')),
    (error: unknown) => error as MilterError,
  );

t.test('without faults there are no hooks', async (t) => {
  t.strictSame(faults([]), { hooks: undefined, options: {} });
  t.strictSame(faults(['any:trickle']), { hooks: undefined, options: { trickle: 1 } });
  t.strictSame(faults(['ANY:trickle=7']).options, { trickle: 7 });
});

t.test('another answer: the mail server believes it, the milter has heard the command', async (t) => {
  const all = await scene(t, ['eob=550 5.7.1 100% no', 'rcpt#2:reply=tempfail']);
  const result = await sent(all.address);
  t.match(result, { verdict: 'reject', stage: 'eob', reply: { code: 550, enhanced: '5.7.1', lines: ['100% no'] } });
  t.strictSame(
    result.recipients.map(({ outcome }) => outcome),
    ['continue', 'tempFail'],
  );
  t.equal(all.heard.filter((stage) => stage === 'rcpt').length, 2);
  t.strictSame(all.told, ['1 Fault: rcpt#2:reply=tempfail', '1 Fault: eob=550 5.7.1 100% no']);
  for (const [spec, outcome] of [
    ['mailFrom=reject', 'reject'],
    ['MAILFROM:reply=450 Later', 'tempFail'],
    ['data=discard', 'discard'],
    ['data=Shutdown', 'tempFail'],
    ['header=accept', 'accept'],
    ['body=skip', 'accept'],
    ['any#9:reply=continue', 'accept'],
  ] as const) {
    t.equal((await sent((await scene(t, [spec])).address)).verdict, outcome, spec);
  }
  t.match(await failure((await scene(t, ['data=connfail'])).address), { code: 'ERR_MILTER_FILTER', stage: 'data' });
  const last = await sent((await scene(t, ['data=reject', 'data=421'])).address);
  t.match(last, { hangUp: true, reply: { code: 421 } }, 'of two the last one');
});

t.test('a delay: the command waits, or its answer, and all others are as they were', async (t) => {
  const late = await failure((await scene(t, ['data:delay=1m'])).address, { commandTimeout: 20 });
  t.match(late, { code: 'ERR_MILTER_TIMEOUT', stage: 'data' });
  const { address, heard, told } = await scene(t, ['data:delay=5ms', 'eob:delay-reply=0.005', 'any#3:delay=1ms']);
  t.match(await sent(address), { verdict: 'accept', message: /X-Seen: yes/ });
  t.match(heard, ['connect', 'helo', 'mailFrom', 'rcpt', 'rcpt', 'data', 'header', 'eoh', 'body', 'eob']);
  t.strictSame(told, ['1 Fault: any#3:delay=1ms', '1 Fault: data:delay=5ms', '1 Fault: eob:delay-reply=0.005']);
  const reply = await scene(t, ['data:delay-reply=1m']);
  t.match(await failure(reply.address, { commandTimeout: 20 }), { code: 'ERR_MILTER_TIMEOUT', stage: 'data' });
  t.equal(reply.heard.at(-1), 'data', 'the milter has heard it');
});

t.test('a stall: the milter does not hear the command, or the mail server its answer', async (t) => {
  const early = await scene(t, ['data:stall']);
  t.match(await failure(early.address, { commandTimeout: 20 }), { code: 'ERR_MILTER_TIMEOUT', stage: 'data' });
  t.notOk(early.heard.includes('data'));
  const late = await scene(t, ['data:stall-reply']);
  t.match(await failure(late.address, { commandTimeout: 20 }), { code: 'ERR_MILTER_TIMEOUT', stage: 'data' });
  t.ok(late.heard.includes('data'));
});

t.test('a stall comes to an end: after its time, and when the proxy is to close', async (t) => {
  const short = await scene(t, ['data:stall=20ms']);
  t.match(await failure(short.address), { code: 'ERR_MILTER_CONNECTION', stage: 'data' });
  const stopping = new AbortController();
  const stalled = gate();
  const { hooks } = faults(['mailFrom:stall', 'connect:delay=1m'], {
    signal: stopping.signal,
    onFault: () => stalled.open(),
  });
  const [end, front] = connectedPair();
  const { stream } = fakeMilter();
  const proxy = createProxy(() => stream, hooks);
  proxy.handle(front);
  const mta = new Mta(end);
  await mta.negotiate();
  mta.send(say.mail());
  await stalled.promise;
  stopping.abort();
  await t.rejects(mta.reply(), { message: /ended the connection/ });
  await proxy.close();
  const after = createProxy(() => fakeMilter().stream, hooks);
  const [second, other] = connectedPair();
  after.handle(other);
  const again = new Mta(second);
  await again.negotiate();
  t.equal((await again.ask(say.connect())).type, 'continue', 'nothing waits any more');
  await after.destroy();
});

t.test('a connection that is closed: before the command goes on, or instead of its answer', async (t) => {
  for (const act of ['close', 'kill']) {
    const { address, heard } = await scene(t, [`data:${act}`]);
    t.match(await failure(address), { code: 'ERR_MILTER_CONNECTION', stage: 'data' }, act);
    t.notOk(heard.includes('data'));
  }
  const late = await scene(t, ['data:close-reply']);
  t.match(await failure(late.address), { code: 'ERR_MILTER_CONNECTION', stage: 'data' });
  t.ok(late.heard.includes('data'));
  const counted = await scene(t, ['any#1:kill']);
  t.match(await failure(counted.address), { code: 'ERR_MILTER_CONNECTION', stage: 'negotiate' });
  const offer = await scene(t, ['negotiate:close-reply']);
  t.match(await failure(offer.address), { code: 'ERR_MILTER_CONNECTION', stage: 'negotiate' });
  const goodbye = await scene(t, ['quit:kill', 'abort:delay=1ms', 'macro#2:delay=1ms']);
  t.match(await sent(goodbye.address), { verdict: 'accept' }, 'what is said afterwards harms no message');
});

t.test('byte by byte: everything arrives, whole', async (t) => {
  const { address } = await scene(t, ['any:trickle=1']);
  t.match(await sent(address), { verdict: 'accept', message: /^Subject: hi\r\nX-Seen: yes\r\n\r\nbody\r\n$/ });
});

t.test('the offer is not answered with anything else, whatever is said to any', async (t) => {
  const { address } = await scene(t, ['any=tempfail']);
  const client = new MilterClient(address);
  t.match(await client.connect(), { outcome: 'tempFail' });
  t.equal(client.agreed!.version, 6);
  await client.quit();
});

t.test('P41 what is not answered leaves its fault to nobody else', async (t) => {
  const { hooks } = faults(['helo=reject', 'helo:close-reply']);
  const [end, front] = connectedPair();
  const nrHelo = 0x2000;
  const { stream } = fakeMilter({ negotiate: agrees(6, ALL_ACTIONS, nrHelo), helo: Buffer.alloc(0) });
  const proxy = createProxy(() => stream, hooks);
  proxy.handle(front);
  const mta = new Mta(end);
  await mta.ask({ type: 'negotiate', version: 6, actions: ALL_ACTIONS, protocol: ALL_STEPS });
  mta.send(say.helo());
  t.equal((await mta.ask(say.mail())).type, 'continue');
  await proxy.destroy();
});

t.test('nothing stalls for a mail server that has left', async (t) => {
  const { hooks } = faults(['mailFrom:stall', 'rcpt:delay=60m']);
  const leaving = new AbortController();
  let destroyed = 0;
  const context = { id: '1', agreed: undefined, state: new Map(), signal: leaving.signal, destroy: () => destroyed++ };
  const stalled = hooks!.command!(say.mail(), context);
  const late = hooks!.command!(say.rcpt(), context);
  leaving.abort();
  await Promise.all([stalled, late]);
  t.equal(destroyed, 1);
  await hooks!.command!(say.rcpt(), context);
});

t.test('where nobody answers any more nothing is remembered for ever', async (t) => {
  const { hooks } = faults(['helo=reject']);
  const context = { id: '1', agreed: undefined, state: new Map(), signal: new AbortController().signal, destroy() {} };
  hooks!.command!({ type: 'negotiate', version: 6, actions: ALL_ACTIONS, protocol: ALL_STEPS }, context);
  const before = await memoryInUse();
  for (let i = 0; i < 200_000; i++) hooks!.command!(say.helo(), context);
  t.ok((await memoryInUse()) - before < 4 * 1024 * 1024);
  t.equal(hooks!.reply!({ type: 'continue' }, context), undefined);
});

t.test('only some sessions: every Nth, or a share of them that is the same each time', async (t) => {
  const third = await scene(t, ['mailFrom=reject'], { every: 3 });
  const verdicts: string[] = [];
  for (let i = 0; i < 6; i++) verdicts.push((await sent(third.address)).verdict);
  t.strictSame(verdicts, ['accept', 'accept', 'reject', 'accept', 'accept', 'reject']);

  const chosen = (options: FaultOptions): string => {
    const { hooks } = faults(['connect:delay=1m'], options);
    return Array.from({ length: 400 }, (_, i) => {
      const context = {
        id: String(i + 1),
        agreed: undefined,
        signal: new AbortController().signal,
        state: new Map(),
        destroy() {},
      };
      return hooks!.command!(say.connect(), context) === undefined ? '.' : 'x';
    }).join('');
  };
  const quarter = chosen({ chance: 0.25 });
  t.equal(chosen({ chance: 0.25 }), quarter);
  t.not(chosen({ chance: 0.25, seed: 2 }), quarter);
  const share = quarter.replaceAll('.', '').length / 400;
  t.ok(share > 0.18 && share < 0.32, `${share}`);
  t.equal(chosen({ chance: 0 }), '.'.repeat(400));
  t.equal(chosen({ chance: 1 }), 'x'.repeat(400));
});

t.test('a fault that cannot be is named', async (t) => {
  for (const [spec, what] of [
    ['', /must be STAGE:WHAT\[=VALUE\]/],
    ['eob', /must be STAGE:WHAT\[=VALUE\]/],
    ['eom:stall', /the stage must be any or one of negotiate, connect/],
    ['rcpt#0:stall', /counted from 1/],
    ['rcpt:explode', /it must be one of delay, delay-reply/],
    ['rcpt:delay', /needs a time like 500ms/],
    ['rcpt:delay=soon', /needs a time like 500ms/],
    ['rcpt:stall=9999999m', /needs a time like 500ms/],
    ['rcpt:close=2', /close takes no value/],
    ['rcpt:trickle', /a trickle is for all/],
    ['any#2:trickle', /a trickle is for all/],
    ['any:trickle=0', /whole number of bytes/],
    ['quit=reject', /quit has no answer/],
    ['negotiate=reject', /negotiate has no answer/],
    ['rcpt:reply', /the answer must be one of continue, accept/],
    ['rcpt=maybe', /the answer must be one of continue, accept/],
    ['rcpt=250 2.1.0 Fine', /to let a message pass, return ACCEPT/],
    ['rcpt=550 4.1.1 No', /of another class/],
    ['rcpt=550 a\nb', /a line holds/],
  ] as const) {
    t.throws(() => faults(['eob:stall', spec]), { code: 'ERR_MILTER_OPTION', message: what }, spec);
    if (spec !== '')
      t.throws(() => faults([spec]), { message: new RegExp(`^Bad fault ${JSON.stringify(spec).slice(0, 4)}`) });
  }
  for (const options of [{ every: 0 }, { every: 1.5 }, { chance: 2 }, { chance: '1' as never }, { seed: 0.5 }]) {
    const [name] = Object.keys(options) as [string];
    t.throws(() => faults([], options), { code: 'ERR_MILTER_OPTION', message: new RegExp(`^${name} must be`) });
  }
});
