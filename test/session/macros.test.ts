// Macros: what a packet replaces, how long its macros live, who sees them, under which spelling.
import t from 'tap';
import { MilterProtocol, type MacroDict } from '../../lib/index.js';
import { makeDict, NO_MACROS } from '../../lib/session/macro-dict.js';
import { MacroStore } from '../../lib/session/macros.js';
import type { Command } from '../../lib/codec/index.js';
import { packet } from '../helpers/bytes.js';
import { inMemory, say } from '../helpers/mta.js';

/** The letters whose macros last, the latest stage first. */
const LATEST_FIRST = ['E', 'N', 'T', 'R', 'M', 'H', 'C'];

function define(store: MacroStore, stage: string, ...macros: ReadonlyArray<readonly [string, string]>): void {
  store.define({ type: 'macro', stage, macros });
}

/** A milter that notes in each callback what its dictionary says and what macro() finds for some names. */
function noting(...names: string[]) {
  const notes: string[] = [];
  const written = (milter: MilterProtocol, callback: string, dict?: MacroDict): void => {
    const own = dict === undefined ? '' : ` own ${JSON.stringify(dict)}`;
    notes.push(`${callback}:${own} found ${names.map((name) => milter.macro(name) ?? '-').join(' ')}`);
  };
  class Noting extends MilterProtocol {
    override connect(...args: Parameters<MilterProtocol['connect']>) {
      written(this, 'connect', args[4]);
    }
    override helo(_name: string, dict: MacroDict) {
      written(this, 'helo', dict);
    }
    override mailFrom(_address: string, dict: MacroDict) {
      written(this, 'mailFrom', dict);
    }
    override rcpt(_address: string, dict: MacroDict) {
      written(this, 'rcpt', dict);
    }
    override data(dict: MacroDict) {
      written(this, 'data', dict);
    }
    override header(_key: string, _val: string, dict: MacroDict) {
      written(this, 'header', dict);
    }
    override eoh(dict: MacroDict) {
      written(this, 'eoh', dict);
    }
    override body(_chunk: Buffer, dict: MacroDict) {
      written(this, 'body', dict);
    }
    override eob(dict: MacroDict) {
      written(this, 'eob', dict);
    }
    override unknown(_line: string, dict: MacroDict) {
      written(this, 'unknown', dict);
    }
    override abort() {
      written(this, 'abort');
    }
  }
  return { Noting, notes };
}

t.test(
  'P93 a packet replaces the macros of its stage, none of them included, and leaves the other stages',
  async (t) => {
    const store = new MacroStore();
    define(store, 'C', ['j', 'mx'], ['v', '1']);
    define(store, 'H', ['tls', 'yes']);
    define(store, 'C', ['j', 'other']);
    t.equal(store.get('j'), 'other');
    t.equal(store.get('v'), undefined, 'is not merged with what was there');
    t.equal(store.get('tls'), 'yes');
    define(store, 'C');
    t.equal(store.get('j'), undefined, 'an empty packet leaves nothing');
    t.equal(store.get('tls'), 'yes');
  },
);

t.test('P94 the latest stage wins: EOM, EOH, DATA, RCPT, MAIL, HELO, CONNECT', async (t) => {
  for (const [i, letter] of LATEST_FIRST.entries()) {
    const store = new MacroStore();
    for (const other of LATEST_FIRST.slice(i)) define(store, other, ['x', other]);
    t.equal(store.get('x'), letter, LATEST_FIRST.slice(i).join(' '));
  }
});

t.test('P95 a macro is found with and without braces, however it was sent, by its exact case', async (t) => {
  const store = new MacroStore();
  define(store, 'C', ['j', 'mx'], ['{daemon_name}', 'd1'], ['bare_name', 'b']);
  for (const [name, value] of Object.entries({ j: 'mx', daemon_name: 'd1', bare_name: 'b' })) {
    t.equal(store.get(name), value, name);
    t.equal(store.get(`{${name}}`), value, `{${name}}`);
  }
  t.equal(store.get('J'), undefined);
  t.equal(store.get('Daemon_Name'), undefined);
});

t.test('the dictionary of a command is frozen, has no prototype, and lists each macro once', async (t) => {
  const store = new MacroStore();
  define(store, 'C', ['j', 'mx'], ['{daemon_name}', 'd1']);
  const dict = store.begin('C');
  t.ok(Object.isFrozen(dict));
  t.equal(Object.getPrototypeOf(dict), null);
  t.strictSame(Object.entries(dict), [
    ['j', 'mx'],
    ['daemon_name', 'd1'],
  ]);
  t.equal(dict['{j}'], 'mx');
  t.equal(dict['{daemon_name}'], 'd1');
  t.equal(store.begin('C'), NO_MACROS, 'and a second CONNECT has none');
  t.ok(Object.isFrozen(NO_MACROS));
});

t.test('no name a mail server can send does harm: __proto__, braces in braces, nothing, the same twice', async (t) => {
  const store = new MacroStore();
  define(store, 'C', ['__proto__', 'p'], ['x', '1'], ['{{x}}', '2'], ['', 'e'], ['{}', 'f'], ['v', 'a'], ['{v}', 'b']);
  t.equal(store.get('__proto__'), 'p');
  t.equal(store.get('x'), '1');
  t.equal(store.get('{{x}}'), '2');
  t.equal(store.get(''), 'f');
  t.equal(store.get('v'), 'b', 'the last one counts');
  t.equal(store.get('toString'), undefined);
});

t.test('P96 a command ends the macros of the stages behind its own', async (t) => {
  const cleared: Record<string, string> = { C: 'HMRTNE', H: 'MRTNE', M: 'RTNE', R: 'TNE', T: '', N: '', E: '' };
  for (const [letter, gone] of Object.entries(cleared)) {
    const store = new MacroStore();
    for (const other of LATEST_FIRST) define(store, other, [`in_${other}`, 'here']);
    store.begin(letter);
    const left = LATEST_FIRST.filter((other) => !gone.includes(other));
    const found = LATEST_FIRST.filter((other) => store.get(`in_${other}`) === 'here');
    t.strictSame(found, left, letter);
  }
});

t.test('P97 the macros of a recipient are not seen by the next one', async (t) => {
  const store = new MacroStore();
  define(store, 'R', ['{rcpt_addr}', 'b@b.org']);
  t.strictSame({ ...store.begin('R') }, { rcpt_addr: 'b@b.org' });
  t.equal(store.get('rcpt_addr'), 'b@b.org');
  t.equal(store.begin('R'), NO_MACROS, 'not even where the next one brings none');
  t.equal(store.get('rcpt_addr'), undefined);
});

t.test('a packet like the last one of its stage gives the same object again', async (t) => {
  const macros: ReadonlyArray<readonly [string, string]> = [
    ['i', '4ABC'],
    ['j', 'mx'],
  ];
  const again = (...second: ReadonlyArray<readonly [string, string]>): boolean => {
    const store = new MacroStore();
    define(store, 'L', ...macros);
    const first = store.begin('L');
    t.equal(store.begin('L'), NO_MACROS, 'without a packet there are none');
    define(store, 'L', ...second);
    return store.begin('L') === first;
  };
  t.ok(again(['i', '4ABC'], ['j', 'mx']));
  t.notOk(again(['i', '4ABC']), 'fewer');
  t.notOk(again(['i', '4ABC'], ['j', 'mx'], ['k', 'x']), 'more');
  t.notOk(again(['i', '4ABC'], ['j', 'my']), 'another value');
  t.notOk(again(['i', '4ABC'], ['k', 'mx']), 'another name');
});

t.test('P98 what came for a command that never came ends with the message', async (t) => {
  for (const letter of ['M', 'R', 'T', 'N', 'E', 'L', 'B', 'U']) {
    const store = new MacroStore();
    define(store, 'C', ['j', 'mx']);
    store.begin('M');
    define(store, letter, ['old', 'yes']);
    store.endMessage();
    define(store, 'M', ['new', 'yes']);
    store.begin('M');
    store.begin(letter);
    t.equal(store.get('old'), undefined, letter);
    t.equal(store.get('j'), 'mx');
  }
});

t.test('P93 P96 P97 P98 each callback of two messages sees its own macros and those of the live stages', async (t) => {
  const { Noting, notes } = noting('j', 'tls', 'i', 'rcpt_addr', 'e');
  const { mta } = inMemory(Noting);
  await mta.negotiate();
  const one = (i: string): Command[][] => [
    [say.macros('M', { i }), say.mail()],
    [say.macros('R', { '{rcpt_addr}': 'b' }), say.rcpt()],
    [say.rcpt()],
    [say.macros('T', {}), say.data()],
    [say.macros('L', { i: 'in L' }), say.header()],
    [say.header()],
    [say.macros('N', { i: 'in N' }), say.eoh()],
    [say.body()],
    [say.macros('E', { e: '1' }), say.eob()],
  ];
  await mta.ask(say.macros('C', { j: 'mx' }), say.connect());
  await mta.ask(say.macros('H', { '{tls}': 'v1' }), say.helo());
  for (const step of one('i1')) await mta.ask(...step);
  await mta.ask(say.macros('U', { u: '1' }), say.unknown());
  await mta.ask(say.mail());
  t.strictSame(notes, [
    'connect: own {"j":"mx"} found mx - - - -',
    'helo: own {"tls":"v1"} found mx v1 - - -',
    'mailFrom: own {"i":"i1"} found mx v1 i1 - -',
    'rcpt: own {"rcpt_addr":"b"} found mx v1 i1 b -',
    'rcpt: own {} found mx v1 i1 - -',
    'data: own {} found mx v1 i1 - -',
    'header: own {"i":"in L"} found mx v1 in L - -',
    'header: own {} found mx v1 i1 - -',
    'eoh: own {"i":"in N"} found mx v1 in N - -',
    'body: own {} found mx v1 in N - -',
    'eob: own {"e":"1"} found mx v1 in N - 1',
    'unknown: own {"u":"1"} found mx v1 - - -',
    'mailFrom: own {} found mx v1 - - -',
  ]);
});

t.test('P98 an aborted message takes its macros along; abort() still sees them, and its own', async (t) => {
  const { Noting, notes } = noting('j', 'i', 'a');
  const { mta } = inMemory(Noting);
  await mta.negotiate();
  await mta.ask(say.macros('C', { j: 'mx' }), say.connect());
  await mta.ask(say.macros('M', { i: 'i1' }), say.mail());
  await mta.ask(say.macros('A', { a: '1' }), say.abort(), say.mail());
  t.strictSame(notes.slice(2), ['abort: found mx i1 1', 'mailFrom: own {} found mx - -']);
});

t.test(
  'P59 P98 MAIL in the middle of a message has the macros that came for it, not those of the old one',
  async (t) => {
    const { Noting, notes } = noting('i', 'rcpt_addr');
    const { mta } = inMemory(Noting);
    await mta.negotiate();
    await mta.ask(say.connect());
    await mta.ask(say.macros('M', { i: 'i1' }), say.mail());
    await mta.ask(say.macros('R', { '{rcpt_addr}': 'b' }), say.rcpt());
    await mta.ask(say.macros('M', { i: 'i2' }), say.mail());
    t.strictSame(notes.slice(3), ['abort: found i2 b', 'mailFrom: own {"i":"i2"} found i2 -']);
  },
);

t.test('P71 QUIT_NC leaves no macro to the next SMTP session', async (t) => {
  const { Noting, notes } = noting('j', 'tls');
  class Message extends Noting {
    static readonly noCallback = ['connect', 'helo'];
  }
  const { mta } = inMemory(Message);
  await mta.negotiate();
  await mta.ask(say.macros('C', { j: 'mx' }), say.macros('H', { tls: 'v1' }), say.mail());
  await mta.ask(say.quitNewConnection(), say.mail());
  t.strictSame(notes, ['mailFrom: own {} found mx v1', 'abort: found mx v1', 'mailFrom: own {} found - -']);
});

t.test(
  'P99 P100 a macro packet is never answered and never ends a session, whatever its letter and moment',
  async (t) => {
    const { Noting } = noting('j');
    const { mta, errors } = inMemory(Noting);
    const letters = ['L', 'B', 'U', 'A', 'O', 'Q', 'K', 'D', 'x', '\xff', ...LATEST_FIRST];
    const all = letters.map((letter) => say.macros(letter, { x: '1', '{{x}}': '2' }));
    mta.send(...all);
    t.equal((await mta.negotiate()).type, 'negotiate', 'before the negotiation');
    for (const command of [say.connect(), say.mail(), say.rcpt(), say.data(), say.eoh(), say.eob(), say.mail()]) {
      t.equal((await mta.ask(...all, command)).type, 'continue', command.type);
    }
    t.strictSame(errors, []);
    mta.send(say.quit());
    t.equal(await mta.closed, undefined);
    t.strictSame(mta.replies, []);
  },
);

t.test('P101 a value of any bytes, and an empty one, arrive as they are', async (t) => {
  const { Noting, notes } = noting('{auth_authen}', 'empty', 'odd');
  const { mta } = inMemory(Noting);
  await mta.negotiate();
  mta.bytes(
    packet(
      'D',
      Buffer.from('C'),
      '{auth_authen}',
      Buffer.concat([Buffer.from('caf\xe9\0', 'latin1')]),
      'empty',
      '',
      'odd',
    ),
  );
  mta.bytes(packet('C', 'mx', Buffer.from('U')));
  await mta.reply();
  t.match(notes[0], 'found caf\udce9  ');
});

t.test('P100 the macros of commands that were negotiated away can be looked up all the same', async (t) => {
  let seen: unknown;
  class EobOnly extends MilterProtocol {
    override eob() {
      seen = ['j', 'tls', 'mail_addr', 'rcpt_addr', 'd'].map((name) => this.macro(name));
    }
  }
  const { mta } = inMemory(EobOnly);
  await mta.negotiate();
  const macros = (n: number): Command[] => [
    say.macros('M', { '{mail_addr}': `a${n}` }),
    say.macros('R', { '{rcpt_addr}': `b${n}` }),
    say.macros('R', n === 1 ? { '{rcpt_addr}': 'c1' } : {}),
    say.macros('T', { d: `d${n}` }),
  ];
  mta.send(say.macros('C', { j: 'mx' }), say.macros('H', { tls: 'v1' }));
  await mta.ask(...macros(1), say.eob());
  t.strictSame(seen, ['mx', 'v1', 'a1', 'c1', 'd1']);
  await mta.ask(...macros(2), say.eob());
  t.strictSame(seen, ['mx', 'v1', 'a2', undefined, 'd2']);
});

t.test('macros of MAIL that came without MAIL being sent end the message before', async (t) => {
  const { Noting, notes } = noting('i');
  class Recipients extends Noting {
    static readonly noCallback = ['mailFrom'];
  }
  const { mta } = inMemory(Recipients);
  await mta.negotiate();
  await mta.ask(say.macros('M', { i: 'i1' }), say.rcpt());
  await mta.ask(say.macros('M', { i: 'i2' }), say.rcpt());
  t.strictSame(notes, ['rcpt: own {} found i1', 'abort: found i1', 'rcpt: own {} found i2']);
});

t.test('many different lists of names are served, though not all are remembered', async (t) => {
  for (let i = 0; i < 2_000; i++) {
    const dict = makeDict([
      [`{n${i}}`, 'a'],
      ['i', String(i)],
    ]);
    t.strictSame(Object.entries(dict), [
      [`n${i}`, 'a'],
      ['i', String(i)],
    ]);
    t.equal(dict[`{n${i}}`], 'a');
    t.equal(dict['{i}'], String(i));
  }
});
