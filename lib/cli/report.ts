/** What became of a message, for people. */
import type { Envelope, MessageResult, Step } from '../client/index.js';
import type { SmtpReply } from '../codec/smtp-reply.js';
import { toText } from '../codec/text.js';
import { diffLines, type Edit } from './diff.js';
import { EXIT } from './exit.js';
import type { Played } from './player.js';
import { count, milliseconds, printable, type Paint } from './terminal.js';

export type Verdict = MessageResult['verdict'];

/** What each verdict is called, and its exit status. */
export const VERDICTS: Readonly<Record<Verdict, { readonly word: string; readonly exit: number }>> = {
  accept: { word: 'delivered', exit: EXIT.ok },
  reject: { word: 'rejected', exit: EXIT.rejected },
  tempFail: { word: 'refused for now', exit: EXIT.tempFailed },
  discard: { word: 'discarded', exit: EXIT.discarded },
};

const OUTCOMES = {
  continue: 'accepted',
  accept: 'accepted',
  reject: 'rejected',
  tempFail: 'refused for now',
  discard: 'discarded',
};

/** The message before, as it was given to the milters. */
export interface Before {
  readonly name: string;
  readonly envelope: Envelope;
  readonly bytes: Buffer;
}

/** @param chained several milters: it matters which one it was */
export function report(before: Before, { result, ms }: Played, paint: Paint, chained: boolean): string[] {
  const { verdict, stage, reply, milter, quarantined, recipients, errors } = result;
  const { word } = VERDICTS[verdict];
  const mark = verdict === 'accept' ? paint.green : paint.red;
  const by = chained && milter !== undefined ? ` by ${printable(milter)}` : '';
  return [
    `${printable(before.name)}: ${paint.bold(mark(word.toUpperCase()))} at ${stage}${by}, ${milliseconds(ms)}`,
    ...(reply === undefined ? [] : [`  ${words(reply)}`]),
    ...errors.map((error) => paint.yellow(`  default action, because: ${printable(error.message)}`)),
    ...(quarantined === undefined ? [] : [paint.yellow(`  on hold (quarantine): ${printable(quarantined)}`)]),
    ...recipients.map(({ address, outcome, reply: own }) => {
      const good = outcome === 'continue' || outcome === 'accept';
      const what = `${OUTCOMES[outcome]}${own === undefined ? '' : `, ${words(own)}`}`;
      return `  ${printable(address)}: ${good ? paint.green(what) : paint.red(what)}`;
    }),
    ...(verdict === 'accept' ? changes(before, result, paint) : []),
  ];
}

function words({ code, enhanced, lines }: SmtpReply): string {
  return printable([code, enhanced, lines.join(' / ')].filter((part) => part !== '').join(' '));
}

/** What has become different, line by line. */
export function changes(
  before: Pick<Before, 'envelope' | 'bytes'>,
  { envelope, message }: Pick<MessageResult, 'envelope' | 'message'>,
  paint: Paint,
): string[] {
  const after = { envelope: envelopeLines(envelope), ...split(message) };
  const was = { envelope: envelopeLines(before.envelope), ...split(before.bytes) };
  const same = before.bytes.equals(message);
  return [
    ...(was.envelope.join('\n') === after.envelope.join('\n')
      ? []
      : ['  envelope:', ...shown(diffLines(was.envelope, after.envelope), paint)]),
    ...(same
      ? ['  the message is unchanged']
      : ['  message:', ...shown(diffLines(was.header, after.header), paint), ...body(was.body, after.body, paint)]),
  ];
}

function envelopeLines({ from, to }: Envelope): string[] {
  return [`from ${from}`, ...to.map((address) => `to ${address}`)];
}

/** The lines of the header, without the empty one behind it, and the body. */
function split(message: Buffer): { header: string[]; body: Buffer } {
  const end = /(?:^|\n)\r?\n/.exec(message.toString('latin1'));
  const at = end === null ? message.length : end.index + end[0].length;
  const header = linesOf(message.subarray(0, at)).filter((line) => line.trim() !== '');
  return { header, body: message.subarray(at) };
}

/** Larger bodies are not compared: nobody would read it. */
const MOST_BYTES = 4_194_304;

function body(before: Buffer, after: Buffer, paint: Paint): string[] {
  if (before.equals(after)) return [paint.dim(`  … the body is unchanged, ${count(after.length, 'byte')}`)];
  if (Math.max(before.length, after.length) > MOST_BYTES) {
    return [
      paint.red(`- a body of ${count(before.length, 'byte')}`),
      paint.green(`+ a body of ${count(after.length, 'byte')}`),
    ];
  }
  return shown(diffLines(linesOf(before), linesOf(after)), paint);
}

/** Without their line ends, of which CRLF is the usual one; another is written out. */
function linesOf(bytes: Buffer): string[] {
  const lines = toText(bytes).split('\n');
  const last = lines.pop() as string;
  return [
    ...lines.map((line) => (line.endsWith('\r') ? line.slice(0, -1) : `${line}\n`)),
    ...(last === '' ? [] : [last]),
  ];
}

/** How many lines that stayed are shown around those that changed, and how many that changed in a row. */
const CONTEXT = 3;
const MOST_IN_A_ROW = 60;

const LONGEST = 500;

/** Long runs are folded. */
function shown(edits: readonly Edit[], paint: Paint): string[] {
  return runsOf(edits).flatMap((run) => folded(run).map((line) => PAINTS[run.mark](paint)(`${run.mark} ${line}`)));
}

const PAINTS: Readonly<Record<Edit['mark'], (paint: Paint) => (line: string) => string>> = {
  ' ': ({ dim }) => dim,
  '-': ({ red }) => red,
  '+': ({ green }) => green,
};

function folded({ mark, lines, first, last }: Run): string[] {
  const head = mark === ' ' ? (first ? 0 : CONTEXT) : MOST_IN_A_ROW;
  const tail = mark === ' ' && !last ? CONTEXT : 0;
  const left = lines.length - head - tail;
  const short = lines.map((line) => cut(printable(line)));
  if (left <= 1) return short;
  return short.slice(0, head).concat(`… ${left.toLocaleString('en')} ${WHAT[mark]}`, short.slice(lines.length - tail));
}

/** There are several of them. */
const WHAT = { ' ': 'unchanged lines', '-': 'more lines that are gone', '+': 'more new lines' };

/** What is too long for a line. */
export function cut(text: string): string {
  return text.length <= LONGEST ? text : `${text.slice(0, LONGEST)}… (${count(text.length, 'character')})`;
}

interface Run {
  readonly mark: Edit['mark'];
  readonly lines: string[];
  readonly first: boolean;
  last: boolean;
}

function runsOf(edits: readonly Edit[]): Run[] {
  const runs: Run[] = [];
  for (const { mark, line } of edits) {
    const run = runs.at(-1);
    if (run?.mark === mark) run.lines.push(line);
    else runs.push({ mark, lines: [line], first: run === undefined, last: false });
  }
  const last = runs.at(-1);
  if (last !== undefined) last.last = true;
  return runs;
}

/** Every step with its time. */
export function stepLines(steps: readonly Step[], chained: boolean): string[] {
  return steps.map(({ stage, milter, command, reply, ms }) => {
    const who = chained ? `${printable(milter)} ` : '';
    const what = printable(detail(command));
    const answer = reply === undefined ? 'not answered' : reply.type;
    return `  ${who}${stage.padEnd(9)}${answer.padEnd(13)}${milliseconds(ms).padStart(10)}  ${cut(what)}`.trimEnd();
  });
}

/** What a command is about, in short. */
function detail(command: Step['command']): string {
  switch (command.type) {
    case 'connect':
      return `${command.hostname} [${command.address}]`;
    case 'helo':
      return command.name;
    case 'mailFrom':
    case 'rcpt':
      return [command.address, ...command.args].join(' ');
    case 'header':
      return `${command.name}:${command.value}`;
    case 'body':
      return count(command.chunk.length, 'byte');
    default:
      return '';
  }
}
