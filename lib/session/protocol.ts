/**
 * MilterProtocol: the class people extend. One object is one SMTP session. It is thin on purpose: buffers, macros and
 * the state of the conversation belong to the session, which hands each object the Host it works through.
 */
import type { REJECT, SKIP, TEMPFAIL, Verdict } from '../constants.js';
import { MilterError } from '../errors.js';
import type { BodySource, BodyOptions, Edits } from './edits.js';
import type { MacroDict } from './macro-dict.js';
import type { ErrorPolicy } from './options.js';

/** What a callback returns: a verdict, or nothing (which is CONTINUE, or what setReply() said), or a promise of these. */
export type Result = Verdict | void | PromiseLike<Verdict | void>;

/** SMFIA_: U unknown, L Unix socket, 4 IPv4, 6 IPv6. */
export type Family = 'U' | 'L' | '4' | '6';

/** A string, or lines. */
export type Lines = string | readonly string[];

/** What a protocol object reaches of its session. */
export interface Host {
  readonly context: unknown;
  readonly shared: unknown;
  readonly signal: AbortSignal;
  readonly bodySkipped: boolean;
  /** The edits of this message; throws where `method` does not work now. */
  edits(method: string): Edits;
  setReply(rcode: number | string, xcode: string, message: Lines): typeof REJECT | typeof TEMPFAIL;
  skip(): typeof SKIP;
  progress(): void;
  macro(name: string): string | undefined;
}

/** The Host of the object that is being made: field initialisers and constructors can use it already. */
let opening: Host | undefined;

/** Only the object it is meant for gets it, not one that this object's constructor makes for itself. */
function takeOpening(): Host | undefined {
  const host = opening;
  opening = undefined;
  return host;
}

/** How a class of another copy of this package is known, and its objects made: `instanceof` would not see it. */
export const PROTOCOL = Symbol.for('milter-stream.protocol');

/** What stands under PROTOCOL on every protocol class. */
export interface ProtocolBrand {
  /** Makes an object that works through a host. */
  open(this: void, Milter: ProtocolClass, host: Host): MilterProtocol;
  /** The callbacks that do nothing. */
  readonly base: MilterProtocol;
}

/** A class that extends MilterProtocol, with what may be said on it. */
export interface ProtocolClass<Context = unknown, Shared = unknown> {
  new (): MilterProtocol<Context, Shared>;
  readonly name: string;
  /** Macros to ask the mail server for, by stage: at most 50 names each. Needs a server with SMFIF_SETSYMLIST. */
  readonly macros?: MacroRequest;
  /** Callbacks that are called but not answered: what @noReply says, in plain JavaScript. */
  readonly noReply?: readonly string[];
  /** Callbacks that are not called, nor sent: what @noCallback says, in plain JavaScript. */
  readonly noCallback?: readonly string[];
  /** Callbacks that run in a thread under AsyncFactory: what @callInThread says, in plain JavaScript. */
  readonly callInThread?: readonly string[];
  /** SMFIP_ bits to ask for besides: RCPT_REJ, SKIP, HDR_LEADSPC. */
  readonly smfipOptions?: number;
  /** SMFIF_ bits without which the session ends. */
  readonly required?: number;
  /** What a failing callback is answered with, unless the option of the same name says otherwise. */
  readonly errorPolicy?: ErrorPolicy;
  /** `import.meta.url` of the module that has the class: for threads and processes, which import it. */
  readonly module?: string;
  /** Runs once in each runtime, before the first session; what it returns is `this.shared`. */
  setup?(context: Context): Shared | PromiseLike<Shared>;
  /** Runs once in each runtime, after the last session. */
  teardown?(shared: Shared): void | PromiseLike<void>;
}

/** Names of macros by stage, as in `{ connect: ['j'], eob: ['i', '{auth_authen}'] }`. */
export interface MacroRequest {
  readonly connect?: readonly string[];
  readonly helo?: readonly string[];
  readonly mailFrom?: readonly string[];
  readonly rcpt?: readonly string[];
  readonly data?: readonly string[];
  readonly eoh?: readonly string[];
  readonly eob?: readonly string[];
}

/**
 * One SMTP session as a milter sees it. Extend it, override the callbacks you need, and give the class to a factory.
 *
 * A callback that is not overridden is not sent by the mail server. A callback may be async; the next one waits for it.
 * What throws or rejects follows the error policy, and never harms another session.
 *
 * @typeParam Context the factory's `context` option
 * @typeParam Shared what `static setup()` returned
 */
export class MilterProtocol<Context = unknown, Shared = unknown> {
  static readonly [PROTOCOL]: ProtocolBrand = {
    open(Milter, host) {
      opening = host;
      try {
        return new Milter();
      } finally {
        opening = undefined;
      }
    },
    get base() {
      return MilterProtocol.prototype;
    },
  };

  readonly #host: Host | undefined = takeOpening();

  // ---- callbacks, in the order of a conversation --------------------------------------------------------------------

  /**
   * A client has connected to the mail server.
   * @param hostname its name in the DNS, or its address in brackets
   * @param family 4, 6, L (Unix socket) or U (unknown)
   * @param ip its address, without `IPv6:`; the path for L; '' for U
   * @param port its port; 0 for L and U
   * @param cmdDict the macros of this command
   */
  connect(_hostname: string, _family: Family, _ip: string, _port: number, _cmdDict: MacroDict): Result {}

  /** HELO or EHLO; may come several times. */
  helo(_heloname: string, _cmdDict: MacroDict): Result {}

  /**
   * MAIL FROM: a message begins.
   * @param frAddr the address as the mail server sent it, brackets kept; see bareAddress()
   * @param args ESMTP arguments, one string each: `SIZE=100`
   */
  mailFrom(_frAddr: string, _cmdDict: MacroDict, _args: readonly string[]): Result {}

  /**
   * RCPT TO. REJECT and TEMPFAIL concern this recipient alone.
   * @param recip the address as the mail server sent it, brackets kept: delRcpt() wants it like this
   * @param args ESMTP arguments, one string each: `NOTIFY=NEVER`
   */
  rcpt(_recip: string, _cmdDict: MacroDict, _args: readonly string[]): Result {}

  /** DATA (protocol version 4). */
  data(_cmdDict: MacroDict): Result {}

  /**
   * One header of the message.
   * @param key its name, as in the message
   * @param val its value; lines of a folded one are separated by LF alone
   */
  header(_key: string, _val: string, _cmdDict: MacroDict): Result {}

  /** The headers are complete. */
  eoh(_cmdDict: MacroDict): Result {}

  /** A piece of the body, cut anywhere, with CRLF line ends. It is yours to keep. */
  body(_chunk: Buffer, _cmdDict: MacroDict): Result {}

  /** The message is complete. The only callback in which the modification methods work. CONTINUE means ACCEPT here. */
  eob(_cmdDict: MacroDict): Result {}

  /** An SMTP command that the mail server does not know (protocol version 3): the whole line. */
  unknown(_line: string, _cmdDict: MacroDict): Result {}

  /**
   * A message was cut short (`interrupted` true, at most once for each message), or the mail server sent an ABORT after
   * a message that was complete (false): Postfix does so after every one.
   */
  abort(_interrupted: boolean): void | PromiseLike<void> {}

  /** The SMTP session is over. Always called, exactly once, also when connect() never was. */
  close(): void | PromiseLike<void> {}

  // ---- modifications: in eob() only ---------------------------------------------------------------------------------

  /**
   * Adds a recipient to the envelope.
   * @param rcpt with or without brackets
   * @param esmtpAdd ESMTP arguments, like `NOTIFY=NEVER`
   * @throws MilterError ERR_MILTER_WRONG_STAGE, ERR_MILTER_ARGUMENT; ERR_MILTER_NOT_NEGOTIATED without
   *   SMFIF_ADDRCPT, or with arguments without SMFIF_ADDRCPT_PAR
   */
  addRcpt(rcpt: string, esmtpAdd: Lines = ''): void {
    this.#hosted.edits('addRcpt').addRcpt(rcpt, esmtpAdd);
  }

  /**
   * Removes a recipient from the envelope.
   * @param rcpt exactly as rcpt() had it
   * @throws MilterError ERR_MILTER_WRONG_STAGE, ERR_MILTER_ARGUMENT; ERR_MILTER_NOT_NEGOTIATED without SMFIF_DELRCPT
   */
  delRcpt(rcpt: string): void {
    this.#hosted.edits('delRcpt').delRcpt(rcpt);
  }

  /**
   * Replaces the body. Several calls append; '' makes it empty. Line ends are CRLF; nothing is converted.
   * @param body text, bytes (not to be changed until the message is done), or a stream of them, which is read whole
   *   before anything is sent: into memory, then into a file
   * @param options `{ stream: true }` sends a stream as it comes: when it fails half-way the message is refused for now
   * @throws MilterError ERR_MILTER_WRONG_STAGE, ERR_MILTER_ARGUMENT; ERR_MILTER_NOT_NEGOTIATED without SMFIF_CHGBODY
   */
  replBody(body: BodySource, options: BodyOptions = {}): void {
    this.#hosted.edits('replBody').replBody(body, options);
  }

  /**
   * Adds a header at the end.
   * @param key its name
   * @param val its value; a new line in it must begin with a space or a tab
   * @throws MilterError ERR_MILTER_WRONG_STAGE, ERR_MILTER_ARGUMENT; ERR_MILTER_NOT_NEGOTIATED without SMFIF_ADDHDRS
   */
  addHeader(key: string, val: string): void {
    this.#hosted.edits('addHeader').addHeader(key, val);
  }

  /**
   * Changes a header, or removes it.
   * @param key exactly as header() had it
   * @param val '' removes the header
   * @param index which of several of this name, counted from 1
   * @throws MilterError ERR_MILTER_WRONG_STAGE, ERR_MILTER_ARGUMENT; ERR_MILTER_NOT_NEGOTIATED without SMFIF_CHGHDRS
   */
  chgHeader(key: string, val = '', index = 1): void {
    this.#hosted.edits('chgHeader').chgHeader(key, val, index);
  }

  /**
   * Inserts a header at a position. 0 is above the mail server's own Received, 1 right below it: above everything that
   * the milter saw. Further down the two servers count differently.
   * @param index counted from 0; too large means at the end
   * @throws MilterError ERR_MILTER_WRONG_STAGE, ERR_MILTER_ARGUMENT; ERR_MILTER_NOT_NEGOTIATED without SMFIF_ADDHDRS
   */
  insHeader(index: number, key: string, val: string): void {
    this.#hosted.edits('insHeader').insHeader(index, key, val);
  }

  /**
   * Changes the envelope sender.
   * @param frAddr with or without brackets; '' for the null sender
   * @param esmtpAdd ESMTP arguments, like `RET=HDRS`
   * @throws MilterError ERR_MILTER_WRONG_STAGE, ERR_MILTER_ARGUMENT; ERR_MILTER_NOT_NEGOTIATED without SMFIF_CHGFROM
   */
  chgFrom(frAddr: string, esmtpAdd: Lines = ''): void {
    this.#hosted.edits('chgFrom').chgFrom(frAddr, esmtpAdd);
  }

  /**
   * Holds the message: Postfix puts it into the hold queue.
   * @param msg why; for the mail server's log
   * @throws MilterError ERR_MILTER_WRONG_STAGE, ERR_MILTER_ARGUMENT; ERR_MILTER_NOT_NEGOTIATED without SMFIF_QUARANTINE
   */
  quarantine(msg = ''): void {
    this.#hosted.edits('quarantine').quarantine(msg);
  }

  // ---- everything else ----------------------------------------------------------------------------------------------

  /**
   * The SMTP reply to refuse with. It is the callback's verdict unless the callback returns another one, and forgotten
   * after it: `return this.setReply(550, '5.7.1', 'no')` and `this.setReply(550, '5.7.1', 'no'); return REJECT` are one.
   * @param rcode 400 to 599, a number or a string; 421 makes the mail server close the session
   * @param xcode enhanced status code of the same class, like '5.7.1', or ''
   * @param msg a line, or an array of at most 32; each at most 980 bytes
   * @returns REJECT or TEMPFAIL
   * @throws MilterError ERR_MILTER_ARGUMENT; ERR_MILTER_WRONG_STAGE in abort() and close()
   */
  setReply(rcode: number | string, xcode: string, msg: Lines): typeof REJECT | typeof TEMPFAIL {
    return this.#hosted.setReply(rcode, xcode, msg);
  }

  /**
   * No more body chunks of this message: call it, or return it, from body(). eob() still comes.
   * Without SMFIP_SKIP (see `smfipOptions`) the chunks still travel, but body() is not called.
   * @throws MilterError ERR_MILTER_WRONG_STAGE outside body()
   */
  skip(): typeof SKIP {
    return this.#hosted.skip();
  }

  /**
   * Tells the mail server that eob() is still at work. Goes out by itself every few seconds, so this is rarely needed.
   * @throws MilterError ERR_MILTER_WRONG_STAGE outside eob()
   */
  progress(): void {
    this.#hosted.progress();
  }

  /** A macro of any stage that is still live, the latest first; the name with or without braces. */
  macro(name: string): string | undefined {
    return this.#hosted.macro(name);
  }

  /**
   * Aborted when the mail server aborts the message or goes away, when the callback's deadline passes, when the factory
   * gives up: hand it to whatever the callback waits for. One for each message; before MAIL, for the connection.
   */
  get signal(): AbortSignal {
    return this.#hosted.signal;
  }

  /** In eob(): whether skip() cut the body. */
  get bodySkipped(): boolean {
    return this.#hosted.bodySkipped;
  }

  /** The factory's `context` option. */
  get context(): Context {
    return this.#hosted.context as Context;
  }

  /** What `static setup()` returned in this runtime. */
  get shared(): Shared {
    return this.#hosted.shared as Shared;
  }

  get #hosted(): Host {
    if (this.#host !== undefined) return this.#host;
    throw new MilterError('ERR_MILTER_DETACHED', 'This object was not made by a session, so it has none to work with');
  }
}

/** What a class says under PROTOCOL; undefined for anything that is not a protocol class, of this copy or another. */
export function brandOf(Milter: unknown): ProtocolBrand | undefined {
  return typeof Milter === 'function' ? (Milter as { [PROTOCOL]?: ProtocolBrand })[PROTOCOL] : undefined;
}

/** ThreadMixin and ForkMixin, which the documentation requires of a milter, are needless here: they return the class. */
export function ThreadMixin<T>(Base: T): T {
  return Base;
}

/** See ThreadMixin. */
export function ForkMixin<T>(Base: T): T {
  return Base;
}
