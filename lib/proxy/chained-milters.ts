/**
 * What a mail server says, told to a chain of milters: which of its calls a command becomes, and what is answered.
 *
 * Headers and body are gathered, up to a limit, and go to the milters at the end of the message, one milter after the
 * other (P137). After a verdict the rest of the message gets that verdict again, and no milter is asked (P66). What
 * comes out of order is handled as the session does it: see the part of that name in lib/session/BEHAVIOUR.md.
 */
import { MilterChain, type ChainedMilter } from '../client/chain.js';
import { smtpReply } from '../client/default-action.js';
import { Message } from '../client/message.js';
import type { ClientMacros, ClientOptions, ClientPeer, MessageResult, StageResult } from '../client/types.js';
import type { Command, NegotiateCommand } from '../codec/commands.js';
import { formatSmtpReply } from '../codec/index.js';
import type { NegotiateReply, Reply } from '../codec/replies.js';
import * as c from '../constants.js';
import { MilterError } from '../errors.js';
import { STAGE_NAMES, STAGES, stageOfLetter, type Stage, type StageCommand } from '../stages.js';
import { spaced } from './agreement.js';
import { failureReply } from './failure.js';

/** How often the mail server hears that a message is being looked at, in ms: Sendmail waits 10 s for each word. */
const PROGRESS = 5_000;

/** What it takes to hold a header, a recipient or a piece of the body, besides its bytes. */
const EACH = 256;

/** Why a message is put on hold that the milters have not seen. */
const UNSEEN = 'The message is too large for the milters';

/** Headers and body are answered by nobody here. */
const GATHERED = c.SMFIP_NR_HDR | c.SMFIP_NR_EOH | c.SMFIP_NR_BODY;
const NO_BITS = Object.values(STAGES).reduce((bits, { no }) => bits | no, 0);
const NR_BITS = Object.values(STAGES).reduce((bits, { nr }) => bits | nr, 0);
/** The pieces that go to the mail server are no larger than what it understands without these. */
const SIZES = c.SMFIP_MDS_256K | c.SMFIP_MDS_1M;

const EMPTY = '<>';

const CONTINUE: Reply = { type: 'continue' };
const LATER: Reply = { type: 'tempFail' };
const GOES_ON: StageResult = { outcome: 'continue', hangUp: false };

interface Verdict {
  readonly reply: Reply;
  /** Go before it at the end of the message. */
  readonly edits: readonly Reply[];
  /** The mail server knows it. */
  readonly said: boolean;
}

/** A command of a message where there is none is refused for now. */
const STRAY: Verdict = { reply: LATER, edits: [], said: true };

/** What has come of a message's envelope, or was made up. */
interface Begun {
  from: boolean;
  to: boolean;
  /** There is a recipient that no milter has refused. */
  taken: boolean;
  /** What the last one that was refused got. */
  refused: Reply;
}

type ContentCommand = Exclude<StageCommand, { type: 'connect' | 'helo' | 'unknown' | 'mailFrom' }>;

/** The mail server. */
export interface MailServer {
  /** It has cut the message short, or says no more at all: that waits behind the command at work. */
  readonly gone: boolean;
  /** Hears that somebody is at work. */
  progress(): void;
  /** Hears why a milter is done without. */
  tell(error: MilterError): void;
}

export interface ChainSettings {
  readonly milters: ReadonlyArray<string | ChainedMilter>;
  readonly options: ClientOptions;
  /** Most bytes of a message that are held. */
  readonly maxMessage: number;
}

export class ChainedMilters {
  readonly #settings: ChainSettings;
  readonly #server: MailServer;
  #chain: MilterChain | undefined;
  #agreed = { actions: 0, protocol: 0 };
  #macros: Partial<Record<Stage, Record<string, string>>> = {};
  #greeted = false;
  /** Another SMTP session begins with the next CONNECT. */
  #renew = false;
  /** Where the message is; `decided` before its end has come, `over` after that. */
  #state: 'none' | 'open' | 'decided' | 'over' = 'none';
  /** What a command of a message gets where no milter is asked. */
  #verdict = STRAY;
  #begun: Begun = notBegun();
  #headers: Array<[string, string]> = [];
  #body: Buffer[] = [];
  #held = 0;
  /** The memory that the last piece of the body came in. */
  #memory: ArrayBufferLike | undefined;
  /** The milters are at work on the message. */
  #playing = false;
  #cutting: Promise<void> | undefined;
  #over = false;
  readonly #told = new WeakSet<MilterError>();

  constructor(settings: ChainSettings, server: MailServer) {
    this.#settings = settings;
    this.#server = server;
  }

  /** Says goodbye to all; resolves when the connections are closed. */
  async quit(): Promise<void> {
    await this.#chain?.quit();
  }

  /** Closes all connections at once. */
  destroy(): void {
    this.#over = true;
    this.#chain?.destroy();
  }

  /** Nobody waits for the message that is at work. */
  cut(): void {
    if (this.#playing) this.#cutting ??= (this.#chain as MilterChain).abort();
  }

  /**
   * @returns what is answered, all of it
   * @throws MilterError ERR_MILTER_SEQUENCE, ERR_MILTER_NEGOTIATION for what the mail server must not say; what a milter
   *   fails with, where there is no default action
   */
  async handle(command: Command): Promise<readonly Reply[]> {
    try {
      return await this.#answer(command).catch((error: unknown) => {
        throw this.#named(error);
      });
    } finally {
      this.#tell();
    }
  }

  #tell(): void {
    const { milters = [], steps = [] } = this.#chain ?? {};
    steps.length = 0; // nobody asks what was said outside of messages
    for (const { failure } of this.#over ? [] : milters) {
      if (failure !== undefined && !this.#told.has(failure)) this.#server.tell(this.#named(failure) as MilterError);
    }
  }

  /** A milter's failure with its name; it is told once. */
  #named(error: unknown): unknown {
    const milter = this.#chain?.milters.find(({ failure }) => failure === error);
    if (milter?.failure === undefined) return error;
    const { code, message, stage, packet } = milter.failure;
    this.#told.add(milter.failure);
    const where = { ...(stage !== undefined && { stage }), ...(packet !== undefined && { packet }) };
    return new MilterError(code, `Milter ${milter.name}: ${message}`, { ...where, cause: error });
  }

  async #answer(command: Command): Promise<readonly Reply[]> {
    const chain = this.#chain;
    switch (command.type) {
      case 'negotiate':
        if (chain !== undefined) throw outOfOrder('negotiate', 'a second offer');
        return [await this.#negotiate(command)];
      case 'macro': {
        const stage = stageOfLetter(command.stage);
        if (stage !== undefined) this.#macros[stage] = Object.fromEntries(command.macros);
        return [];
      }
      case 'quit':
        return [];
      default:
    }
    if (chain === undefined) throw outOfOrder(command.type, 'a command before the negotiation');
    switch (command.type) {
      case 'abort':
        this.#forget('mailFrom');
        await chain.abort();
        return [];
      case 'quitNewConnection':
        this.#renew = true;
        this.#forget('connect');
        return [];
      default: {
        const isAwaited = (this.#agreed.protocol & STAGES[command.type].nr) === 0;
        const replies = await this.#ask(chain, command, isAwaited);
        return isAwaited ? replies : [];
      }
    }
  }

  async #negotiate(offer: NegotiateCommand): Promise<NegotiateReply> {
    const { version, actions, protocol: offered } = offer;
    if (version < c.SMFI_VERSION_MIN)
      throw new MilterError('ERR_MILTER_NEGOTIATION', `The mail server offers version ${version}`);
    const { milters, options } = this.#settings;
    const known = version >= 6 ? 6 : version === 5 ? 4 : version;
    const terms = { version: known, actions, protocol: offered & ~SIZES, ownMacros: false };
    const chain = (this.#chain = new MilterChain(milters, { ...options, ...terms }));
    await chain.open();
    const agreed = chain.milters.flatMap((milter) => milter.agreed ?? []);
    const any = (of: (reply: NegotiateReply) => number): number => agreed.reduce((bits, reply) => bits | of(reply), 0);
    const all = (of: (reply: NegotiateReply) => number): number =>
      agreed.length === 0 ? 0 : agreed.reduce((bits, reply) => bits & of(reply), ~0);
    const protocol =
      (all((reply) => reply.protocol) & (NO_BITS | NR_BITS | c.SMFIP_HDR_LEADSPC)) |
      (any((reply) => reply.protocol) & c.SMFIP_RCPT_REJ) |
      GATHERED;
    this.#agreed = { actions: any((reply) => reply.actions) & actions, protocol: protocol & offered };
    const macros = version >= 6 && (actions & c.SMFIF_SETSYMLIST) !== 0 ? listsOf(agreed) : [];
    const spoken = Math.min(c.SMFI_VERSION, version);
    return { type: 'negotiate', version: spoken, ...this.#agreed, ...(macros.length > 0 && { macros }) };
  }

  async #ask(chain: MilterChain, command: StageCommand, isAwaited: boolean): Promise<readonly Reply[]> {
    switch (command.type) {
      case 'connect': {
        if (this.#greeted && !this.#renew) throw outOfOrder('connect', 'the SMTP session has begun');
        const { hostname, family, port, address } = command;
        this.#forget('helo');
        return [replyTo(await this.#meet(chain, { hostname, family: family as 'U', port, address }))];
      }
      case 'helo':
        await this.#greet(chain);
        this.#forget('mailFrom');
        return [replyTo(await chain.helo(command.name, this.#extras))];
      case 'unknown': {
        await this.#greet(chain);
        const reply = replyTo(await chain.unknown(command.line, this.#extras));
        return [reply.type === 'accept' ? CONTINUE : reply]; // Postfix would take it for the message
      }
      case 'mailFrom': {
        await this.#greet(chain);
        this.#forget('rcpt');
        this.#state = 'open';
        this.#begun.from = true;
        const result = await chain.mailFrom(command.address, command.args, this.#extras);
        return [this.#noted('mailFrom', result, isAwaited)];
      }
      default:
        return this.#content(chain, command, isAwaited);
    }
  }

  async #content(chain: MilterChain, command: ContentCommand, isAwaited: boolean): Promise<readonly Reply[]> {
    this.#arrive();
    if (command.type === 'eob' && (this.#state === 'none' || this.#state === 'over'))
      throw outOfOrder('eob', 'no message to end');
    if (this.#state === 'open' && !this.#hold(command)) await this.#tooLarge(chain);
    if (this.#state !== 'open') return this.#again(command.type, isAwaited);
    await this.#begin(chain);
    switch (command.type) {
      case 'rcpt':
        return [this.#noted('rcpt', await this.#rcpt(chain, command.address, command.args), isAwaited)];
      case 'data':
        return [this.#noted('data', await chain.data(this.#extras), isAwaited)];
      case 'header': {
        const lead = (this.#agreed.protocol & c.SMFIP_HDR_LEADSPC) === 0 ? ' ' : '';
        this.#headers.push([command.name, `${lead}${command.value}`]);
        break;
      }
      case 'body':
        this.#body.push(command.chunk);
        break;
      case 'eob':
        if (command.chunk !== undefined) this.#body.push(command.chunk);
        return this.#eob(chain);
      default:
    }
    return [CONTINUE];
  }

  /** @returns whether there is room for it */
  #hold(command: ContentCommand): boolean {
    this.#held += EACH;
    if (!('chunk' in command)) this.#held += (command.raw as Buffer).length;
    else if (command.chunk !== undefined && command.chunk.buffer !== this.#memory) {
      this.#memory = command.chunk.buffer; // all of it is held on to by a piece of it
      this.#held += this.#memory.byteLength;
    }
    return this.#held <= this.#settings.maxMessage;
  }

  /** A message begins with the first that comes of it, where MAIL does not come. */
  #arrive(): void {
    const isPast = this.#state === 'decided' ? this.#verdict.said : this.#state !== 'open';
    if ((this.#agreed.protocol & c.SMFIP_NOMAIL) !== 0 && isPast) {
      this.#drop();
      this.#state = 'open';
    }
  }

  /** What is missing of the beginning: nobody wants to hear of it, or the mail server has left it out. */
  async #begin(chain: MilterChain): Promise<void> {
    await this.#greet(chain);
    if (this.#begun.from) return;
    this.#begun.from = true;
    await chain.mailFrom(EMPTY, [], this.#extras);
  }

  async #rcpt(chain: MilterChain, address: string, args: readonly string[]): Promise<StageResult> {
    const macros = this.#macros.rcpt ?? {};
    if (macros['{rcpt_mailer}'] !== 'error') return this.#recipient(chain, address, args);
    const reply = { enhanced: macros['{rcpt_host}'] ?? '', lines: [macros['{rcpt_addr}'] ?? ''] };
    this.#begun.to = true;
    await chain.refusedRcpt(address, reply);
    return GOES_ON;
  }

  async #recipient(chain: MilterChain, address: string, args: readonly string[] = []): Promise<StageResult> {
    const result = await chain.rcpt(address, args, this.#extras);
    this.#begun.to = true;
    if (!isRefusal(result)) this.#begun.taken = true;
    else this.#begun.refused = replyTo(result);
    return result;
  }

  async #eob(chain: MilterChain): Promise<readonly Reply[]> {
    if (!this.#begun.to) await this.#recipient(chain, EMPTY);
    const { taken, refused } = this.#begun;
    if (!taken || this.#server.gone) {
      await chain.abort();
      return this.#ended([taken ? LATER : refused]);
    }
    const alive = setInterval(() => this.#server.progress(), PROGRESS);
    try {
      return this.#ended(await this.#play(chain));
    } finally {
      this.#playing = false;
      clearInterval(alive);
      await this.#cutting;
      this.#cutting = undefined;
    }
  }

  async #play(chain: MilterChain): Promise<readonly Reply[]> {
    const playing = chain.message(this.#message(), this.#extras);
    this.#playing = true;
    try {
      const result = await playing;
      return [...this.#editsOf(result), replyTo({ ...result, outcome: result.verdict })];
    } catch (error) {
      if (this.#cutting === undefined || (error as MilterError).code !== 'ERR_MILTER_ABORTED') throw error;
      return [LATER];
    }
  }

  /** What has been gathered; it is not held here any more. */
  #message(): Message {
    const [headers, body] = [this.#headers, this.#body];
    this.#headers = [];
    this.#body = [];
    return Message.of(headers, body);
  }

  /** More than can be held: the milters are done without, as if one had failed. */
  async #tooLarge(chain: MilterChain): Promise<void> {
    const { options, maxMessage } = this.#settings;
    const { defaultAction: action = 'tempfail' } = options;
    const what = `The message is larger than maxMessage, ${maxMessage} bytes, and the milters do not get it`;
    const error = new MilterError('ERR_MILTER_MESSAGE_TOO_LARGE', what);
    await chain.abort();
    if (action === 'throw') throw error;
    this.#server.tell(error);
    if (action !== 'quarantine') this.#decide(failureReply(action, 'eob', false), false);
    else this.#decide({ type: 'accept' }, false, [{ type: 'quarantine', reason: UNSEEN }]);
  }

  /** Of all the bodies that replace one another the last one counts. */
  #editsOf({ changes, quarantined }: MessageResult): Reply[] {
    const lastBody = changes.findLast(({ modifications }) => modifications.some(({ type }) => type === 'replBody'));
    const mtaLead = (this.#agreed.protocol & c.SMFIP_HDR_LEADSPC) === 0 ? 0 : 1;
    const edits = changes.flatMap((change): Reply[] => {
      const more = mtaLead - (change.leadingSpace ? 1 : 0);
      return change.modifications.flatMap((edit): Reply[] => {
        if (edit.type === 'replBody') return change === lastBody ? [edit] : [];
        return 'value' in edit && edit.value !== '' ? [{ ...edit, value: spaced(edit.value, more) }] : [edit];
      });
    });
    const held = quarantined !== undefined && !edits.some(({ type }) => type === 'quarantine');
    return held ? [...edits, { type: 'quarantine', reason: quarantined }] : edits;
  }

  /** A verdict on the message stands until it is over; one on a recipient alone does not. */
  #noted(stage: Stage, result: StageResult, isAwaited: boolean): Reply {
    const reply = replyTo(result);
    if (result.outcome !== 'continue' && (stage !== 'rcpt' || !isRefusal(result))) this.#decide(reply, isAwaited);
    return reply;
  }

  #decide(reply: Reply, said: boolean, edits: readonly Reply[] = []): void {
    this.#forget('mailFrom');
    this.#state = 'decided';
    this.#verdict = { reply: said ? plainly(reply) : reply, edits, said };
  }

  /** What is said where no milter is asked: the verdict; words that come with it once. */
  #again(stage: Stage, isAwaited: boolean): readonly Reply[] {
    const { reply, edits } = this.#verdict;
    if (stage === 'eob') return this.#ended([...edits, reply]);
    if (edits.length > 0) return [CONTINUE];
    if (isAwaited) this.#verdict = { reply: plainly(reply), edits, said: true };
    return [reply];
  }

  #ended(replies: readonly Reply[]): readonly Reply[] {
    this.#decide(replies.at(-1) as Reply, true);
    this.#state = 'over';
    return replies;
  }

  async #greet(chain: MilterChain): Promise<void> {
    if (!this.#greeted || this.#renew) await this.#meet(chain, { family: 'U', address: '' });
  }

  /** Another SMTP client. */
  #meet(chain: MilterChain, peer: ClientPeer): Promise<StageResult> {
    const renew = this.#renew;
    this.#greeted = true;
    this.#renew = false;
    const all = { ...peer, helo: false } as const;
    return renew ? chain.nextSession(all, this.#extras) : chain.connect(all, this.#extras);
  }

  get #extras(): { macros: ClientMacros } {
    return { macros: this.#macros };
  }

  /** A message is over, or was never finished. @param stage from which on macros are not valid any more */
  #forget(stage: Stage): void {
    this.#drop();
    this.#state = 'none';
    this.#verdict = STRAY;
    for (const each of STAGE_NAMES.slice(STAGE_NAMES.indexOf(stage))) delete this.#macros[each];
  }

  #drop(): void {
    this.#begun = notBegun();
    this.#headers = [];
    this.#body = [];
    this.#held = 0;
    this.#memory = undefined;
  }
}

function notBegun(): Begun {
  return { from: false, to: false, taken: false, refused: LATER };
}

function outOfOrder(packet: string, what: string): MilterError {
  return new MilterError('ERR_MILTER_SEQUENCE', `The mail server sent ${packet} out of order: ${what}`, { packet });
}

function isRefusal({ outcome }: StageResult): boolean {
  return outcome === 'reject' || outcome === 'tempFail';
}

function replyTo(result: StageResult | (MessageResult & { outcome: MessageResult['verdict'] })): Reply {
  const { outcome, hangUp } = result;
  const reply = hangUp ? smtpReply(result) : result.reply;
  if (reply === undefined || outcome === 'continue' || outcome === 'accept') return { type: outcome };
  return { type: 'replyCode', text: formatSmtpReply(reply.code, reply.enhanced, reply.lines) };
}

/** Without words. */
function plainly(reply: Reply): Reply {
  if (reply.type !== 'replyCode') return reply;
  return { type: reply.text.startsWith('5') ? 'reject' : 'tempFail' };
}

/** What each asks for, together; a stage that nobody names keeps the mail server's defaults. */
function listsOf(agreed: readonly NegotiateReply[]): NonNullable<NegotiateReply['macros']> {
  const lists = new Map<number, Set<string>>();
  for (const { stage, names } of agreed.flatMap(({ macros = [] }) => macros)) {
    const list = lists.get(stage) ?? new Set<string>();
    for (const name of names.split(/[ ,]+/).filter(Boolean)) list.add(name);
    lists.set(stage, list);
  }
  return [...lists].toSorted((a, b) => a[0] - b[0]).map(([stage, names]) => ({ stage, names: [...names].join(' ') }));
}
