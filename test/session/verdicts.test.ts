// What a callback may say, what the mail server hears of it, and what follows: cell by cell.
import t from 'tap';
import type { Command } from '../../lib/codec/index.js';
import type { MilterError } from '../../lib/errors.js';
import type { SessionOptions, Stage, Verdict } from '../../lib/index.js';
import { packet } from '../helpers/bytes.js';
import { each, matchAll, milter, STAGES, type Script } from '../helpers/milter.js';
import { COMMANDS, inMemory, say, type Mta } from '../helpers/mta.js';

const VERDICTS = ['continue', 'accept', 'reject', 'tempFail', 'discard', 'skip', 'connFail', 'shutdown'] as const;

/** The commands of a message behind MAIL. */
const REST: readonly Stage[] = ['rcpt', 'data', 'header', 'eoh', 'body', 'eob'];

/**
 * What is over after a verdict: nothing (.), nothing but this recipient or command (o), the message (m), everything up
 * to the next HELO (h), the SMTP session (s). Not legal (-).
 */
//                                connect helo mailFrom rcpt data header eoh body eob unknown
const TABLE: Readonly<Record<Verdict, string>> = {
  continue: '. . . . . . . . m .',
  accept: '  s s m m m m m m m o',
  reject: '  s h m o m m m m m o',
  tempFail: 's h m o m m m m m o',
  discard: ' - - m m m m m m m -',
  skip: '    - - - - - - - . - -',
  connFail: 's s s s s s s s s s',
  shutdown: 's s s s s s s s s s',
};

function cell(verdict: Verdict, stage: Stage): string {
  return TABLE[verdict].trim().split(/\s+/)[STAGES.indexOf(stage)] as string;
}

/** What goes out, and what stray commands hear later. */
function wire(verdict: Verdict, stage: Stage, bare: boolean): { now: Buffer; again: Buffer } {
  const now = {
    continue: packet('c'),
    accept: packet(stage === 'unknown' ? 'c' : 'a'),
    reject: packet('r'),
    tempFail: packet('t'),
    discard: packet('d'),
    skip: packet('s'),
    connFail: bare ? packet('f') : packet('y', '421 4.3.2 Service not available, closing transmission channel'),
    shutdown: bare ? packet('4') : packet('y', '421 4.7.0 Server closing connection'),
  }[verdict];
  return { now, again: verdict === 'connFail' || verdict === 'shutdown' ? packet('t') : now };
}

interface Started {
  readonly mta: Mta;
  readonly calls: string[];
  readonly errors: readonly MilterError[];
  /** Sends commands one by one; the bytes of each answer. */
  readonly bytes: (...commands: Command[]) => Promise<Buffer[]>;
}

async function start(script: Script, options: SessionOptions = {}): Promise<Started> {
  const { MyMilter, calls } = milter(script);
  const { mta, session, errors } = inMemory(MyMilter, { smfipOptions: 0x400, smfifOptions: 0x1ff, ...options });
  await mta.negotiate();
  const written: Buffer[] = [];
  session.on('data', (chunk: Buffer) => written.push(chunk));
  const bytes = async (...commands: Command[]): Promise<Buffer[]> => {
    written.length = 0;
    for (const command of commands) await mta.ask(command);
    return [...written];
  };
  return { mta, calls, errors, bytes };
}

/** What must have been said before a command of a stage, by a server that leaves nothing out. */
function before(stage: Stage): Command[] {
  return STAGES.slice(0, stage === 'unknown' ? 4 : STAGES.indexOf(stage)).map((name) => COMMANDS[name]);
}

for (const bare of [false, true]) {
  for (const verdict of VERDICTS) {
    if (bare && verdict !== 'connFail' && verdict !== 'shutdown') continue;
    await t.test(`P63 to P66 ${verdict}${bare ? ' with bareReplies' : ''}`, async (t) => {
      for (const stage of STAGES) {
        const legal = cell(verdict, stage) !== '-';
        const scope = legal ? cell(verdict, stage) : cell('tempFail', stage);
        const { now, again } = wire(legal ? verdict : 'tempFail', stage, bare);
        await t.test(`from ${stage}()${legal ? '' : ' is an error of the author'}: ${scope}`, async (t) => {
          let said = 0;
          const script = { ...each(STAGES), [stage]: () => (said++ === 0 ? verdict : 'continue') };
          const { mta, calls, errors, bytes } = await start(script, { bareReplies: bare });
          await mta.play(...before(stage));
          calls.length = 0;
          t.same(await bytes(COMMANDS[stage]), [now], 'the answer');
          t.same(
            errors.map(({ code, stage }) => [code, stage]),
            legal ? [] : [['ERR_MILTER_VERDICT', stage]],
          );
          t.same(calls, [stage]);
          const go = packet('c');
          const heard = async (...commands: Command[]): Promise<string[]> => {
            calls.length = 0;
            t.same(
              await bytes(...commands),
              commands.map(() => go),
            );
            return calls;
          };
          const unheard = async (...stages: Stage[]): Promise<void> => {
            calls.length = 0;
            const answers = await bytes(...stages.map((name) => COMMANDS[name]));
            t.same(answers, Array(stages.length).fill(again), `${stages.join()} get it again`);
            t.same(calls, [], 'and no callback');
          };
          if (scope === '.' || scope === 'o') {
            if (stage === 'connect' || stage === 'helo') t.same(await heard(say.mail()), ['mailFrom']);
            const rest = stage === 'unknown' ? REST : REST.slice(Math.max(0, REST.indexOf(stage)));
            const wanted = rest.filter((name) => name !== 'body' || verdict !== 'skip' || !legal);
            t.same(await heard(...rest.map((name) => COMMANDS[name])), wanted);
          }
          if (scope === 'm') {
            await unheard(...REST.filter((name) => stage !== 'eob' || name !== 'eob'));
            t.same(await heard(say.unknown()), ['unknown']);
            t.same(await heard(say.mail(), ...REST.map((name) => COMMANDS[name])), ['mailFrom', ...REST]);
          }
          if (scope === 'h') {
            await unheard('mailFrom', ...REST, 'mailFrom');
            t.same(await heard(say.unknown()), ['unknown']);
            mta.send(say.abort());
            await unheard('mailFrom');
            t.same(await heard(say.helo(), say.mail()), ['helo', 'mailFrom']);
          }
          if (scope === 's') {
            await unheard(...REST, 'mailFrom', ...REST, 'helo', 'mailFrom', 'unknown');
            mta.send(say.abort());
            await unheard('rcpt', 'eob', 'mailFrom');
            mta.send(say.quitNewConnection());
            t.same(await heard(say.connect(), say.helo(), say.mail()), ['connect', 'helo', 'mailFrom']);
          }
        });
      }
    });
  }
}

t.test('what is no verdict', async (t) => {
  const odd = Object.assign(Object.create(null) as object, { a: 1 });
  for (const nonsense of [
    null,
    0,
    true,
    '',
    'ok',
    'toString',
    'REJECT',
    ['continue'],
    {},
    odd,
    Symbol('s'),
    () => {},
  ]) {
    await t.test(`${typeof nonsense} ${JSON.stringify(nonsense) ?? ''} is an error of the author`, async (t) => {
      for (const wrapped of [() => nonsense, async () => nonsense]) {
        const { mta, errors } = await start({ eob: wrapped });
        t.match(await mta.ask(say.eob()), { type: 'tempFail' });
        matchAll(t, errors, [{ code: 'ERR_MILTER_VERDICT', message: /^eob\(\) returned .*, which is no verdict$/ }]);
      }
    });
  }

  await t.test('the errors say what to do', async (t) => {
    const { mta, errors } = await start({ helo: () => 'discard', eob: () => 'skip' });
    await mta.play(say.helo(), say.helo());
    mta.send(say.quitNewConnection());
    await mta.play(say.eob());
    matchAll(t, errors, [
      { message: "helo() must not return 'discard': there is no message yet to be discarded" },
      { message: "helo() must not return 'discard': there is no message yet to be discarded" },
      { message: "eob() must not return 'skip': it works in body() alone" },
    ]);
  });
});

t.test('P68 skip', async (t) => {
  for (const [how, body] of [
    ['called', { body: (): void => {} }],
    ['returned', { body: (): string => 'skip' }],
    ['called and returned', { body: (): string => 'skip' }],
    ['called, and continue returned', { body: (): string => 'continue' }],
  ] as const) {
    for (const agreed of [true, false]) {
      await t.test(`${how}, ${agreed ? '' : 'not '}agreed: no more of the body, eob() knows`, async (t) => {
        const seen: unknown[] = [];
        const script: Script = {
          body(chunk: Buffer) {
            seen.push(chunk.toString());
            if (how !== 'returned') this.skip();
            return body.body();
          },
          eob() {
            seen.push(this.bodySkipped);
          },
        };
        const { mta, errors } = await start(script, { smfipOptions: agreed ? 0x400 : 0 });
        for (let round = 0; round < 2; round++) {
          const said = await mta.play(say.body('1'), say.body('2'), say.eob());
          t.same(said, [agreed ? 'skip' : 'continue', 'continue', 'continue']);
        }
        t.same(seen, ['1', true, '1', true]);
        t.same(errors, []);
      });
    }
  }

  await t.test('a verdict returned after it wins', async (t) => {
    for (const verdict of ['accept', 'reject', 'tempFail', 'discard'] as const) {
      const { mta } = await start({
        body() {
          this.skip();
          return verdict;
        },
      });
      t.match(await mta.ask(say.body()), { type: verdict });
    }
  });

  for (const stage of STAGES.filter((name) => name !== 'body')) {
    await t.test(`in ${stage}() it throws, and returned it is no verdict`, async (t) => {
      const { mta, errors } = await start({
        [stage](this: { skip(): string }) {
          this.skip();
        },
      });
      t.match(await mta.ask(COMMANDS[stage]), { type: 'tempFail' });
      const message = `skip() works in body() only; it was called in ${stage}()`;
      matchAll(t, errors, [{ code: 'ERR_MILTER_WRONG_STAGE', stage, message }]);
    });
  }
});

t.test('P114 what works in eob() alone throws anywhere else, and sends nothing', async (t) => {
  const methods: Readonly<Record<string, (milter: never) => void>> = {
    addRcpt: (milter: { addRcpt(a: string): void }) => milter.addRcpt('b@b.org'),
    delRcpt: (milter: { delRcpt(a: string): void }) => milter.delRcpt('b@b.org'),
    replBody: (milter: { replBody(a: string): void }) => milter.replBody(''),
    addHeader: (milter: { addHeader(a: string, b: string): void }) => milter.addHeader('X', 'y'),
    chgHeader: (milter: { chgHeader(a: string): void }) => milter.chgHeader('X'),
    insHeader: (milter: { insHeader(i: number, a: string, b: string): void }) => milter.insHeader(0, 'X', 'y'),
    chgFrom: (milter: { chgFrom(a: string): void }) => milter.chgFrom(''),
    quarantine: (milter: { quarantine(): void }) => milter.quarantine(),
    progress: (milter: { progress(): void }) => milter.progress(),
  };
  for (const stage of [...STAGES.filter((name) => name !== 'eob'), 'abort', 'close'] as const) {
    const thrown: unknown[] = [];
    const tryAll = function (this: never): void {
      for (const method of Object.values(methods)) {
        try {
          method(this);
        } catch (error) {
          thrown.push(error);
        }
      }
    };
    const { mta, calls, errors } = await start({ ...each(STAGES), [stage]: tryAll });
    await mta.play(...before('unknown'), ...REST.slice(1).map((name) => COMMANDS[name]), say.unknown());
    mta.send(say.abort(), say.quit());
    await mta.closed;
    t.ok(calls.some((name) => name.startsWith(stage)));
    t.match(
      thrown,
      Object.keys(methods).map((name) => ({
        code: 'ERR_MILTER_WRONG_STAGE',
        stage,
        message: `${name}() works in eob() only; it was called in ${stage}()`,
      })),
      stage,
    );
    t.same([errors, mta.replies], [[], []]);
  }
});
