// The command line: what is found, what is asked for, and what is said about mistakes.
import t from 'tap';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { runCli } from '../../lib/cli/cli.js';
import type { Command } from '../../lib/cli/command.js';
import { COMMANDS } from '../../lib/cli/commands.js';
import { exitOf, usageError } from '../../lib/cli/exit.js';
import { MilterError } from '../../lib/errors.js';
import { root } from '../helpers/built.js';
import { cli, fakeIo } from './io.js';

const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };

/** A command that does what a test says. */
function command(run: Command['run'], more: Partial<Command> = {}): readonly Command[] {
  const plain: Command = {
    name: 'try',
    summary: 'tries',
    usage: ['[OPTION]... ARGUMENT', '--all'],
    text: ['A paragraph.', 'Another one.'],
    options: [
      { name: 'all', short: 'a', text: 'Everything.' },
      { name: 'size', value: 'N', text: 'How large.' },
      { name: 'wait', value: 'TIME', text: 'How long.' },
      { name: 'kind', value: 'KIND', text: 'Which.' },
      { name: 'many', value: 'WORD', multiple: true, text: 'Words.' },
    ],
    positionals: { min: 0, max: 1 },
    exits: [[0, 'good']],
    examples: [['try this', 'Tries this.']],
    run,
    ...more,
  };
  return [plain];
}

function throwing(error: unknown): readonly Command[] {
  return command(async () => {
    throw error;
  });
}

const escaped = (text: string): string => text.replace(/[()]/g, '\\$&');

const nothing = command(() => Promise.resolve(0));

t.test('--help names every command, and the help of each names its options, exit statuses and examples', async (t) => {
  for (const argv of [['--help'], ['-h'], ['help']]) {
    const { code, out, err } = await cli(argv);
    t.equal(code, 0);
    t.equal(err, '');
    for (const { name, summary } of COMMANDS)
      t.match(out, new RegExp(`^  ${name} +${escaped(summary.slice(0, 20))}`, 'm'));
  }
  for (const { name, options, exits, examples } of COMMANDS) {
    const { code, out } = await cli([name, '--help']);
    t.equal(code, 0, name);
    t.ok(out.startsWith(`Usage: milter-stream ${name} `));
    for (const option of [...options, { name: 'help' }]) t.ok(out.includes(`--${option.name}`), option.name);
    for (const [status, meaning] of exits)
      t.match(out, new RegExp(`^  ${status} +${escaped(meaning.slice(0, 20))}`, 'm'));
    t.match(out, /^  64 +the command line is wrong$/m);
    t.match(out, /^  70 +/m);
    for (const [line] of examples) t.ok(out.includes(`  milter-stream ${line}\n`), line);
    t.equal((await cli(['help', name])).out, out, 'help COMMAND is the same');
    t.equal((await cli([name, '-h', 'and', 'what', 'else'])).out, out, 'whatever else there is');
    const long = out.split('\n').filter((line) => line.length > 80 && !line.startsWith('  milter-stream'));
    t.strictSame(long, [], 'no line is longer than a terminal is wide');
  }
});

t.test('a command may be used in several ways', async (t) => {
  t.match(
    (await cli(['try', '--help'], { commands: nothing })).out,
    /^Usage: milter-stream try \[OPTION\]\.\.\. ARGUMENT\n {7}milter-stream try --all\n\nA paragraph\.\n\nAnother one\.\n\nOptions:\n/,
  );
});

t.test('--version is that of the package', async (t) => {
  for (const option of ['--version', '-V'])
    t.strictSame(await cli([option]), { code: 0, out: `${version}\n`, err: '' });
});

t.test('the man page says what --help says, and nothing in it is a request by accident', async (t) => {
  const { code, out } = await cli(['--man']);
  t.equal(code, 0);
  t.ok(out.startsWith(`.TH MILTER-STREAM 1 "" "milter-stream ${version}" "User Commands"\n.SH NAME\n`));
  for (const { name, options } of COMMANDS) {
    t.match(out, new RegExp(`^\\.SS ${name}: `, 'm'));
    for (const option of options)
      t.ok(
        out.includes(
          `.B ${option.short === undefined ? '' : `\\-${option.short}, `}\\-\\-${option.name.replaceAll('-', '\\-')}`,
        ),
        option.name,
      );
  }
  const requests = new Set(out.split('\n').flatMap((line) => /^[.'](\S*)/.exec(line)?.[1] ?? []));
  t.strictSame(requests, new Set(['TH', 'SH', 'B', 'br', 'SS', 'PP', 'TP']));
  const odd = command(() => Promise.resolve(0), {
    summary: 'a \\ and a "quote"',
    text: [".it's at the front", "'and so"],
  });
  const shown = (await cli(['--man'], { commands: odd })).out;
  t.ok(shown.includes('a \\e and a \\(dqquote\\(dq'));
  t.ok(shown.includes("\n\\&.it's at the front\n.PP\n\\&'and so\n"));
});

t.test('a mistake in the command line is told in a line, with what may have been meant', async (t) => {
  const mistakes: ReadonlyArray<readonly [argv: string[], words: string]> = [
    [[], 'milter-stream: a command is missing: serve, send, sniff, record, replay, decode, doctor'],
    [['sned'], 'milter-stream: there is no command sned: did you mean send?'],
    [['doc'], 'milter-stream: there is no command doc: did you mean doctor?'],
    [['x'], 'milter-stream: there is no command x'],
    [['help', 'nonsense'], 'milter-stream: there is no command nonsense'],
    [['--jsn'], 'milter-stream: there is no option --jsn'],
    [['\x1b[2J'], 'milter-stream: there is no command \\x1b[2J'],
    [['send', '--tu', 'x'], 'milter-stream send: there is no option --tu: did you mean --to?'],
    [['send', '--nonsense'], 'milter-stream send: there is no option --nonsense'],
    [['send', '-x'], 'milter-stream send: there is no option -x'],
    [['send', '--to'], "milter-stream send: Option '--to <value>' argument missing"],
    [['send', '--json=yes'], "milter-stream send: Option '--json' does not take an argument"],
    [['doctor', 'a', 'b'], 'milter-stream doctor: one argument too many: b'],
    [['doctor'], 'milter-stream doctor: an argument is missing: ADDRESS [OPTION]...'],
  ];
  for (const [argv, words] of mistakes) {
    const { code, out, err } = await cli(argv);
    const who = words.slice(0, words.indexOf(':'));
    t.strictSame([code, out, err], [64, '', `${words}\nSee ${who} --help\n`], argv.join(' '));
  }
});

t.test('the values of options are read as what they should be', async (t) => {
  let got: unknown;
  const commands = command((_io, values, positionals) => {
    const size = values.whole('size', 1, 10);
    const wait = values.time('wait');
    const kind = values.choice('kind', ['one', 'two', 'three']);
    got = [values.flag('all'), size, wait, kind, values.list('many'), positionals];
    return Promise.resolve(7);
  });
  const read = async (...argv: string[]): Promise<unknown> => {
    t.equal((await cli(['try', ...argv], { commands })).code, 7, argv.join(' '));
    return got;
  };
  t.strictSame(await read(), [false, undefined, undefined, undefined, [], []]);
  t.strictSame(await read('-a', '--size=10', '--many', 'a', 'b', '--many=c'), [
    true,
    10,
    undefined,
    undefined,
    ['a', 'c'],
    ['b'],
  ]);
  const times = { '500ms': 500, '8s': 8_000, '2m': 120_000, '1h': 3_600_000, 3: 3_000, '0.5': 500, '1.5ms': 2 };
  for (const [text, ms] of Object.entries(times)) {
    t.strictSame(await read('--wait', text, '--kind', 'two'), [false, undefined, ms, 'two', [], []]);
  }
  const wrong: ReadonlyArray<readonly [string, string, string]> = [
    ['size', '11', 'must be a whole number from 1 to 10'],
    ['size', '1e1', 'must be a whole number from 1 to 10'],
    ['size', '', 'must be a whole number from 1 to 10'],
    ['wait', '1d', 'must be a time like 500ms, 8s or 2m'],
    ['wait', '0', 'must be a time like 500ms, 8s or 2m'],
    ['wait', '600h', 'must be a time like 500ms, 8s or 2m'],
    ['kind', 'four', 'must be one, two or three'],
  ];
  for (const [name, text, rule] of wrong) {
    const { code, err } = await cli(['try', `--${name}`, text], { commands });
    t.strictSame([code, err.split('\n')[0]], [64, `milter-stream try: --${name} ${rule}, got "${text}"`]);
  }
});

t.test('an error that the user can mend has no stack; one of the program’s own has', async (t) => {
  const fail = (error: unknown) => cli(['try'], { commands: throwing(error) });
  t.strictSame(await fail(new MilterError('ERR_MILTER_CONNECTION', 'gone \x1b[31m')), {
    code: 69,
    out: '',
    err: 'milter-stream try: gone \\x1b[31m\n',
  });
  t.equal((await fail(usageError('so not'))).err, 'milter-stream try: so not\nSee milter-stream try --help\n');
  const own = await fail(new TypeError('undefined is no function'));
  t.equal(own.code, 70);
  t.match(
    own.err,
    /^milter-stream try: this is an error of milter-stream itself\nTypeError: undefined is no function\n +at /,
  );
  const bare = Object.assign(new Error('no stack'), { stack: undefined });
  t.match((await fail(bare)).err, /itself\nno stack\n$/);
  t.match((await fail('a string')).err, /itself\na string\n$/);
  t.equal(
    (await cli(['try'], { commands: throwing(usageError('red')), tty: true })).err.split('\n')[0],
    '\x1b[31mmilter-stream try: red\x1b[0m',
  );
});

t.test('each code of an error has an exit status', (t) => {
  const of = (code: ConstructorParameters<typeof MilterError>[0]): number => exitOf(new MilterError(code, ''));
  t.equal(of('ERR_MILTER_ADDRESS'), 64);
  t.equal(of('ERR_MILTER_ARGUMENT'), 65);
  t.equal(of('ERR_MILTER_TIMEOUT'), 69);
  t.equal(of('ERR_MILTER_WORKER'), 70);
  t.equal(of('ERR_MILTER_FILTER'), 76);
  t.equal(of('ERR_MILTER_UNKNOWN_CODE'), 76);
  t.end();
});

t.test('a reader who has gone ends nothing', async (t) => {
  const io = fakeIo();
  const gone = Object.assign(new Error('write EPIPE'), { code: 'EPIPE' });
  io.stdout._write = (_chunk, _encoding, done) => done(gone);
  t.equal(await runCli(['--help'], io, nothing), 0);
  await new Promise((resolve) => setImmediate(resolve));
  t.ok(io.stdout.destroyed);
});
