/**
 * Several milters as one: a stream that a mail server, or a proxy, can talk to as to a milter. Behind it is the client's
 * chain, so the order, the defaults and what each milter sees of the one before are those of MilterChain.
 *
 * The mail server is told what all of them want together (P40): a command is kept away only if nobody wants it, answers
 * are left out only if nobody gives any. Headers and body are gathered, and go to the milters at the end of the message,
 * one milter after the other (P137); meanwhile the mail server hears of progress.
 */
import { Duplex } from 'node:stream';
import { MilterChain, type ChainedMilter } from '../client/chain.js';
import { smtpReply } from '../client/default-action.js';
import { Message } from '../client/message.js';
import type { ClientMacros, ClientOptions, MessageResult, StageResult } from '../client/types.js';
import { commandParser, encodeReply, formatSmtpReply } from '../codec/index.js';
import type { Command, NegotiateCommand } from '../codec/commands.js';
import type { NegotiateReply, Reply } from '../codec/replies.js';
import * as c from '../constants.js';
import { MilterError } from '../errors.js';
import { STAGE_NAMES, STAGES, stageOfLetter, type Stage } from '../stages.js';
import { spaced } from './agreement.js';

/** How often the mail server hears that a message is being looked at, in ms: Sendmail waits 10 s for each word. */
const PROGRESS = 5_000;

/** Headers and body are answered by nobody here. */
const GATHERED = c.SMFIP_NR_HDR | c.SMFIP_NR_EOH | c.SMFIP_NR_BODY;
const NO_BITS = Object.values(STAGES).reduce((bits, { no }) => bits | no, 0);
const NR_BITS = Object.values(STAGES).reduce((bits, { nr }) => bits | nr, 0);

const EMPTY = '<>';

/**
 * @param options of the chain; what the mail server offers is offered to the milters
 * @throws MilterError ERR_MILTER_ADDRESS, ERR_MILTER_OPTION
 */
export function chainMilter(milters: ReadonlyArray<string | ChainedMilter>, options: ClientOptions = {}): Duplex {
  const make = (offer: NegotiateCommand): MilterChain => {
    const { version, actions, protocol } = offer;
    const known = version >= 6 ? 6 : version === 5 ? 4 : version;
    return new MilterChain(milters, { ...options, version: known, actions, protocol, ownMacros: false });
  };
  const milter = new ChainedMilters(make);
  const parser = commandParser();
  const commands: Command[] = [];
  const sink = { packet: (command: unknown) => void commands.push(command as Command) };
  const work = async (stream: Duplex): Promise<void> => {
    for (let next = commands.shift(); next !== undefined; next = commands.shift()) {
      await milter.handle(next, (reply) => void stream.push(encodeReply(reply, c.MILTER_MDS_64K)));
      if (next.type === 'quit') stream.push(null);
    }
  };
  return new Duplex({
    read() {},
    write(this: Duplex, bytes: Buffer, _encoding, done) {
      try {
        parser.parse(bytes, sink);
      } catch (error) {
        done(error as Error);
        return;
      }
      work(this).then(() => done(), done);
    },
    final(this: Duplex, done) {
      this.push(null);
      done();
    },
    destroy(error, done) {
      void milter.end(() => done(error));
    },
  });
}

class ChainedMilters {
  readonly #make: (offer: NegotiateCommand) => MilterChain;
  #chain: MilterChain | undefined;
  #agreed = { actions: 0, protocol: 0 };
  #macros: Partial<Record<Stage, Record<string, string>>> = {};
  #greeted = false;
  /** Another SMTP session begins with the next CONNECT. */
  #renew = false;
  #begun: { from: boolean; to: boolean } = { from: false, to: false };
  #headers: Array<[string, string]> = [];
  #body: Buffer[] = [];

  constructor(make: (offer: NegotiateCommand) => MilterChain) {
    this.#make = make;
  }

  async end(done?: () => void): Promise<void> {
    await this.#chain?.quit();
    done?.();
  }

  async handle(command: Command, say: (reply: Reply) => void): Promise<void> {
    switch (command.type) {
      case 'negotiate':
        say(await this.#negotiate(command));
        return;
      case 'macro': {
        const stage = stageOfLetter(command.stage);
        if (stage !== undefined) this.#macros[stage] = Object.fromEntries(command.macros);
        return;
      }
      case 'abort':
        this.#forget('mailFrom');
        await this.#chain?.abort();
        return;
      case 'quit':
        await this.end();
        return;
      case 'quitNewConnection':
        this.#renew = true;
        this.#forget('connect');
        return;
      case 'eob':
        for (const reply of await this.#eob(command.chunk, say)) say(reply);
        return;
      default: {
        const reply = await this.#ask(command);
        if ((this.#agreed.protocol & STAGES[command.type].nr) === 0) say(reply);
      }
    }
  }

  async #negotiate(offer: NegotiateCommand): Promise<NegotiateReply> {
    if (offer.version < c.SMFI_VERSION_MIN)
      throw new MilterError('ERR_MILTER_NEGOTIATION', `The mail server offers version ${offer.version}`);
    const chain = this.#make(offer);
    this.#chain = chain;
    await chain.open();
    const agreed = chain.milters.flatMap((milter) => milter.agreed ?? []);
    const any = (of: (reply: NegotiateReply) => number): number => agreed.reduce((bits, reply) => bits | of(reply), 0);
    const all = (of: (reply: NegotiateReply) => number): number =>
      agreed.length === 0 ? 0 : agreed.reduce((bits, reply) => bits & of(reply), ~0);
    const { protocol: offered } = offer;
    const protocol =
      (all((reply) => reply.protocol) & (NO_BITS | NR_BITS | c.SMFIP_HDR_LEADSPC)) |
      (any((reply) => reply.protocol) & c.SMFIP_RCPT_REJ) |
      GATHERED;
    this.#agreed = { actions: any((reply) => reply.actions) & offer.actions, protocol: protocol & offered };
    const macros = offer.version >= 6 && (offer.actions & c.SMFIF_SETSYMLIST) !== 0 ? listsOf(agreed) : [];
    const version = Math.min(c.SMFI_VERSION, offer.version);
    return { type: 'negotiate', version, ...this.#agreed, ...(macros.length > 0 && { macros }) };
  }

  async #ask(
    command: Exclude<Command, { type: 'negotiate' | 'macro' | 'abort' | 'quit' | 'quitNewConnection' | 'eob' }>,
  ) {
    const chain = this.#chain as MilterChain;
    switch (command.type) {
      case 'connect': {
        const { hostname, family, port, address } = command;
        const peer = { hostname, family: family as 'U', port, address, helo: false } as const;
        this.#forget('helo');
        const renew = this.#renew;
        this.#renew = false;
        this.#greeted = true;
        return replyTo(await (renew ? chain.nextSession(peer, this.#extras) : chain.connect(peer, this.#extras)));
      }
      case 'helo':
        await this.#greet(chain);
        this.#forget('mailFrom');
        return replyTo(await chain.helo(command.name, this.#extras));
      case 'unknown':
        await this.#greet(chain);
        return replyTo(await chain.unknown(command.line, this.#extras));
      case 'mailFrom':
        await this.#greet(chain);
        this.#forget('rcpt');
        this.#begun.from = true;
        return replyTo(await chain.mailFrom(command.address, command.args, this.#extras));
      case 'rcpt':
        await this.#begin(chain, 'from');
        return this.#rcpt(chain, command);
      case 'data':
        await this.#begin(chain, 'to');
        return replyTo(await chain.data(this.#extras));
      case 'header': {
        const lead = (this.#agreed.protocol & c.SMFIP_HDR_LEADSPC) === 0 ? ' ' : '';
        this.#headers.push([command.name, `${lead}${command.value}`]);
        return CONTINUE;
      }
      case 'eoh':
        return CONTINUE;
      default:
        this.#body.push(command.chunk);
        return CONTINUE;
    }
  }

  async #rcpt(chain: MilterChain, { address, args }: Extract<Command, { type: 'rcpt' }>): Promise<Reply> {
    const macros = this.#macros.rcpt ?? {};
    if (macros['{rcpt_mailer}'] === 'error') {
      const reply = { enhanced: macros['{rcpt_host}'] ?? '', lines: [macros['{rcpt_addr}'] ?? ''] };
      await chain.refusedRcpt(address, reply);
      return CONTINUE;
    }
    const result = await chain.rcpt(address, args, this.#extras);
    this.#begun.to ||= result.outcome === 'continue' || result.outcome === 'accept';
    return replyTo(result);
  }

  async #eob(chunk: Buffer | undefined, say: (reply: Reply) => void): Promise<Reply[]> {
    const chain = this.#chain as MilterChain;
    await this.#begin(chain, 'to');
    const message = Message.of(this.#headers, chunk === undefined ? this.#body : [...this.#body, chunk]);
    const alive = setInterval(() => say({ type: 'progress' }), PROGRESS);
    try {
      const result = await chain.message(message, this.#extras);
      return [...this.#editsOf(result), replyTo({ ...result, outcome: result.verdict })];
    } finally {
      clearInterval(alive);
      this.#forget('mailFrom');
    }
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

  /** What nobody wants to hear of does not come, and still it belongs to a message. */
  async #begin(chain: MilterChain, what: 'from' | 'to'): Promise<void> {
    await this.#greet(chain);
    if (!this.#begun.from) {
      this.#begun.from = true;
      await chain.mailFrom(EMPTY, [], this.#extras);
    }
    if (what === 'to' && !this.#begun.to) {
      this.#begun.to = true;
      await chain.rcpt(EMPTY, [], this.#extras);
    }
  }

  async #greet(chain: MilterChain): Promise<void> {
    if (this.#greeted && !this.#renew) return;
    const peer = { family: 'U', address: '', helo: false } as const;
    const renew = this.#renew;
    this.#greeted = true;
    this.#renew = false;
    await (renew ? chain.nextSession(peer) : chain.connect(peer));
  }

  get #extras(): { macros: ClientMacros } {
    return { macros: this.#macros };
  }

  /** A message is over, or was never finished. @param stage from which on macros are not valid any more */
  #forget(stage: Stage): void {
    this.#begun = { from: false, to: false };
    this.#headers = [];
    this.#body = [];
    for (const each of STAGE_NAMES.slice(STAGE_NAMES.indexOf(stage))) delete this.#macros[each];
  }
}

const CONTINUE: Reply = { type: 'continue' };

function replyTo(result: StageResult | (MessageResult & { outcome: MessageResult['verdict'] })): Reply {
  const { outcome, hangUp } = result;
  const reply = hangUp ? smtpReply(result) : result.reply;
  if (reply === undefined || outcome === 'continue' || outcome === 'accept') return { type: outcome };
  return { type: 'replyCode', text: formatSmtpReply(reply.code, reply.enhanced, reply.lines) };
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
