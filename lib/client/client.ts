/**
 * MilterClient: the mail server's side of the protocol. Connects to a milter, negotiates as Postfix does, plays messages
 * and gives what would have become of them.
 */
import type { Duplex } from 'node:stream';
import type { NegotiateReply } from '../codec/replies.js';
import { serverOf } from './content.js';
import { Filter } from './filter.js';
import { MailSession } from './mail-session.js';
import { checkClientOptions } from './options.js';
import type { ClientOptions } from './types.js';

export class MilterClient extends MailSession {
  readonly #filter: Filter;

  /**
   * @param target where the milter listens (a socket string), or a stream connected to it: a socket, a session in this
   *   process
   * @throws MilterError ERR_MILTER_ADDRESS, ERR_MILTER_OPTION
   */
  constructor(target: string | Duplex, options: ClientOptions = {}) {
    const checked = checkClientOptions(options, 'throw');
    const filter = new Filter(target, checked);
    super([filter], serverOf(checked), checked.macros);
    this.#filter = filter;
  }

  /** What the milter answered to the offer; undefined before connect(). */
  get agreed(): NegotiateReply | undefined {
    return this.#filter.agreed;
  }
}
