/**
 * "When a worker dies": a worker that blocks, or is stopped, past the deadline is as good as dead. And the rest of the
 * table: edits that are not complete, negotiation, commands that are not sent or not answered, dryRun.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { SMFIF_ADDHDRS, SMFIF_CHGBODY, type Command, type FactoryOptions } from '../../lib/index.js';
import { outcome } from '../helpers/eob.js';
import { shortFolder } from '../helpers/folder.js';
import { Mortal, Stillborn, touch } from '../helpers/mortal.js';
import { message, say } from '../helpers/mta.js';
import { dialled, KINDS, run, strike, type Kind, type Running } from '../helpers/pooled.js';
import { aftermath, answers, begin, company, HEARD, meet, play, undisturbed, type Session } from '../helpers/scenes.js';
import { until } from '../helpers/until.js';

interface Stage extends Running {
  /** A file that is not there. */
  readonly file: string;
  /** Resolves when the trace has so many lines. */
  traced(lines: number): Promise<unknown>;
}

async function stage(t: Test, kind: Kind, options: FactoryOptions = {}): Promise<Stage> {
  const folder = shortFolder(t);
  const trace = join(folder, 'trace');
  touch(trace);
  const running = await run(t, kind, Mortal, {
    workers: 1,
    smfifOptions: SMFIF_ADDHDRS | SMFIF_CHGBODY,
    context: { trace },
    ...options,
  });
  const lines = (): number => readFileSync(trace, 'utf8').split('\n').length - 1;
  const traced = (count: number): Promise<unknown> => until('the milter', () => lines() === count);
  return { ...running, file: join(folder, 'file'), traced };
}

for (const kind of KINDS) {
  for (const way of kind === 'ThreadFactory' ? ['block'] : ['block', 'stop']) {
    t.test(`${kind}: ${way}: who waits is answered at the deadline, and the worker is replaced`, async (t) => {
      const it = await stage(t, kind, { workers: 2, callbackDeadline: 1500, eobDeadline: 1500 });
      const { doomed, others } = await company(t, it);
      for (const session of [...doomed, ...others]) await begin(session);
      const waiting = doomed.filter(({ scene }) => scene.at !== undefined);
      if (way === 'stop') {
        strike((doomed[0] as Session).where, 'SIGSTOP');
      } else {
        const { scene, mta } = waiting.pop() as Session;
        mta.send(say.macros(scene.letter, { do: 'block' }), scene.at as Command);
        await it.traced(1);
      }
      for (const { scene, mta } of waiting) mta.send(scene.at as Command);
      for (const session of others) await undisturbed(t, session);
      for (const session of doomed) await aftermath(t, session);
      const blocked = it.errors.filter(({ message }) => /died: it was blocked for \d{4} ms$/.test(message));
      t.equal(blocked.length, 1);
      t.ok(it.errors.some(({ code, stage }) => code === 'ERR_MILTER_DEADLINE' && stage === 'unknown'));
    });
  }

  t.test(
    `${kind}: while eob() blocks, progress is told; others are answered, and nobody is killed too early`,
    async (t) => {
      const it = await stage(t, kind, { callbackDeadline: 1000, progressAfter: 20, progressEvery: 20 });
      const busy = await meet(t, it);
      const other = await meet(t, it);
      await answers(busy.mta, message().slice(0, -1));
      await answers(other.mta, [say.mail()]);
      busy.mta.send(say.macros('E', { do: 'hold', with: it.file }), say.eob());
      await it.traced(1);
      for (let i = 0; i < 3; i++) t.equal((await busy.mta.reply()).type, 'progress');
      t.equal((await other.mta.ask(say.rcpt())).type, 'tempFail', 'its time is over');
      touch(it.file);
      const types = (await outcome(busy.mta)).map(({ type }) => type).filter((type) => type !== 'progress');
      t.strictSame(types, ['addHeader', 'addHeader', 'continue'], 'the edits, and no progress behind them');
      t.strictSame(await answers(other.mta, [say.rcpt(), say.data()]), ['tempFail', 'tempFail'], 'no late reply comes');
      other.mta.send(say.abort());
      const next = await play(other.mta);
      t.strictSame([next.heard, next.where], [HEARD, busy.where], 'the same worker hears of everything again');
      t.strictSame(other.mta.replies, []);
      t.match(it.errors, [
        { code: 'ERR_MILTER_DEADLINE', stage: 'rcpt', message: 'rcpt() did not end within 1000 ms' },
      ]);
      t.equal(it.errors.length, 1);
    },
  );

  t.test(`${kind}: half of a new body never reaches the mail server`, async (t) => {
    for (const spoolMemory of [10_000_000, 1000]) {
      const it = await stage(t, kind, { spoolMemory });
      const { mta, where } = await meet(t, it);
      await answers(mta, message().slice(0, -1));
      mta.send(say.macros('E', { do: 'half' }), say.eob());
      await it.traced(2);
      strike(where, 'SIGKILL');
      t.strictSame(
        (await outcome(mta)).map(({ type }) => type),
        ['tempFail'],
      );
      const next = await play(mta);
      t.equal(next.heard, HEARD);
      t.not(next.where, where);
    }
  });

  t.test(`${kind}: commands that are not answered`, async (t) => {
    const it = await stage(t, kind, { smfipOptions: 0x80 });
    const quiet = await dialled(t, it.factory);
    await quiet.mta.negotiate({ protocol: 0x80 });
    await answers(quiet.mta, message().slice(0, 3));
    quiet.mta.send(say.header());
    quiet.mta.send(say.macros('L', { do: 'exit' }), say.header());
    await it.traced(1);
    await until('its death', () => it.errors.length === 2);
    t.match(it.errors[1], { message: 'A worker died at message: the message is refused for now' });
    quiet.mta.send(say.header());
    t.equal((await quiet.mta.ask(say.eoh())).type, 'tempFail', 'the next command that is answered');
    quiet.mta.send(say.abort());
    for (const command of message().slice(0, 3)) t.equal((await quiet.mta.ask(command)).type, 'continue');
    quiet.mta.send(say.header());
    t.equal((await quiet.mta.ask(say.eoh())).type, 'continue');
  });

  t.test(`${kind}: a milter that sees the end of messages alone`, async (t) => {
    const it = await stage(t, kind, { smfipOptions: 0x37f });
    const { mta } = await dialled(t, it.factory);
    await mta.negotiate();
    mta.send(say.macros('M', { i: '1' }), say.macros('E', { do: 'exit' }), say.eob());
    t.equal((await mta.reply()).type, 'tempFail');
    mta.send(say.abort(), say.macros('M', { i: '2' }), say.macros('E', { id: '2' }), say.eob());
    t.match(await outcome(mta), [{ value: 'eob id=2' }, {}, { type: 'continue' }]);
  });

  t.test(`${kind}: dryRun refuses nothing`, async (t) => {
    const it = await stage(t, kind, { dryRun: true });
    const { mta } = await dialled(t, it.factory);
    await mta.negotiate({ protocol: 0x400 });
    t.equal((await mta.ask(say.mail(), say.macros('R', { do: 'exit' }), say.rcpt())).type, 'continue');
    t.equal((await mta.reply()).type, 'continue');
    await until('its death', () => it.errors.length === 2);
    const rest = message().slice(1);
    t.strictSame(
      await mta.play(...rest),
      rest.map(() => 'continue'),
    );
  });

  t.test(`${kind}: negotiation is tried with three workers`, async (t) => {
    for (const deaths of [2, 3]) {
      const trace = join(shortFolder(t), 'trace');
      touch(trace);
      const { factory, errors } = await run(t, kind, Stillborn, { workers: 2, context: { trace, deaths } });
      const { mta } = await dialled(t, factory);
      t.equal((await mta.negotiate()).type, 'negotiate');
      const types = await mta.play(say.connect(), say.helo());
      t.strictSame(types, deaths === 2 ? ['continue', 'continue'] : ['replyCode', 'replyCode']);
      t.equal(readFileSync(trace, 'utf8').length, 3);
      t.equal(errors.filter(({ stage }) => stage === 'negotiate').length, deaths);
    }
  });
}
