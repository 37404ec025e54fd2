/**
 * The content of a message past the milters: milter by milter the whole of headers, body and end, each seeing what the one
 * before has left (milter_message() in Postfix, milter_data() in Sendmail).
 */
import { STAGE_NAMES, type StageCommand } from '../stages.js';
import { Body } from './body.js';
import type { Answer } from './exchange.js';
import type { Filter } from './filter.js';
import type { Message } from './message.js';
import { endedBody, MODELS, wear, type Model } from './models.js';
import { applyModifications } from './modify.js';
import type { CheckedClientOptions } from './options.js';
import type { Decision, Transaction } from './transaction.js';
import { ENDS, type MessageResult } from './types.js';

/** The mail server that is played. */
export interface Server {
  readonly model: Model;
  readonly ownHeaders: string | Uint8Array;
  /** It sends macros that nobody has given it. */
  readonly ownMacros: boolean;
  readonly signal: AbortSignal | undefined;
}

export function serverOf({ like, ownHeaders, ownMacros, signal }: CheckedClientOptions): Server {
  return { model: MODELS[like], ownHeaders, ownMacros, signal };
}

/** @throws what the message's stream fails with; MilterError where a milter fails without a default action */
export async function playContent(
  transaction: Transaction,
  filters: readonly Filter[],
  original: Message,
  { model, ownHeaders }: Pick<Server, 'model' | 'ownHeaders'>,
): Promise<MessageResult> {
  const message = original.copy();
  wear(message, model, ownHeaders);
  const envelope = { from: transaction.envelope.from, to: [...transaction.envelope.to] };
  let last: Decision | undefined;
  for (const filter of filters) {
    const decision = await show(transaction, filter, message);
    const { answer, stage } = decision;
    if (answer.error !== undefined) transaction.fault(answer.error);
    if (ENDS.has(answer.outcome)) {
      Object.assign(transaction.envelope, envelope);
      return transaction.result({ ...decision, milter: filter.name }, original);
    }
    const how = { leadingSpace: filter.leadingSpace, model };
    const reason = applyModifications(message, transaction.envelope, answer.modifications, how);
    transaction.quarantined = answer.held ?? reason ?? transaction.quarantined;
    transaction.modifications.push(...answer.modifications);
    const { name: milter, leadingSpace } = filter;
    if (answer.modifications.length > 0)
      transaction.changes.push({ milter, leadingSpace, modifications: answer.modifications });
    if (last === undefined || STAGE_NAMES.indexOf(stage) > STAGE_NAMES.indexOf(last.stage)) last = decision;
  }
  await message.body.whole();
  if (message.body !== original.body) message.body = Body.of(...endedBody(message.body.pieces));
  return transaction.result(last as Decision, message); // there is one milter at least
}

/** Shows the message to one milter, up to the answer that decides; one that has no more to say is shown nothing. */
async function show({ macros, steps }: Transaction, filter: Filter, message: Message): Promise<Decision> {
  const before = filter.standing ?? filter.finished;
  if (before !== undefined) return before;
  const ask = (command: StageCommand): Promise<Answer> => filter.ask(command, macros, steps);
  const told = (command: StageCommand, answer: Answer): Decision => ({ stage: command.type, answer });
  if (filter.hears('header')) {
    const { leadingSpace } = filter;
    for (const { name, value, hidden } of message.headers) {
      if (hidden === true) continue;
      const command = { type: 'header', name, value: leadingSpace ? value : value.replace(/^ /, '') } as const;
      const answer = await ask(command);
      if (answer.outcome !== 'continue' || filter.done) return told(command, answer);
    }
  }
  const eoh = await ask({ type: 'eoh' });
  if (eoh.outcome !== 'continue' || filter.done) return told({ type: 'eoh' }, eoh);
  if (filter.hears('body')) {
    for await (const chunk of message.body.chunks(filter.chunkSize)) {
      const command = { type: 'body', chunk } as const;
      const answer = await ask(command);
      if (answer.outcome === 'skip') break;
      if (answer.outcome !== 'continue' || filter.done) return told(command, answer);
    }
  }
  return { stage: 'eob', answer: await ask({ type: 'eob' }) };
}
