/** `milter-stream send`: plays a mail server to a milter. */
import type { ClientMessage, ClientOptions } from '../client/index.js';
import { parseAddress } from '../address.js';
import type { Command, Io } from './command.js';
import { macrosOf, party, peerOf, recipientsIn, senderIn, type Party } from './envelope.js';
import { asCliError, EXIT, exitOf, usageError } from './exit.js';
import { interruption } from './interruption.js';
import type { LatencySummary } from './latency.js';
import { load, type LoadResult } from './load.js';
import { readMail, type MailFile } from './mail-file.js';
import { checkApart, writeTo } from './output-file.js';
import { plain, plainError } from './plain.js';
import { Player, type Played, type Scene } from './player.js';
import { Progress } from './progress.js';
import { report, stepLines, VERDICTS } from './report.js';
import { count, jsonLine, paintFor, printable } from './terminal.js';
import { latencyLines } from './traffic.js';
import type { Values } from './values.js';

/** Long enough for five minutes at the end of a message, which is what mail servers are told to wait, in ms. */
const LIMIT = 600_000;

/** One message, ready to go. */
interface Mail {
  readonly file: MailFile;
  readonly mail: ClientMessage;
}

export const send: Command = {
  name: 'send',
  summary: 'play a mail server to a milter, and show what it does to a message',
  usage: ['FILE... --to ADDRESS [OPTION]...'],
  text: [
    'Sends each FILE (- is the standard input) past the milter at ADDRESS as Postfix would, and shows the verdict, what became of each recipient, and what was changed in the message, line by line. Nothing is delivered.',
    'Without --from and --rcpt the sender is that of Return-Path or From, and the recipients those of To, Cc and Bcc.',
    'An ADDR may have ESMTP arguments behind it: --from "<a@example.org> SIZE=100". A TIME is 500ms, 8s or 2m; a number alone means seconds.',
    'With several messages the exit status is the worst: failed, rejected, refused for now, discarded, delivered.',
  ],
  options: [
    {
      name: 'to',
      value: 'ADDRESS',
      multiple: true,
      text: 'Where the milter listens. Several are asked one after the other.',
    },
    { name: 'from', value: 'ADDR', text: 'Envelope sender; <> for none.' },
    { name: 'rcpt', value: 'ADDR', multiple: true, text: 'Envelope recipient. May be given several times.' },
    { name: 'hostname', value: 'NAME', text: 'Name of the SMTP client. Default localhost.' },
    { name: 'address', value: 'IP', text: 'Address of the SMTP client, or a path. Default 127.0.0.1.' },
    { name: 'port', value: 'PORT', text: 'Port of the SMTP client. Default 25000.' },
    { name: 'helo', value: 'NAME', text: 'What the SMTP client calls itself. Default: its name.' },
    {
      name: 'macro',
      value: 'STAGE:NAME=VALUE',
      multiple: true,
      text: 'A macro, like rcpt:{rcpt_mailer}=local. May be given several times.',
    },
    { name: 'like', value: 'SERVER', text: 'Behave like postfix (default) or sendmail where they differ.' },
    { name: 'protocol-version', value: 'N', text: 'Version to offer: 2, 3, 4 or 6 (default).' },
    {
      name: 'timeout',
      value: 'TIME',
      text: 'How long to wait for a connection and for each answer. Default: as the server.',
    },
    { name: 'eob-timeout', value: 'TIME', text: 'How long the end of the message may take altogether.' },
    {
      name: 'limit',
      value: 'TIME',
      text: 'How long a message may take altogether, whatever the milter says meanwhile: Postfix waits for ever for one that says progress again and again. Default 10m, or the longest of the other two.',
    },
    {
      name: 'default-action',
      value: 'WHAT',
      text: 'What becomes of mail where the milter fails: accept, reject, tempfail, shutdown or quarantine. Default: the failure is told.',
    },
    {
      name: 'json',
      text: 'One line of JSON for each message, nothing lost: bytes that are no UTF-8 are lone surrogates.',
    },
    {
      name: 'output',
      short: 'o',
      value: 'FILE',
      text: 'Write the resulting message there, for its owner alone; - is the standard output, alone.',
    },
    { name: 'quiet', short: 'q', text: 'Print nothing but failures.' },
    { name: 'verbose', short: 'v', text: 'Print every step with its answer and its time.' },
    { name: 'repeat', short: 'n', value: 'N', text: 'Send each FILE N times, and print how fast that was.' },
    { name: 'connections', short: 'c', value: 'N', text: 'Send on N connections at once; prints how fast that was.' },
  ],
  positionals: { min: 1, max: Infinity },
  exits: [
    [EXIT.ok, 'delivered, perhaps changed, perhaps on hold'],
    [EXIT.rejected, 'rejected'],
    [EXIT.tempFailed, 'refused for now'],
    [EXIT.discarded, 'discarded: accepted and dropped'],
    [EXIT.data, 'a FILE is no message'],
    [EXIT.noInput, 'a FILE cannot be read'],
    [EXIT.unavailable, 'the milter cannot be reached, closed the connection, or did not answer in time'],
    [EXIT.cannotWrite, 'the resulting message, or the standard output, cannot be written'],
    [EXIT.protocol, 'the milter did not keep to the protocol'],
    [EXIT.interrupted, 'stopped by Ctrl-C before all messages of --repeat and --connections were sent'],
  ],
  examples: [
    ['send mail.eml --to inet:8891@127.0.0.1', 'What the milter makes of a message.'],
    ['send - --to /run/my.sock --from "<>" --rcpt bob@example.com < mail.eml', 'A bounce, for one recipient.'],
    [
      'send mail.eml --to inet:8891 --macro "mailFrom:{auth_authen}=alice" --json',
      'An authenticated sender, for a program to read.',
    ],
    ['send *.eml --to inet:8891 --repeat 1000 --connections 8', 'How fast it is.'],
  ],
  async run(io, values, names) {
    const scene = sceneOf(values);
    const output = values.text('output');
    const repeat = values.whole('repeat', 1, 1_000_000_000);
    const connections = values.whole('connections', 1, 10_000);
    const many = repeat !== undefined || connections !== undefined;
    if (output !== undefined && (many || names.length > 1)) throw usageError('--output takes a single message');
    if (output === '-' && (values.flag('json') || values.flag('verbose'))) {
      throw usageError('--output - has the standard output for itself: neither --json nor --verbose');
    }
    if (output !== undefined && output !== '-') checkApart(io, names[0] as string, output);
    const from = values.text('from');
    const sender = from === undefined ? undefined : party('from', from);
    const recipients = values.list('rcpt').map((text) => party('rcpt', text));
    const mails = (await readMail(io, names)).map((file) => addressed(file, sender, recipients));
    return many
      ? sendMany(io, values, scene, mails, { repeat: repeat ?? 1, connections: connections ?? 1 })
      : sendEach(io, values, scene, mails);
  },
};

function sceneOf(values: Values): Scene {
  const milters = values.list('to');
  if (milters.length === 0)
    throw usageError('--to is missing: where the milter listens, like --to inet:8891@127.0.0.1');
  for (const milter of milters) parseAddress(milter, 'connect');
  const version = values.whole('protocol-version', 2, 6);
  if (version === 5) throw values.bad('protocol-version', 'must be 2, 3, 4 or 6');
  const timeout = values.time('timeout');
  const eobTimeout = values.time('eob-timeout');
  const limit = values.time('limit') ?? Math.max(LIMIT, timeout ?? 0, eobTimeout ?? 0);
  const options: ClientOptions = {
    version,
    like: values.choice('like', ['postfix', 'sendmail']),
    macros: macrosOf(values.list('macro')),
    connectTimeout: timeout,
    commandTimeout: timeout,
    contentTimeout: timeout,
    eobTimeout,
    defaultAction:
      values.choice('default-action', ['accept', 'reject', 'tempfail', 'shutdown', 'quarantine']) ?? 'throw',
  };
  return { milters, options, peer: peerOf(values), limit };
}

function addressed(file: MailFile, sender: Party | undefined, recipients: readonly Party[]): Mail {
  const { headers } = file.message;
  const { address, args } = sender ?? { address: senderIn(headers), args: [] };
  const to = recipients.length > 0 ? recipients.map((each) => each.address) : recipientsIn(headers);
  const toArgs = recipients[0]?.args ?? [];
  if (recipients.some((each) => each.args.join(' ') !== toArgs.join(' '))) {
    throw usageError('--rcpt: all recipients must have the same arguments');
  }
  return { file, mail: { from: address, fromArgs: args, to, toArgs, message: file.bytes } };
}

async function sendEach(io: Io, values: Values, scene: Scene, mails: readonly Mail[]): Promise<number> {
  const player = new Player({ ...scene, options: { ...scene.options, signal: io.signal } });
  const one = async (mail: Mail): Promise<number> => {
    try {
      const played = await player.play(mail.mail);
      await show(io, values, scene, mail, played);
      return VERDICTS[played.result.verdict].exit;
    } catch (error) {
      return failed(io, values, mail.file.name, error);
    }
  };
  try {
    const statuses: number[] = [];
    for (const mail of mails) statuses.push(await one(mail));
    return worst(statuses);
  } finally {
    await player.end();
  }
}

/** The one to end with: a refusal is worse than a message that was dropped, and a failure worse than everything. */
function worst(statuses: readonly number[]): number {
  const order: number[] = [EXIT.ok, EXIT.discarded, EXIT.tempFailed, EXIT.rejected];
  const rank = (status: number): number => (order.includes(status) ? order.indexOf(status) : status);
  return statuses.reduce((a, b) => (rank(b) > rank(a) ? b : a), EXIT.ok);
}

async function show(io: Io, values: Values, scene: Scene, { file, mail }: Mail, played: Played): Promise<void> {
  const { result, steps, ms } = played;
  const output = values.text('output');
  if (output !== undefined && result.verdict === 'accept') await write(io, output, result.message);
  if (output === '-' || values.flag('quiet')) return;
  if (values.flag('json')) {
    const { verdict, stage, reply, hangUp, milter, quarantined, recipients, modifications, envelope } = result;
    const decided = { verdict, stage, reply, hangUp, milter, quarantined, recipients, modifications, envelope };
    const said = steps.map(({ command, ...step }) => ({ ...step, command: withoutBody(command) }));
    const more = { errors: result.errors.map(plainError), message: result.message, ms, steps: said };
    io.stdout.write(jsonLine(plain({ file: file.name, milters: scene.milters, ...decided, ...more })));
    return;
  }
  const chained = scene.milters.length > 1;
  const before = { name: file.name, envelope: { from: mail.from, to: [...mail.to] }, bytes: file.bytes };
  const lines = [
    ...(values.flag('verbose') ? stepLines(steps, chained) : []),
    ...report(before, played, paintFor(io.stdout, io.env), chained),
  ];
  io.stdout.write(`${lines.join('\n')}\n`);
}

/** The message is there as a whole already. */
function withoutBody(command: Played['steps'][number]['command']): object {
  return command.type === 'body' ? { type: 'body', bytes: command.chunk.length } : command;
}

async function write(io: Io, output: string, message: Buffer): Promise<void> {
  if (output === '-') {
    io.stdout.write(message);
    return;
  }
  await writeTo(output, async (stream) => void stream.write(message));
}

/** The other messages are sent all the same. @throws what is no failure of a milter's or the user's */
function failed(io: Io, values: Values, name: string, error: unknown): number {
  const known = asCliError(error);
  if (known === undefined) throw error;
  if (values.flag('json')) io.stdout.write(jsonLine(plain({ file: name, error: plainError(error as Error) })));
  const { red } = paintFor(io.stderr, io.env);
  io.stderr.write(`${red(printable(`milter-stream send: ${name}: ${known.message}`))}\n`);
  return known.exit;
}

async function sendMany(
  io: Io,
  values: Values,
  scene: Scene,
  mails: readonly Mail[],
  { repeat, connections }: { repeat: number; connections: number },
): Promise<number> {
  const total = Math.max(mails.length * repeat, connections);
  const progress = new Progress(io.stderr, total);
  const { signal, over } = interruption(io);
  const result = await load({
    scene: { ...scene, options: { ...scene.options, signal } },
    mails: mails.map(({ mail }) => mail),
    total,
    connections,
    signal,
    progress: (done) => progress.show(done),
  }).finally(() => {
    progress.end();
    over();
  });
  const { failures, interrupted } = result;
  if (values.flag('json')) {
    const told = failures.map(({ error, times }) => ({ times, ...plainError(error) }));
    io.stdout.write(jsonLine({ milters: scene.milters, ...result, failures: told }));
  } else if (!values.flag('quiet')) io.stdout.write(`${loadLines(io, result).join('\n')}\n`);
  const { red } = paintFor(io.stderr, io.env);
  for (const words of loadTroubles(result)) io.stderr.write(`${red(printable(`milter-stream send: ${words}`))}\n`);
  if (interrupted) return EXIT.interrupted;
  const verdicts = Object.keys(result.verdicts) as Array<keyof typeof VERDICTS>;
  return worst([...verdicts.map((verdict) => VERDICTS[verdict].exit), ...failures.map(({ error }) => exitOf(error))]);
}

function loadTroubles({ failures, messages, total, notBegun, interrupted }: LoadResult): string[] {
  const left = `${count(notBegun, 'message')} ${notBegun === 1 ? 'was' : 'were'} not sent: there is no milter to connect to`;
  return [
    ...failures.map(({ error, times }) => `${count(times, 'message')} failed: ${error.message}`),
    ...(interrupted ? [`interrupted, ${messages.toLocaleString('en')} of ${count(total, 'message')} sent`] : []),
    ...(notBegun > 0 && !interrupted ? [left] : []),
  ];
}

function loadLines(
  io: Io,
  { messages, connections, seconds, messagesPerSecond, verdicts, latency }: LoadResult,
): string[] {
  const { bold } = paintFor(io.stdout, io.env);
  const rate =
    messagesPerSecond < 10 ? messagesPerSecond.toFixed(1) : Math.round(messagesPerSecond).toLocaleString('en');
  const said = Object.entries(verdicts).map(
    ([verdict, times]) => `${times.toLocaleString('en')} ${VERDICTS[verdict as keyof typeof VERDICTS].word}`,
  );
  const rows: Array<readonly [string, LatencySummary]> = [
    ['message', latency.message],
    ...Object.entries(latency.stages),
  ];
  return [
    bold(
      `${count(messages, 'message')} on ${count(connections, 'connection')} in ${seconds.toFixed(2)} s: ${rate} messages/s`,
    ),
    `  ${said.join(', ') || 'none came to an end'}`,
    ...latencyLines(rows),
  ];
}
