/** `milter-stream doctor`: says what is at an address, and what is wrong with it. */
import { MAX_MS } from '../option-rules.js';
import { formatAddress, parseAddress } from '../address.js';
import { MilterError } from '../errors.js';
import type { Command, Io } from './command.js';
import { peerOf } from './envelope.js';
import { EXIT, exitOf } from './exit.js';
import { examine, type Examination, type Patient } from './examination.js';
import type { Finding } from './finding.js';
import { hintLines, hintsFor, QUEUE_DIRECTORY, type Hints } from './hints.js';
import { plain, plainError } from './plain.js';
import { inspectSocket, type Inspection } from './socket-file.js';
import { jsonLine, milliseconds, paintFor, printable, count } from './terminal.js';

/** It works, but not as it should. */
const PROBLEMS = 1;

interface Diagnosis extends Examination {
  readonly address: string;
  readonly socket: Inspection['file'];
  readonly hints: Hints;
}

export const doctor: Command = {
  name: 'doctor',
  summary: 'say what is at an address, and what is wrong with it',
  usage: ['ADDRESS [OPTION]...'],
  text: [
    'Connects to ADDRESS, negotiates, plays three harmless messages from example.org to example.com, and says what answers there, what it asks for, how long each stage takes, what it does not survive, and what to write into the configuration of the mail server.',
    'Of a Unix socket it says whose it is, whether the user of the mail server gets to it (mode bits alone, no access control lists), and how a chrooted smtpd sees it.',
    'The milter treats the messages as any: it may count them, log them, or put their sender on a greylist. --negotiate sends none.',
  ],
  options: [
    { name: 'negotiate', text: 'Only connect and negotiate: send no message.' },
    {
      name: 'timeout',
      value: 'TIME',
      text: 'How long to wait for a connection and for each answer: 500ms, 30s (default). A message may take ten times as long altogether.',
    },
    { name: 'hostname', value: 'NAME', text: 'Name of the SMTP client. Default localhost.' },
    { name: 'address', value: 'IP', text: 'Address of the SMTP client, or a path. Default 127.0.0.1.' },
    { name: 'user', value: 'NAME', text: 'User of the mail server. Default postfix.' },
    { name: 'queue-directory', value: 'DIR', text: `Where smtpd is chrooted. Default ${QUEUE_DIRECTORY}.` },
    { name: 'json', text: 'One line of JSON.' },
  ],
  positionals: { min: 1, max: 1 },
  exits: [
    [EXIT.ok, 'healthy'],
    [PROBLEMS, 'it is a milter, and has a problem'],
    [EXIT.unavailable, 'nothing to be reached there, or it is silent'],
    [EXIT.protocol, 'what is there is no milter'],
  ],
  examples: [
    ['doctor inet:8891@127.0.0.1', 'Is it healthy?'],
    ['doctor unix:/var/spool/postfix/milter/my.sock', 'Does Postfix get to it?'],
    ['doctor inet:8891 --json', 'For a monitor.'],
  ],
  async run(io, values, [text = '']) {
    const address = parseAddress(text, 'connect');
    const timeout = values.time('timeout') ?? 30_000;
    const peer = peerOf(values);
    const queueDirectory = values.text('queue-directory') ?? QUEUE_DIRECTORY;
    const user = values.text('user') ?? 'postfix';
    const inspection: Inspection =
      address.kind === 'unix' ? await inspectSocket(address.path, { user, queueDirectory }) : { findings: [] };
    const patient: Patient = {
      address: text,
      options: {
        connectTimeout: timeout,
        commandTimeout: timeout,
        contentTimeout: timeout,
        signal: io.signal,
      },
      peer,
      limit: Math.min(10 * timeout, MAX_MS),
      quick: values.flag('negotiate'),
    };
    const examination: Examination = inspection.hopeless ? nothingAt(text) : await examine(patient);
    const diagnosis: Diagnosis = {
      ...examination,
      address: formatAddress(address),
      socket: inspection.file,
      findings: [...inspection.findings, ...examination.findings],
      hints: hintsFor(address, queueDirectory),
    };
    io.stdout.write(values.flag('json') ? json(diagnosis) : `${lines(io, diagnosis).join('\n')}\n`);
    if (examination.error !== undefined) return exitOf(examination.error);
    return healthy(diagnosis) ? EXIT.ok : PROBLEMS;
  },
};

function nothingAt(address: string): Examination {
  const error = new MilterError('ERR_MILTER_CONNECTION', `There is nothing to connect to at ${address}`);
  return { error, latency: {}, findings: [] };
}

function healthy({ findings }: Diagnosis): boolean {
  return findings.every(({ level }) => level !== 'problem');
}

function json(diagnosis: Diagnosis): string {
  const { error, hints, ...rest } = diagnosis;
  const more = error === undefined ? {} : { error: plainError(error) };
  return jsonLine(plain({ healthy: healthy(diagnosis), ...rest, ...more, config: hints }));
}

function lines(io: Io, diagnosis: Diagnosis): string[] {
  const paint = paintFor(io.stdout, io.env);
  const paints = { ok: paint.green, note: paint.dim, warning: paint.yellow, problem: paint.red };
  const { address, agreed, message, latency, findings, hints } = diagnosis;
  const times = Object.entries(latency).map(([stage, ms]) => `${stage} ${milliseconds(ms)}`);
  const wrong = findings.filter(({ level }: Finding) => level === 'problem').length;
  return [
    paint.bold(printable(address)),
    ...findings.map(({ level, text }) => `  ${paints[level](level.padEnd(8))} ${printable(text)}`),
    ...(agreed === undefined
      ? []
      : [
          '',
          row('version', [String(agreed.version)]),
          row('may do', agreed.actions),
          row('not sent', agreed.notSent),
          row('not answered', agreed.notAnswered),
          row('modes', agreed.modes),
          row(
            'macros',
            Object.entries(agreed.macros).map(([stage, names]) => `${stage}: ${names || 'none'}`),
            '; ',
          ),
          ...(message === undefined ? [] : [row('message', [message.verdict, ...message.edits])]),
          row('slowest', times),
          '',
          ...hintLines(hints),
        ]),
    '',
    wrong === 0 ? paint.green('healthy') : paint.red(count(wrong, 'problem')),
  ];
}

function row(name: string, values: readonly string[], between = ', '): string {
  return `  ${name.padEnd(13)} ${printable(values.join(between)) || 'none'}`;
}
