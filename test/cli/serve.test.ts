// `milter-stream serve`: milters of modules, in each factory, and what is said while they run.
import { mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import t, { type Test } from 'tap';
import { runCli } from '../../lib/cli/cli.js';
import { findMilter, tellModule } from '../../lib/cli/milter-module.js';
import { jsonLog, textLog } from '../../lib/cli/service-log.js';
import { MilterClient } from '../../lib/client/index.js';
import { SMFIF_CHGBODY } from '../../lib/constants.js';
import { MilterError } from '../../lib/errors.js';
import { shortFolder } from '../helpers/folder.js';
import { cli, fakeIo, type FakeIo, type World } from './io.js';

const folder = shortFolder(t);
const library = new URL('../../lib/index.js', import.meta.url).href;

/** Writes a module; its path. */
function module(name: string, code: string): string {
  const path = join(folder, name);
  writeFileSync(path, `import { MilterProtocol, REJECT } from '${library}';\n${code}`);
  return path;
}

const tagging = module(
  'tagging.mjs',
  `export class Tagging extends MilterProtocol {
    eob() { this.addHeader('X-Context', JSON.stringify(this.context ?? null)); }
  }
  export const other = 1;`,
);

interface Serving {
  readonly io: FakeIo;
  readonly address: string;
  readonly stop: () => void;
  readonly ended: Promise<number>;
}

/** Serves on any free port, until it is stopped or the test is over. */
async function serve(t: Test, argv: readonly string[], world: World = {}): Promise<Serving> {
  const controller = new AbortController();
  const io = fakeIo({ ...world, signal: controller.signal });
  const ended = runCli(['serve', ...argv], io);
  t.teardown(async () => {
    controller.abort();
    await ended;
  });
  await Promise.race([io.stdout.printed('INPUT_MAIL_FILTER'), ended]);
  const address = /S=([^,]+),/.exec(io.stdout.text)?.[1];
  if (address === undefined) throw new Error(`it does not listen: ${io.stderr.text}${io.stdout.text}`);
  return { io, address, stop: () => controller.abort(), ended };
}

async function send(address: string): Promise<string> {
  const client = new MilterClient(address);
  await client.connect();
  const { message, verdict } = await client.send({ from: 'a', to: ['b'], message: 'A: b\n\n' });
  await client.quit();
  return `${verdict} ${message.toString().replaceAll('\r\n', ' ')}`;
}

t.test('says where it listens and what to tell the mail server, and ends well', async (t) => {
  const { io, address, stop, ended } = await serve(t, [tagging, 'inet:0']);
  t.equal(await send(address), 'accept A: b X-Context: null  ');
  const [, port] = /:(\d+)@/.exec(address)!;
  t.equal(
    io.stdout.text,
    `listening on ${address}
Postfix, main.cf:
  smtpd_milters = inet:127.0.0.1:${port}
  milter_default_action = tempfail
Sendmail, sendmail.mc:
  INPUT_MAIL_FILTER(\`my-milter', \`S=${address}, F=T, T=S:10s;R:10s;E:5m')
`,
  );
  stop();
  t.equal(await ended, 0);
  t.equal(io.stderr.text, '');
});

t.test('a class that does not say where it lives is given a module that says so, whose text is its URL', async (t) => {
  const own = module('own.mjs', 'export default class Own extends MilterProtocol {}');
  const found = await findMilter(own, undefined);
  t.match(found, { url: pathToFileURL(own).href, key: 'default' });
  tellModule(found);
  const given = found.Milter.module!;
  t.ok(given.startsWith('data:text/javascript,'));
  tellModule(found);
  t.equal(found.Milter.module, given, 'once');
  const loaded = (await import(given)) as { default: { module: string } };
  t.equal(loaded.default.module, given, 'what a worker looks for');
  const says = module('says.mjs', 'export class Says extends MilterProtocol { static module = "here"; }');
  const word = await findMilter(says, undefined);
  tellModule(word);
  t.equal(word.Milter.module, 'here', 'one that says so itself is taken at its word');
});

t.test('a package that is installed is found by its name', async (t) => {
  const before = process.cwd();
  mkdirSync(join(folder, 'node_modules', 'a-milter'), { recursive: true });
  module(join('node_modules', 'a-milter', 'index.mjs'), 'export class A extends MilterProtocol {}\nexport { A as B };');
  writeFileSync(join(folder, 'node_modules', 'a-milter', 'package.json'), '{ "main": "index.mjs" }');
  mkdirSync(join(folder, 'node_modules', 'closed'));
  writeFileSync(join(folder, 'node_modules', 'closed', 'package.json'), '{ "exports": {} }');
  process.chdir(folder);
  try {
    const { address } = await serve(t, ['a-milter', 'inet:0']);
    t.equal(await send(address), 'accept A: b  ');
    const closed = await cli(['serve', 'closed']);
    t.equal(closed.code, 66);
    t.match(closed.err, /^milter-stream serve: Cannot find closed: No "exports" main defined/);
  } finally {
    process.chdir(before);
  }
});

t.test('what is wrong with a module is said in a line', async (t) => {
  const plain = (name: string, code: string): string => {
    const path = join(folder, name);
    writeFileSync(path, code);
    return path;
  };
  const two = module('two.mjs', 'export class A extends MilterProtocol {}\nexport class B extends MilterProtocol {}');
  const cases: ReadonlyArray<readonly [argv: string[], status: number, words: RegExp]> = [
    [
      [join(folder, 'none.mjs')],
      66,
      /^Cannot find .*none\.mjs: there is no such file, and no such package is installed here$/,
    ],
    [[plain('syntax.mjs', 'export class {')], 65, /^Cannot load .*syntax\.mjs: SyntaxError: Unexpected token '\{'/],
    [
      [plain('throws.mjs', '\nthrow new TypeError("on \\x1b[31m\\npurpose");')],
      65,
      /^Cannot load .*: TypeError: on \\x1b\[31m \(file:.*throws\.mjs:2:7\)$/,
    ],
    [[plain('string.mjs', 'throw "a string";')], 65, /^Cannot load .*: it throws "a string"$/],
    [
      [plain('bare.mjs', 'throw Object.assign(new Error("x"), { stack: undefined });')],
      65,
      /^Cannot load .*: Error: x$/,
    ],
    [
      [plain('file.what', '')],
      65,
      /^Cannot load .*unknown.file.extension.*; compile it, or have Node load it: node --import tsx node_modules\/\.bin\/milter-stream serve …$/i,
    ],
    [
      [plain('empty.mjs', '')],
      65,
      /empty\.mjs: it exports no class that extends MilterProtocol \(it exports nothing\)$/,
    ],
    [
      [plain('none-of-ours.mjs', 'export class A {}\nexport default 5;')],
      65,
      /: it exports no class that extends MilterProtocol \(it exports A, default\)$/,
    ],
    [[two], 65, /two\.mjs: it exports several milters: choose one of A, B with --export$/],
    [[two, '--export', 'C'], 65, /two\.mjs: it exports no milter called C: there is A, B$/],
  ];
  for (const [argv, status, words] of cases) {
    const { code, out, err } = await cli(['serve', ...argv, '--listen', 'inet:0']);
    t.strictSame([code, out], [status, ''], argv[0]!);
    t.match(err.slice('milter-stream serve: '.length, -1), words);
  }
});

t.test('a mistake in an option', async (t) => {
  const mistakes: ReadonlyArray<readonly [argv: string[], status: number, words: RegExp]> = [
    [['inet:0', '--listen', 'inet:0'], 64, /ADDRESS is there, and --listen as well/],
    [['inet:x'], 64, /Bad socket address/],
    [['--factory', 'forks'], 64, /--factory must be async, thread or fork, got "forks"/],
    [['--actions', 'ADDHDRS,CHNGBODY'], 64, /--actions must be all, none, or some of ADDHDRS,.*, got "CHNGBODY"/],
    [['--required', 'ADDHDR'], 64, /--required must be all, none, or some of ADDHDRS,.*, got "ADDHDR"/],
    [['--max-payload', '0'], 64, /--max-payload must be a whole number from 1 to/],
    [['--mode', '888'], 64, /--mode must be an octal mode like 0660, got "888"/],
    [['--context', '{'], 64, /--context is no JSON: /],
    [['--context', `@${join(folder, 'nothing')}`], 66, /Cannot read .*nothing: ENOENT/],
    [['--factory', 'thread', '--socket', 'child'], 64, /socket must be that of the parent/],
    [['--factory', 'fork', '--per-session', '--workers', '2'], 64, /workers means nothing with perSession/],
    [['--log', 'xml'], 64, /--log must be text or json/],
    [[join(folder, 'no', 'folder')], 69, /Cannot listen on unix:.*: the folder is not there/],
    [[join(folder, 's'), '--group', 'no-such-group'], 64, /sockGroup: \/etc\/group has no 'no-such-group'/],
  ];
  for (const [argv, status, words] of mistakes) {
    const { code, err } = await cli(['serve', tagging, ...argv]);
    t.equal(code, status, argv.join(' '));
    t.match(err, words);
    t.notMatch(err, /\n +at /);
  }
  const failing = module(
    'failing.mjs',
    'export class A extends MilterProtocol { static setup() { throw new Error("no database"); } }',
  );
  const { code, err } = await cli(['serve', failing, 'inet:0']);
  t.equal(code, 70);
  t.match(err, /no database/);
});

t.test(
  'options reach the factory: mode, owner and group of the socket, actions, context of a file, dry run',
  async (t) => {
    const context = join(folder, 'context.json');
    writeFileSync(context, '[1]');
    const path = join(folder, 'u');
    const ids = ['--owner', String(process.getuid!()), '--group', String(process.getgid!())];
    const first = await serve(t, [
      tagging,
      path,
      '--mode',
      '0640',
      ...ids,
      '--context',
      `@${context}`,
      '--actions',
      'smfif_addhdrs,chgbody',
    ]);
    t.equal(statSync(path).mode & 0o777, 0o640);
    t.match(first.io.stdout.text, `smtpd_milters = unix:${path}\n`);
    t.equal(await send(path), 'accept A: b X-Context: [1]  ');
    const client = new MilterClient(path);
    await client.connect();
    t.equal(client.agreed?.actions, 0x03);
    await client.quit();
    const dry = await serve(t, [tagging, 'inet:0', '--dry-run', '--error-policy', 'reject']);
    t.equal(await send(dry.address), 'accept A: b  ');
    t.match(
      dry.io.stdout.text,
      /dry run: eob\(\) would have changed the message queueId=MS\w+ edits=\{"addHeader":1\}\n/,
    );
    const default0 = await serve(t, [tagging, join(folder, 'v')]);
    t.equal(statSync(join(folder, 'v')).mode & 0o777, 0o660, 'nobody else but the group');
    default0.stop();
    const none = await serve(t, [tagging, 'inet:0', '--actions', 'none']);
    t.match(await send(none.address), 'tempFail', 'the error policy: it may not add a header');
    t.match(none.io.stderr.text, 'SMFIF_ADDHDRS');
  },
);

t.test('limits reach the factory: what it cannot do without, sizes and times', async (t) => {
  const { address } = await serve(t, [tagging, 'inet:0', '--required', 'ADDHDRS', '--max-modifications', '1']);
  t.match(await send(address), 'tempFail', 'a header is more than that');
  await t.rejects(new MilterClient(address, { actions: SMFIF_CHGBODY }).connect(), { code: 'ERR_MILTER_CONNECTION' });
  const times = ['--negotiation-timeout', '1ms', '--start-timeout', '1m', '--progress-after', '1s'];
  const sizes = ['--progress-every', '1s', '--max-payload', '4', '--spool-memory', '0'];
  const narrow = await serve(t, [tagging, 'inet:0', ...times, ...sizes]);
  await t.rejects(
    new MilterClient(narrow.address).connect(),
    { code: 'ERR_MILTER_CONNECTION' },
    'an offer has 12 bytes',
  );
});

t.test('--log prints a line for each message; --quiet no line at all', async (t) => {
  const text = await serve(t, [tagging, 'inet:0', '--log', 'text']);
  await send(text.address);
  t.match(
    text.io.stdout.text,
    /message: continue queueId=MS\w+ verdict=continue stage=eob edits=\{"addHeader":1\} ms=\d+ worker=\d+\n/,
  );
  const json = await serve(t, [tagging, 'inet:0', '--log', 'json']);
  await send(json.address);
  const lines = json.io.stdout.text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as object);
  t.match(lines, [
    { level: 'info', message: /^listening on inet:/, time: /^\d{4}-\d\d-\d\dT/ },
    { level: 'info', message: 'what to tell the mail server', postfix: [/^smtpd_milters/, String], sendmail: [String] },
    { level: 'info', message: 'message: continue', verdict: 'continue', stage: 'eob', edits: { addHeader: 1 } },
  ]);
  const controller = new AbortController();
  const io = fakeIo({ signal: controller.signal });
  const path = join(folder, 'q');
  const ended = runCli(['serve', tagging, path, '--quiet', '--log', 'text'], io);
  while (
    await send(path).then(
      () => false,
      () => true,
    )
  )
    await new Promise((resolve) => setImmediate(resolve));
  controller.abort();
  t.equal(await ended, 0);
  t.equal(io.stdout.text, '');
});

t.test('a callback that throws is told with its stack: whoever writes the milter wants to know', async (t) => {
  const throws = module(
    'callback.mjs',
    'export class A extends MilterProtocol {\n  eob() {\n    throw new Error("on \\x1b[31m purpose"); } }',
  );
  const { io, address } = await serve(t, [throws, 'inet:0'], { tty: true });
  t.match(await send(address), 'tempFail');
  t.match(
    io.stderr.text.replaceAll('\x1b', 'ESC'),
    /^ESC\[31m.*on \\x1b\[31m purpose.* code=ERR_MILTER_CALLBACK queueId=MS\w+ESC\[0m\n {2}Error: on \\x1b\[31m purpose\n {2} +at .*callback\.mjs:4/,
  );
  const json = await serve(t, [throws, 'inet:0', '--log', 'json']);
  await send(json.address);
  const line = json.io.stdout.text.split('\n').find((each) => each.includes('"error"'))!;
  t.match(JSON.parse(line), {
    level: 'error',
    code: 'ERR_MILTER_CALLBACK',
    err: {
      name: 'MilterError',
      code: 'ERR_MILTER_CALLBACK',
      cause: { name: 'Error', message: 'on \x1b[31m purpose', stack: String },
    },
  });
});

t.test('lines of the log: levels for the journal, plain errors, causes of every kind', (t) => {
  const io = fakeIo({ env: { JOURNAL_STREAM: '8:1' } });
  const log = textLog(io);
  log.info({ a: 1, gone: undefined }, 'hello');
  log.warn({ err: new Error('plain') }, 'careful');
  log.error({ err: new MilterError('ERR_MILTER_CALLBACK', 'x', { cause: 'a string' }) }, 'bad');
  const cause = Object.assign(new Error('y'), { stack: undefined });
  log.error({ err: new MilterError('ERR_MILTER_CALLBACK', 'x', { cause }) }, 'bad');
  t.equal(io.stdout.text, '<6>hello a=1\n');
  t.equal(io.stderr.text, '<4>careful\n<3>bad\n<3>bad\n<3>  \n');
  const json = fakeIo();
  jsonLog(json).warn({ error: new MilterError('ERR_MILTER_CALLBACK', 'x', { cause: 'a string' }) }, 'm');
  t.match(JSON.parse(json.stdout.text), { level: 'warn', error: { message: 'x', cause: 'a string' } });
  t.end();
});
