/** What a message came to: the commands of the capture, and the edits of either answer. */
import { applyModifications, isModification, type Modification } from '../client/modify.js';
import { makeHeader, Message } from '../client/message.js';
import { endedBody, MODELS, wear, type MailServerName } from '../client/models.js';
import { Body } from '../client/body.js';
import { decisionAt, type Decision } from '../capture/decision.js';
import type { MacroCommand } from '../codec/commands.js';
import type { Reply } from '../codec/replies.js';
import { parseSmtpReply } from '../codec/smtp-reply.js';
import { isStage, STAGES } from '../stages.js';
import type { Leniency } from './compare.js';
import type { MessageOutcome, ReplayedMessage, ReplayStep } from './types.js';

/** Whether header values have all that follows the colon (SMFIP_HDR_LEADSPC). */
export interface Spaces {
  readonly was: boolean;
  readonly now: boolean;
}

type Which = 'was' | 'now';

/** The steps of one message. */
export interface Passage {
  readonly steps: ReplayStep[];
  queueId?: string;
}

/** Finds the messages in what a mail server says. */
export class Passages {
  readonly all: Passage[] = [];
  #open: Passage | undefined;
  #queueId: string | undefined;

  macros({ macros }: MacroCommand): void {
    const [, id] = macros.find(([name]) => name === 'i' || name === '{i}') ?? [];
    if (id === undefined) return;
    this.#queueId = id;
    if (this.#open !== undefined) this.#open.queueId = id;
  }

  step(step: ReplayStep): void {
    const { stage } = step;
    const rank = isStage(stage) ? STAGES[stage].rank : 0;
    if (rank === 0 && stage !== 'unknown') this.#over();
    if (rank === 0) return;
    if (stage === 'mailFrom') this.#open = undefined;
    if (this.#open === undefined) {
      this.#open = { steps: [], ...(this.#queueId !== undefined && { queueId: this.#queueId }) };
      this.all.push(this.#open);
    }
    this.#open.steps.push(step);
    if (stage === 'eob') this.#over();
  }

  #over(): void {
    this.#open = undefined;
    this.#queueId = undefined;
  }
}

export function replayedMessage(
  { steps, queueId }: Passage,
  spaces: Spaces,
  like: MailServerName,
  leniency: Leniency,
): ReplayedMessage {
  const [was, now] = [outcome(steps, 'was', spaces, like), outcome(steps, 'now', spaces, like)];
  // Where a capture does not have the answer, there is nothing to compare with.
  const differences = was.verdict === 'none' ? [] : between(was, now, leniency);
  const told = ({ message, ...rest }: Result): MessageOutcome => ({ ...rest, message: message.toBuffer() });
  return { ...(queueId !== undefined && { queueId }), was: told(was), now: told(now), differences };
}

/** A message that has not been put together yet. */
type Result = Omit<MessageOutcome, 'message'> & { readonly message: Message };

function between(was: Result, now: Result, { headers }: Leniency): string[] {
  const text = ({ from, to }: MessageOutcome['envelope']): string => [from, ...to].join('\0');
  const apart: Array<readonly [string, boolean]> = [
    ['verdict', was.verdict !== now.verdict],
    ['reply', was.reply !== now.reply],
    ['quarantine', was.quarantined !== now.quarantined],
    ['envelope', text(was.envelope) !== text(now.envelope)],
    ['message', !without(was.message, headers).equals(without(now.message, headers))],
  ];
  return apart.filter(([, differs]) => differs).map(([name]) => name);
}

/** The bytes of a message, some headers without their values. */
function without(message: Message, names: ReadonlySet<string>): Buffer {
  const plain = message.copy();
  plain.headers = message.headers.map((header) =>
    names.has(header.name.toLowerCase()) && header.bytes.length > 0 ? makeHeader(header.name, '') : header,
  );
  return plain.toBuffer();
}

function outcome(steps: readonly ReplayStep[], which: Which, spaces: Spaces, like: MailServerName): Result {
  const model = MODELS[like];
  const { message, from, to } = original(steps, spaces.was);
  const decided = ({ stage, ...said }: ReplayStep): Decision | undefined => decisionAt(stage, said[which].at(-1));
  const taken = to.filter(({ step }) => decided(step)?.of !== 'recipient');
  const envelope = { from, to: taken.map(({ address }) => address) };
  const before = { envelope: { from, to: to.map(({ address }) => address) }, message };
  const answers = steps.find(({ stage }) => stage === 'eob')?.[which] ?? [];
  const last = steps.find((step) => decided(step)?.of === 'message');
  if (last === undefined) return { verdict: 'none', ...before };
  const reply = last[which].at(-1);
  const { verdict } = decided(last) as Decision;
  const where = { verdict, stage: last.stage };
  if (verdict !== 'accept')
    return { ...where, ...before, ...(reply?.type === 'replyCode' && { reply: replyWords(reply.text) }) };
  wear(message, model, '');
  const body = message.body;
  const edits = answers.filter((each): each is Modification => isModification(each as Reply));
  const leadingSpace = spaces[which];
  const quarantined = applyModifications(message, envelope, edits, { leadingSpace, model });
  if (message.body !== body) message.body = Body.of(...endedBody(message.body.pieces));
  return { ...where, ...(quarantined !== undefined && { quarantined }), envelope, message };
}

/** A recipient, and what was said to it. */
interface Told {
  readonly address: string;
  readonly step: ReplayStep;
}

/** The message as the mail server has told it. */
function original(
  steps: readonly ReplayStep[],
  leadingSpace: boolean,
): { readonly message: Message; readonly from: string; readonly to: readonly Told[] } {
  const headers: Array<[string, string]> = [];
  const body: Buffer[] = [];
  const to: Told[] = [];
  let from = '';
  for (const step of steps) {
    const { command } = step;
    if (command.type === 'mailFrom') from = command.address;
    else if (command.type === 'rcpt') to.push({ address: command.address, step });
    else if (command.type === 'header') headers.push([command.name, (leadingSpace ? '' : ' ') + command.value]);
    else if ((command.type === 'body' || command.type === 'eob') && command.chunk !== undefined)
      body.push(command.chunk);
  }
  return { message: Message.of(headers, body), from, to };
}

/** An SMTP reply as a client would see it. */
export function replyWords(text: string): string {
  try {
    const { code, enhanced, lines } = parseSmtpReply(text);
    return [code, enhanced, lines.join(' / ')].filter((part) => part !== '').join(' ');
  } catch {
    return text; // it is none, and shown as it is
  }
}
