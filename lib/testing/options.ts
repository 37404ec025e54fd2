/** What a test may say: the milter's options, the mail server's, and a few of its own. */
import type { ClientMessage, ClientOptions, ClientPeer } from '../client/types.js';
import { SMFIF_ALLOPTS } from '../constants.js';
import type { SessionOptions } from '../session/options.js';

/** The options of the milter as a factory takes them, and those of the mail server as MilterClient does. */
export interface TestOptions<Context = unknown> extends SessionOptions<Context>, ClientOptions {
  /**
   * SMFIF_ bits: what the milter may do to messages. Default all, so that every edit works. To see that a factory's are
   * enough, say the same here.
   */
  smfifOptions?: number | undefined;
  /** How long a callback before eob() may take, in ms. Default 4,000: most test runners give up after 5 seconds. */
  callbackDeadline?: number | undefined;
  /** How long eob() may take, in ms. Default 4,000. */
  eobDeadline?: number | undefined;
  /** The SMTP client that the mail server pretends to have. */
  peer?: ClientPeer | undefined;
  /**
   * What the milter fails with, a callback that throws, takes too long or edits what it may not, is thrown instead of
   * being answered as the error policy says. Default true, unless `errorPolicy` is given: who says that wants to see it.
   */
  throwErrors?: boolean | undefined;
}

/** One message besides. */
export interface TestMessageOptions<Context = unknown>
  extends TestOptions<Context>, Partial<Omit<ClientMessage, 'message' | 'macros' | 'signal'>> {}

/** Shorter than the patience of most test runners. */
const DEADLINE = 4_000;

const CLIENT_OPTIONS = {
  version: true,
  actions: true,
  protocol: true,
  like: true,
  macros: true,
  ownMacros: true,
  connectTimeout: true,
  commandTimeout: true,
  contentTimeout: true,
  eobTimeout: true,
  defaultAction: true,
  unagreedEdits: true,
  ownHeaders: true,
  signal: true,
} satisfies Record<keyof ClientOptions, true>;

/** Whose options they are. What nobody knows is the session's to refuse. */
export function apart<Context>({ peer, throwErrors, ...options }: TestOptions<Context>): {
  session: SessionOptions<Context>;
  client: ClientOptions;
  peer: ClientPeer;
  throwErrors: boolean;
} {
  const isClients = ([name]: [string, unknown]): boolean => Object.hasOwn(CLIENT_OPTIONS, name);
  const { smfifOptions = SMFIF_ALLOPTS, callbackDeadline = DEADLINE, eobDeadline = DEADLINE } = options;
  const session = Object.fromEntries(Object.entries(options).filter((option) => !isClients(option)));
  return {
    session: { ...session, smfifOptions, callbackDeadline, eobDeadline },
    client: Object.fromEntries(Object.entries(options).filter(isClients)),
    peer: peer ?? {},
    throwErrors: throwErrors ?? options.errorPolicy === undefined,
  };
}
