/** What a replay has shown, for people. */
import type { OddPacket } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';
import type { MessageOutcome, ReplayedMessage, ReplayedSession, ReplayStep } from '../replay/index.js';
import { changes, cut } from './report.js';
import { count, milliseconds, printable, type Paint } from './terminal.js';
import { detailsOf } from './words.js';

/** Something was said to the milter, or should have been. */
export function isPlayed({ steps, error }: ReplayedSession): boolean {
  return error !== undefined || steps.some(({ skipped }) => skipped === undefined);
}

export function replayReport(replayed: ReplayedSession, paint: Paint, verbose: boolean): string[] {
  const { session, steps, messages, notes, differences, error, ms } = replayed;
  const same = isPlayed(replayed) ? paint.green('the same') : paint.yellow('nothing was played');
  const what = differences === 0 ? same : paint.red(count(differences, 'difference'));
  return [
    `session ${printable(session)}: ${paint.bold(what)}, ${count(messages.length, 'message')}, ${milliseconds(ms)}`,
    ...notes.map((note) => paint.yellow(`  ${cut(printable(note))}`)),
    ...steps.filter(({ differs }) => verbose || differs).flatMap((step) => stepLines(step, paint)),
    ...messages.flatMap((message) => messageLines(message, paint)),
    ...(error === undefined ? [] : [paint.red(`  ${printable(error.message)}`)]),
  ];
}

function stepLines({ number, stage, command, was, now, skipped, differs, ms }: ReplayStep, paint: Paint): string[] {
  const time = ms === undefined ? '' : paint.dim(` (${milliseconds(ms)})`);
  const head = `  ${number} ${paint.bold(stage)} ${cut(printable(detailsOf(command)))}`.trimEnd();
  const not = skipped === undefined ? '' : paint.yellow(` not sent: ${printable(skipped)}`);
  const shown = (replies: ReadonlyArray<Reply | OddPacket>): string =>
    replies.map((reply) => cut(printable(`${reply.type} ${detailsOf(reply)}`.trimEnd()))).join('; ') || 'no answer';
  if (!differs) return [`${head}${time}${not}`, ...(now.length === 0 ? [] : [paint.dim(`    ${shown(now)}`)])];
  return [`${head}${time}${not}`, paint.red(`    - ${shown(was)}`), paint.green(`    + ${shown(now)}`)];
}

function messageLines({ queueId, was, now, differences }: ReplayedMessage, paint: Paint): string[] {
  if (differences.length === 0) return [];
  const name = queueId === undefined ? 'a message' : `message ${printable(queueId)}`;
  const decided = was.verdict === now.verdict && was.reply === now.reply && was.quarantined === now.quarantined;
  return [
    `  ${name} of ${printable(was.envelope.from) || 'an unknown sender'}: ${paint.red(differences.join(', '))}`,
    ...(decided ? [] : [paint.red(`    - ${outcome(was)}`), paint.green(`    + ${outcome(now)}`)]),
    ...(now.verdict === 'accept' && was.verdict === 'accept'
      ? changes({ envelope: was.envelope, bytes: was.message }, now, paint)
      : []),
  ];
}

function outcome({ verdict, stage, reply, quarantined }: MessageOutcome): string {
  const words = [
    verdict === 'none' ? 'no verdict' : `${verdict} at ${stage}`,
    ...(reply === undefined ? [] : [reply]),
    ...(quarantined === undefined ? [] : [`on hold: ${quarantined}`]),
  ];
  return cut(printable(words.join(', ')));
}
