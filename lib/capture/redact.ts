/**
 * Captures without what is private in them: who wrote to whom, and what. What the protocol does stays: every packet, its
 * kind, its order and its time.
 *
 * Replaced, the same by the same: addresses, host names, IP addresses and paths, HELO names, ESMTP arguments but those that
 * name nobody, macros likewise, header values, the texts of SMTP replies and quarantines, unknown commands, the ends of the
 * connections. The body becomes its length (or x for x). Bytes that are no packet, and packets that cannot be read, become x,
 * behind the letter.
 *
 * Kept: names of headers and macros, sizes, SMTP codes, queue ids, versions, ciphers, ports, `localhost`, addresses of the
 * loopback network, whether a value is empty; with keepLength also the length of everything, and in texts white space and
 * punctuation.
 */
import { MILTER_MDS_1M } from '../constants.js';
import { encodeCommand, encodeReply } from '../codec/index.js';
import type { Command } from '../codec/commands.js';
import type { MacroPair } from '../codec/fields.js';
import type { Reply } from '../codec/replies.js';
import { Conversation } from './conversation.js';
import { blanked, Pseudonyms, type PseudonymOptions } from './pseudonyms.js';
import type { CaptureEvent, ConversationRecord, DataEvent, Endpoint, PacketRecord, Source } from './types.js';

export interface RedactOptions extends PseudonymOptions {}

/** Arguments of MAIL and RCPT whose values name nobody. */
const PLAIN_ARGUMENT = /^(SIZE|BODY|RET|NOTIFY|SMTPUTF8|REQUIRETLS|MT-PRIORITY|DELIVERBY|HOLDFOR|BY)(=|$)/i;
/** Macros, without braces: those that name nobody, and those that name a host, its address, a mailbox. */
const PLAIN_MACROS = new Set(
  ['i', 'v', 'daemon_name', 'daemon_port', 'client_port', 'client_connections', 'client_resolve', 'tls_version'].concat(
    ['cipher', 'cipher_bits', 'verify', 'auth_type', 'auth_ssf', 'mail_mailer', 'rcpt_mailer'],
  ),
);
const HOST_MACROS = new Set(['j', 'if_name', 'client_name', 'client_ptr', 'mail_host', 'rcpt_host', 'tls_sni']);
const IP_MACROS = new Set(['client_addr', 'daemon_addr', 'if_addr']);
const MAILBOX_MACROS = new Set(['mail_addr', 'rcpt_addr']);

/**
 * The same capture without what is private in it. Memory: what is open and torn.
 * @throws what the events throw
 */
export async function* redactCapture(
  events: Source<CaptureEvent>,
  options: RedactOptions = {},
): AsyncGenerator<CaptureEvent, void, undefined> {
  const redactor = new Redactor(new Pseudonyms(options));
  let failure: { readonly error: unknown } | undefined;
  try {
    for await (const event of events) yield* redactor.take(event);
  } catch (error) {
    failure = { error };
  }
  yield* redactor.end();
  if (failure !== undefined) throw failure.error;
}

class Redactor {
  readonly #pseudonyms: Pseudonyms;
  readonly #sessions = new Map<string, Conversation>();

  constructor(pseudonyms: Pseudonyms) {
    this.#pseudonyms = pseudonyms;
  }

  take(event: CaptureEvent): CaptureEvent[] {
    const { type, session } = event;
    if (type === 'problem') return [event];
    let conversation = this.#sessions.get(session);
    if (conversation === undefined) this.#sessions.set(session, (conversation = new Conversation(session)));
    const said = this.#data(conversation.take(event));
    if (type === 'close') this.#sessions.delete(session);
    if (type === 'data') return said;
    if (type !== 'open') return [...said, event];
    const { mta, milter } = event;
    return [{ ...event, ...(mta && { mta: this.#end(mta) }), ...(milter && { milter: this.#end(milter) }) }];
  }

  /** What the capture ends in the middle of. */
  end(): CaptureEvent[] {
    return [...this.#sessions.values()].flatMap((conversation) => this.#data(conversation.end()));
  }

  #end({ address, port }: Endpoint): Endpoint {
    return { address: this.#pseudonyms.ip(address), port };
  }

  #data(records: readonly ConversationRecord[]): DataEvent[] {
    return records.flatMap((record): DataEvent[] => {
      const { session, time, from } = record;
      const bytes = record.type === 'packet' ? this.#packet(record) : record.bytes && blanked(record.bytes);
      return from === undefined || bytes === undefined ? [] : [{ type: 'data', session, time, from, bytes }];
    });
  }

  #packet({ from, packet, raw }: PacketRecord): Buffer {
    if (packet.type === 'malformed' || packet.type === 'unrecognized') return blankedFrame(raw);
    try {
      return from === 'mta'
        ? encodeCommand(this.#command(packet as Command), MILTER_MDS_1M)
        : encodeReply(this.#reply(packet as Reply), MILTER_MDS_1M);
    } catch {
      return blankedFrame(raw); // what can be read and not be written: an empty body packet, one that has grown too large
    }
  }

  #command(packet: Command): Command {
    const by = this.#pseudonyms;
    switch (packet.type) {
      case 'connect':
        return { ...packet, hostname: by.host(packet.hostname), address: by.ip(packet.address) };
      case 'helo':
        return { ...packet, name: by.host(packet.name) };
      case 'mailFrom':
      case 'rcpt':
        return { ...packet, address: by.address(packet.address), args: packet.args.map((arg) => this.#argument(arg)) };
      case 'macro':
        return { ...packet, macros: packet.macros.map((pair) => this.#macro(pair)) };
      case 'header':
        return { ...packet, value: by.text(packet.value) };
      case 'body':
        return { ...packet, chunk: by.body(packet.chunk) };
      case 'eob':
        return packet.chunk === undefined ? packet : { ...packet, chunk: by.body(packet.chunk) };
      case 'unknown':
        return { ...packet, line: by.text(packet.line) };
      default:
        return packet;
    }
  }

  #reply(packet: Reply): Reply {
    const by = this.#pseudonyms;
    switch (packet.type) {
      case 'addHeader':
      case 'insHeader':
      case 'chgHeader':
        return { ...packet, value: by.text(packet.value) };
      case 'addRcpt':
      case 'delRcpt':
        return { ...packet, address: by.address(packet.address) };
      case 'addRcptPar':
      case 'chgFrom': {
        const args = packet.args?.split(' ').map((arg) => this.#argument(arg));
        return { ...packet, address: by.address(packet.address), ...(args && { args: args.join(' ') }) };
      }
      case 'replBody':
        return { ...packet, chunk: by.body(packet.chunk) };
      case 'quarantine':
        return { ...packet, reason: by.text(packet.reason) };
      case 'replyCode':
        return {
          ...packet,
          text: packet.text
            .split('\r\n')
            .map((line) => this.#line(line))
            .join('\r\n'),
        };
      default:
        return packet;
    }
  }

  #argument(argument: string): string {
    if (PLAIN_ARGUMENT.test(argument)) return argument;
    const [, keyword, value] = /^([^=]*=|)(.*)$/s.exec(argument) as unknown as [string, string, string];
    return keyword + this.#pseudonyms.text(value);
  }

  #macro([name, value]: MacroPair): MacroPair {
    const by = this.#pseudonyms;
    const bare = name.replace(/^\{(.*)\}$/, '$1');
    if (value === '' || PLAIN_MACROS.has(bare)) return [name, value];
    if (HOST_MACROS.has(bare)) return [name, by.host(value)];
    if (IP_MACROS.has(bare)) return [name, by.ip(value)];
    return [name, MAILBOX_MACROS.has(bare) ? by.address(value) : by.text(value)];
  }

  /** A line of an SMTP reply: its codes stay. */
  #line(line: string): string {
    const codes = /^\d{3}[ -](\d\.\d{1,3}\.\d{1,3}( |$))?/.exec(line)?.[0] ?? '';
    return codes + this.#pseudonyms.text(line.slice(codes.length));
  }
}

/** Length and letter, and as many x as there were bytes behind them. */
function blankedFrame(raw: Buffer): Buffer {
  return Buffer.concat([raw.subarray(0, 5), blanked(raw.subarray(5))]);
}
