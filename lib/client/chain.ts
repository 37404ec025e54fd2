/** MilterChain: several milters in the order in which a mail server has them, each with options of its own. */
import type { Duplex } from 'node:stream';
import type { NegotiateReply } from '../codec/replies.js';
import { MilterError, show } from '../errors.js';
import { serverOf } from './content.js';
import { Filter } from './filter.js';
import { MailSession } from './mail-session.js';
import { checkClientOptions, over } from './options.js';
import type { ClientOptions } from './types.js';

/** There is one mail server, and one message. */
const FOR_ALL = ['like', 'ownHeaders', 'macros', 'ownMacros'] as const;

/** One milter of a chain. What is said here counts for it alone, over what is said for the whole chain. */
export interface ChainedMilter extends Omit<ClientOptions, (typeof FOR_ALL)[number]> {
  /** Where it listens, or a stream connected to it. */
  target: string | Duplex;
  /** For results and errors. Default: its address. */
  name?: string;
}

export class MilterChain extends MailSession {
  readonly #filters: readonly Filter[];

  /**
   * @param milters in their order: socket strings, streams, or either with options
   * @param options for all of them; the default action is 'tempfail' unless something else is said
   * @throws MilterError ERR_MILTER_ADDRESS, ERR_MILTER_OPTION
   */
  constructor(milters: ReadonlyArray<string | Duplex | ChainedMilter>, options: ClientOptions = {}) {
    if (!Array.isArray(milters) || milters.length === 0)
      throw new MilterError('ERR_MILTER_OPTION', `milters must be a list of at least one, got ${show(milters)}`);
    const checked = checkClientOptions(options, 'tempfail');
    const filters = milters.map((milter: string | Duplex | ChainedMilter) => {
      const own: ChainedMilter = typeof milter === 'object' && 'target' in milter ? milter : { target: milter };
      const { target, name, ...more } = own;
      for (const option of FOR_ALL) {
        if (option in more) throw new MilterError('ERR_MILTER_OPTION', `${option} is for the whole chain`);
      }
      return new Filter(target, checkClientOptions(over(options, more), 'tempfail'), name);
    });
    super(filters, serverOf(checked), checked.macros);
    this.#filters = filters;
  }

  /**
   * What each milter is called; what it answered to the offer: undefined before connect(), or where it failed; and what
   * it failed with in this SMTP session, if it did.
   */
  get milters(): ReadonlyArray<{
    name: string;
    agreed: NegotiateReply | undefined;
    failure: MilterError | undefined;
  }> {
    return this.#filters.map(({ name, agreed, failure }) => ({ name, agreed, failure }));
  }
}
