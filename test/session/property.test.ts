// Anything in any order: random commands, legal or not, against milters whose callbacks say, throw and delay at random.
// What must hold is written down here once more, without a look at the session. FUZZ_RUNS=20000 looks longer.
import * as fc from 'fast-check';
import t from 'tap';
import { encodeCommand, type Command, type NegotiateReply, type Reply } from '../../lib/codec/index.js';
import type { MilterProtocol, Result, Stage, Verdict } from '../../lib/index.js';
import { bareSession, milter, STAGES, thenable, type BareSession, type Script } from '../helpers/milter.js';
import { ALL_ACTIONS, ALL_STEPS, say } from '../helpers/mta.js';

const numRuns = Number(process.env['FUZZ_RUNS'] ?? 1000);

// ---- The protocol, as far as it is needed ---------------------------------------------------------------------------

/** The letter of a command, the bit that keeps it away, the bit that leaves it unanswered. */
const WIRE: Readonly<Record<Stage, readonly [letter: string, no: number, nr: number]>> = {
  connect: ['C', 0x1, 0x1000],
  helo: ['H', 0x2, 0x2000],
  mailFrom: ['M', 0x4, 0x4000],
  rcpt: ['R', 0x8, 0x8000],
  data: ['T', 0x200, 0x10000],
  header: ['L', 0x20, 0x80],
  eoh: ['N', 0x40, 0x40000],
  body: ['B', 0x10, 0x80000],
  eob: ['E', 0, 0],
  unknown: ['U', 0x100, 0x20000],
};
const MESSAGE: readonly Stage[] = ['mailFrom', 'rcpt', 'data', 'header', 'eoh', 'body', 'eob'];
const COMMANDS: Readonly<Record<Stage | 'abort' | 'quitNewConnection', Command>> = {
  connect: say.connect(),
  helo: say.helo(),
  mailFrom: say.mail(),
  rcpt: say.rcpt(),
  data: say.data(),
  header: say.header(),
  eoh: say.eoh(),
  body: say.body(),
  eob: say.eob(),
  unknown: say.unknown(),
  abort: say.abort(),
  quitNewConnection: say.quitNewConnection(),
};

// ---- What may happen ------------------------------------------------------------------------------------------------

type How = 'at once' | 'soon' | 'later' | 'foreign';
type What = Verdict | 'nothing' | 'reply' | 'throw' | 'nonsense';

interface Step {
  readonly type: keyof typeof COMMANDS;
  /** What the callback of this command does, if it is called. */
  readonly what: What;
  readonly how: How;
  /** The milter's code, if `what` is a reply. */
  readonly code: 421 | 451 | 550;
  /** eob() changes the message first. */
  readonly edit: boolean;
  /** An EOB brings the last piece of the body. */
  readonly tail: boolean;
  /** What was said so far goes out, and the milter gets some time. */
  readonly pause: boolean;
}

const step = (type: fc.Arbitrary<Step['type']>): fc.Arbitrary<Step> =>
  fc.record({
    type,
    what: fc.oneof(
      { weight: 12, arbitrary: fc.constantFrom<What>('nothing', 'continue') },
      { weight: 6, arbitrary: fc.constantFrom<What>('accept', 'reject', 'tempFail', 'discard', 'skip', 'reply') },
      { weight: 2, arbitrary: fc.constantFrom<What>('connFail', 'shutdown', 'throw', 'nonsense') },
    ),
    how: fc.constantFrom<How>('at once', 'at once', 'soon', 'later', 'foreign'),
    code: fc.constantFrom<Step['code']>(421, 451, 550, 550),
    edit: fc.boolean(),
    tail: fc.nat(9).map((n) => n === 0),
    pause: fc.nat(3).map((n) => n === 0),
  });
const exactly = (...types: Step['type'][]): fc.Arbitrary<Step[]> =>
  fc.tuple(...types.map((type) => step(fc.constant(type)))).map((steps) => Array.from(steps));

const steps = fc
  .array(
    fc.oneof(
      { weight: 3, arbitrary: exactly(...(MESSAGE as Stage[])) },
      { weight: 1, arbitrary: exactly('connect', 'helo') },
      { weight: 1, arbitrary: exactly('quitNewConnection', 'connect') },
      { weight: 4, arbitrary: step(fc.constantFrom(...(MESSAGE as Stage[]))).map((one) => [one]) },
      { weight: 3, arbitrary: step(fc.constantFrom('helo', 'unknown', 'abort', 'mailFrom')).map((one) => [one]) },
      { weight: 1, arbitrary: step(fc.constantFrom('connect', 'eob')).map((one) => [one]) },
    ),
    { maxLength: 8 },
  )
  .map((lists) => lists.flat());

const milters = fc.record({
  /** The callbacks that are there. */
  overridden: fc.oneof(fc.constant([...STAGES]), fc.subarray([...STAGES])),
  noReply: fc.oneof(fc.constant([]), fc.subarray(STAGES.filter((stage) => stage !== 'eob'))),
  /** What the server can leave out and leave unanswered. */
  offer: fc.oneof(fc.constant(ALL_STEPS), fc.nat(ALL_STEPS), fc.constant(0x400)),
  /** Whether macros come for commands that are not sent, as Postfix has it. */
  macros: fc.boolean(),
  end: fc.constantFrom<'quit' | 'end'>('quit', 'end'),
});
type Setup = typeof milters extends fc.Arbitrary<infer T> ? T : never;

// ---- A conversation -------------------------------------------------------------------------------------------------

interface Call {
  readonly id: number | undefined;
  readonly stage: Stage;
}

interface Talk extends BareSession {
  readonly protocol: number;
  /** The callbacks of commands, as they were called. */
  readonly heard: Call[];
  /** All of them, by name. */
  readonly calls: string[];
  /** What must never happen. */
  readonly wrong: string[];
  readonly feed: (...commands: Command[]) => void;
}

const TOGETHER = 'two callbacks at once';

/** What a callback does. */
function act(milter: MilterProtocol, { what, code }: Step, id: number): Verdict | undefined {
  if (what === 'nothing') return undefined;
  if (what === 'throw') throw new Error('boom');
  if (what === 'nonsense') return 'nonsense' as Verdict;
  return what === 'reply' ? milter.setReply(code, '', String(id)) : what;
}

function begin(script: readonly Step[], setup: Setup): Talk {
  const heard: Call[] = [];
  const wrong: string[] = [];
  let running = 0;
  /** One callback at a time, in its own way. */
  const perform = (how: How, work: () => Verdict | undefined): Result => {
    if (running++ > 0) wrong.push(TOGETHER);
    const end = (): Verdict | undefined => {
      running--;
      return work();
    };
    if (how === 'at once') return end();
    if (how === 'soon') return Promise.resolve().then(end);
    if (how === 'later') return new Promise((resolve) => setImmediate(resolve)).then(end);
    return thenable((resolve, reject) => void Promise.resolve().then(end).then(resolve, reject)) as Result;
  };
  const callbacks: Script = {};
  for (const stage of setup.overridden) {
    callbacks[stage] = function (this: MilterProtocol, ...args: never[]) {
      const dict = args.find((arg) => Object.getPrototypeOf(arg) === null) as { id?: string } | undefined;
      const id = dict?.id === undefined ? undefined : Number(dict.id);
      heard.push({ id, stage });
      const mine = id === undefined ? undefined : script[id];
      if (id === undefined || mine === undefined) return undefined;
      return perform(mine.how, () => {
        if (stage === 'eob' && mine.edit) this.addHeader('X', 'y');
        return act(this, mine, id);
      });
    };
  }
  const pause = (): void => perform('soon', () => undefined) as unknown as void;
  const { MyMilter, calls } = milter({ ...callbacks, abort: pause, close: pause }, { noReply: setup.noReply });
  const bare = bareSession(MyMilter, { smfifOptions: ALL_ACTIONS, smfipOptions: 0x400 });
  const feed = (...commands: Command[]): void => {
    bare.session.feed(Buffer.concat(commands.map((command) => encodeCommand(command, 0xffff))));
  };
  feed({ type: 'negotiate', version: 6, actions: ALL_ACTIONS, protocol: setup.offer });
  const { protocol } = bare.replies.shift() as NegotiateReply;
  return Object.assign(bare, { protocol, heard, calls, wrong, feed });
}

/** What goes out for a step: nothing, or macros alone, where the command was not wanted. */
function packets(one: Step, id: number, protocol: number, macros: boolean): Command[] {
  if (one.type === 'abort' || one.type === 'quitNewConnection') return [COMMANDS[one.type]];
  const [letter, no] = WIRE[one.type];
  const macro = say.macros(letter, { id: String(id) });
  if ((protocol & no) !== 0) return macros ? [macro] : [];
  if (one.type === 'eob' && one.tail) return [macro, { type: 'eob', chunk: Buffer.from('tail') }];
  return [macro, COMMANDS[one.type]];
}

async function play(talk: Talk, script: readonly Step[], macros: boolean): Promise<void> {
  let due: Command[] = [];
  for (const [id, one] of script.entries()) {
    due.push(...packets(one, id, talk.protocol, macros));
    if (!one.pause) continue;
    talk.feed(...due.splice(0));
    await new Promise((resolve) => setImmediate(resolve));
  }
  talk.feed(...due);
}

// ---- What must hold -------------------------------------------------------------------------------------------------

/** Which steps the server waits for an answer to. */
function expecting(script: readonly Step[], protocol: number): number[] {
  return script.flatMap(({ type }, id) => {
    if (type === 'abort' || type === 'quitNewConnection') return [];
    const [, no, nr] = WIRE[type];
    return (protocol & (no | nr)) === 0 ? [id] : [];
  });
}

/** Where the order of commands is broken for certain, and where it may be, depending on what the milter has said. */
function breaks(script: readonly Step[], protocol: number): { certain: number; possible: number[] } {
  const possible: number[] = [];
  let connected = false;
  let open = (protocol & WIRE.mailFrom[1]) !== 0; // every command may begin a message
  for (const [id, { type }] of script.entries()) {
    if (type === 'connect' && (protocol & WIRE.connect[1]) === 0) {
      if (connected) return { certain: id, possible };
      connected = true;
    }
    if (type === 'eob' && !open) possible.push(id);
    if (type === 'quitNewConnection') connected = false;
    if ((protocol & WIRE.mailFrom[1]) === 0) {
      if (type === 'mailFrom') open = true;
      if (type === 'eob' || type === 'abort' || type === 'quitNewConnection') open = false;
      if (type === 'helo') open = false;
    }
  }
  return { certain: script.length, possible };
}

/** What an answered command hears of its own callback. */
function answerTo({ type, what, code }: Step, id: number, protocol: number): Partial<Reply> {
  if (what === 'throw' || what === 'nonsense') return { type: 'tempFail' };
  if (what === 'reply') return { type: 'replyCode', text: `${code} ${code === 550 ? '5' : '4'}.0.0 ${id}` };
  if (what === 'nothing' || what === 'continue') return { type: 'continue' };
  if (what === 'connFail' || what === 'shutdown') return { type: 'replyCode' };
  if (what === 'discard' && ['connect', 'helo', 'unknown'].includes(type)) return { type: 'tempFail' };
  if (what === 'skip' && type !== 'body') return { type: 'tempFail' };
  if (what === 'skip') return { type: (protocol & 0x400) === 0 ? 'continue' : 'skip' };
  if (what === 'accept' && type === 'unknown') return { type: 'continue' };
  return { type: what };
}

const FINAL = new Set(['continue', 'accept', 'reject', 'tempFail', 'discard', 'skip', 'replyCode']);

/** The replies without edits, each of which must be followed by a reply that accepts. */
function verdicts(talk: Talk): Reply[] {
  return talk.replies.filter(({ type }, i) => {
    if (type !== 'addHeader') return true;
    const next = talk.replies[i + 1]?.type;
    if (next !== 'continue' && next !== 'accept') talk.wrong.push(`an edit is followed by ${next}`);
    return false;
  });
}

/** Everything that is true of a conversation; what is not. */
function check(talk: Talk, script: readonly Step[], error: { code: string } | undefined): string[] {
  const { protocol, heard, calls, wrong } = talk;
  const replies = verdicts(talk);
  const waits = expecting(script, protocol);
  const { certain, possible } = breaks(script, protocol);
  let end = script.length;
  if (error === undefined) {
    if (certain < end) wrong.push(`the order is broken at ${certain}, and the session lives on`);
  } else {
    if (error.code !== 'ERR_MILTER_SEQUENCE') wrong.push(`ended with ${error.code}`);
    const answered = (id: number): boolean => waits.filter((wait) => wait < id).length === replies.length;
    const at = [...possible, certain].find((id) => id <= certain && answered(id));
    if (at === undefined || at === script.length) wrong.push('the session ended without a reason');
    else end = at;
  }

  const owed = waits.filter((id) => id < end);
  if (replies.length !== owed.length) wrong.push(`${owed.length} commands, ${replies.length} replies`);
  for (const { type } of replies) if (!FINAL.has(type)) wrong.push(`${type} is no answer`);
  const ids = heard.flatMap(({ id }) => (id === undefined ? [] : [id]));
  if (ids.some((id, i) => i > 0 && id <= (ids[i - 1] as number))) wrong.push(`called out of order: ${ids.join()}`);
  for (const { id, stage } of heard) {
    if (id === undefined) {
      if (stage !== 'body') wrong.push(`${stage}() without its macros`);
      continue;
    }
    const one = script[id] as Step;
    if (one.type !== stage) wrong.push(`${stage}() called for ${one.type}`);
    const place = owed.indexOf(id);
    const reply = replies[place];
    if (place < 0 || reply === undefined) continue;
    const expected = answerTo(one, id, protocol) as Record<string, unknown>;
    const got = reply as unknown as Record<string, unknown>;
    for (const key of Object.keys(expected)) {
      if (got[key] !== expected[key])
        wrong.push(`${id} ${stage}(): ${key} ${String(got[key])}, not ${String(expected[key])}`);
    }
  }

  const past = script.slice(0, end);
  const count = (name: string): number => calls.filter((call) => call === name).length;
  const sessions = 1 + past.filter(({ type }) => type === 'quitNewConnection').length;
  if (count('close') !== sessions) wrong.push(`${sessions} SMTP sessions, ${count('close')} times close()`);
  if (calls.at(-1) !== 'close') wrong.push(`${calls.at(-1)} behind the last close()`);
  const noMail = (protocol & WIRE.mailFrom[1]) !== 0;
  const begun = past.filter(({ type }) => type === 'mailFrom' || (noMail && MESSAGE.includes(type as Stage))).length;
  if (count('abort true') > begun) wrong.push(`${begun} messages, ${count('abort true')} of them interrupted`);
  const aborts = past.filter(({ type }) => type === 'abort').length;
  if (count('abort false') > aborts) wrong.push(`${aborts} ABORTs, ${count('abort false')} outside of a message`);
  if (count('abort true') + count('abort false') < aborts) wrong.push('an ABORT that nobody heard of');
  return wrong;
}

await t.test(
  'P56, P74 one reply to each command that expects one, in order; abort() and close() as often as they must',
  async (t) => {
    await fc.assert(
      fc.asyncProperty(steps, milters, async (script, setup) => {
        const talk = begin(script, setup);
        await play(talk, script, setup.macros);
        if (setup.end === 'quit') talk.feed(say.quit());
        else talk.session.end();
        const error = await talk.closed;
        const wrong = check(talk, script, error);
        if (wrong.length > 0) throw new Error(wrong.join('; '));
      }),
      { numRuns },
    );
    t.pass(`${numRuns} conversations`);
  },
);

await t.test(
  'P143 a conversation that breaks off anywhere: no reply too many, close() once for each object',
  async (t) => {
    const cuts = fc.record({ after: fc.nat(40), how: fc.constantFrom('lost', 'destroy', 'rubbish', 'cut') });
    await fc.assert(
      fc.asyncProperty(steps, milters, cuts, async (script, setup, { after, how }) => {
        const part = script.slice(0, after);
        const talk = begin(part, setup);
        await play(talk, part, setup.macros);
        if (how === 'lost') talk.session.lost(new Error('gone'));
        else if (how === 'destroy') talk.session.destroy();
        else if (how === 'rubbish') talk.session.feed(Buffer.from('GET / HTTP/1.1\r\n'));
        else {
          talk.session.feed(Buffer.of(0, 0, 0));
          talk.session.end();
        }
        await talk.closed;
        const { calls, protocol } = talk;
        // destroy() gives up on the callback at work: abort() and close() come beside it.
        const wrong = how === 'destroy' ? talk.wrong.filter((what) => what !== TOGETHER) : talk.wrong;
        const written = verdicts(talk).length;
        if (written > expecting(part, protocol).length) wrong.push('a reply too many');
        const sessions = 1 + part.filter(({ type }) => type === 'quitNewConnection').length;
        const closes = calls.filter((call) => call === 'close').length;
        if (closes < 1 || closes > sessions)
          wrong.push(`${closes} times close(), for ${sessions} SMTP sessions at most`);
        if (calls.at(-1) !== 'close') wrong.push(`${calls.at(-1)} behind the last close()`);
        for (let turn = 0; turn < 4; turn++) await new Promise((resolve) => setImmediate(resolve));
        if (verdicts(talk).length > written) wrong.push('a reply behind the end');
        if (wrong.length > 0) throw new Error(wrong.join('; '));
      }),
      { numRuns },
    );
    t.pass(`${numRuns} conversations`);
  },
);
