// The milters of the suite. They may run in another thread or process, so they tell what they saw by lines in a file
// that their context names, or in the message itself, and share nothing else with the tests.
import { appendFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import {
  CONTINUE,
  MilterProtocol,
  noReply,
  type MacroDict,
  type MacroRequest,
  type Result,
  type Stage,
  type Verdict,
} from '../../lib/index.js';
import { longBody } from './suite/letters.js';

export interface Report {
  /** The file for the calls, a line of JSON for each. */
  readonly report: string;
}

/** A call as it is reported: the callback and what it saw. Bytes are in hexadecimal. */
export type Call = [callback: string, ...seen: unknown[]];

/** Does nothing, and is asked nothing but whether the message is good. */
export class Idle extends MilterProtocol<Report> {
  static module = import.meta.url;
}

/** Reports calls. */
abstract class Reporter<C extends Report = Report> extends MilterProtocol<C> {
  protected report(...call: Call): void {
    appendFileSync(this.context.report, `${JSON.stringify(call)}\n`);
  }

  override abort(interrupted: boolean) {
    this.report('abort', interrupted);
  }
  override close() {
    this.report('close');
  }
}

/** Reports every call as it is, and changes nothing. */
export class Recorder<C extends Report = Report> extends Reporter<C> {
  static module = import.meta.url;

  override connect(hostname: string, family: string, ip: string, port: number, macros: MacroDict): Result {
    this.report('connect', hostname, family, ip, port, macros);
  }
  override helo(name: string, macros: MacroDict): Result {
    this.report('helo', name, macros);
  }
  override mailFrom(address: string, macros: MacroDict, args: readonly string[]): Result {
    this.report('mailFrom', address, args, macros, { rcpt_addr: this.macro('rcpt_addr') });
  }
  override rcpt(address: string, macros: MacroDict, args: readonly string[]): Result {
    this.report('rcpt', address, args, macros);
  }
  override data(macros: MacroDict): Result {
    this.report('data', macros);
  }
  override header(name: string, value: string, macros: MacroDict): Result {
    this.report('header', name, value, macros);
  }
  override eoh(macros: MacroDict): Result {
    this.report('eoh', macros);
  }
  override body(chunk: Buffer, macros: MacroDict): Result {
    this.report('body', chunk.toString('hex'), macros);
  }
  override eob(macros: MacroDict): Result {
    this.report('eob', macros, { i: this.macro('i'), j: this.macro('{j}'), mail_addr: this.macro('mail_addr') });
  }
  override unknown(line: string, macros: MacroDict): Result {
    this.report('unknown', line, macros, { mail_addr: this.macro('mail_addr') });
  }
}

/** The same, each callback a while after it was called. */
export class SlowRecorder extends Recorder {
  static override module = import.meta.url;

  override async connect(...args: Parameters<Recorder['connect']>) {
    await delay(1);
    return super.connect(...args);
  }
  override async helo(...args: Parameters<Recorder['helo']>) {
    await delay(1);
    return super.helo(...args);
  }
  override async mailFrom(...args: Parameters<Recorder['mailFrom']>) {
    await delay(1);
    return super.mailFrom(...args);
  }
  override async rcpt(...args: Parameters<Recorder['rcpt']>) {
    await delay(1);
    return super.rcpt(...args);
  }
  override async data(...args: Parameters<Recorder['data']>) {
    await delay(1);
    return super.data(...args);
  }
  override async header(...args: Parameters<Recorder['header']>) {
    await delay(1);
    return super.header(...args);
  }
  override async eoh(...args: Parameters<Recorder['eoh']>) {
    await delay(1);
    return super.eoh(...args);
  }
  override async body(...args: Parameters<Recorder['body']>) {
    await delay(1);
    return super.body(...args);
  }
  override async eob(...args: Parameters<Recorder['eob']>) {
    await delay(1);
    return super.eob(...args);
  }
  override async abort(interrupted: boolean) {
    await delay(1);
    super.abort(interrupted);
  }
  override async close() {
    await delay(1);
    super.close();
  }
}

/** Asks for macros by name. */
export class Asker extends Recorder {
  static override module = import.meta.url;
  static macros: MacroRequest = {
    connect: ['{client_addr}', 'no_such_macro'],
    helo: ['{client_name}'],
    mailFrom: ['i', 'mail_host'],
    rcpt: ['rcpt_addr'],
    data: ['j'],
    eoh: ['i', '{client_addr}'],
    eob: ['i', 'client_addr', 'j'],
  };
}

/** Takes the calls, but not a turn in the conversation: no callback is answered. Counts them in a header. */
export class Quiet extends MilterProtocol<Report & { readonly refuse?: Stage }> {
  static module = import.meta.url;

  #calls: Record<string, number> = {};

  #count(callback: Stage): Result {
    this.#calls[callback] = (this.#calls[callback] ?? 0) + 1;
    if (this.context.refuse === callback && this.#calls[callback] === 1) {
      return this.setReply(550, '5.7.9', `${callback} says no`);
    }
    return undefined;
  }

  @noReply override connect() {
    return this.#count('connect');
  }
  @noReply override helo() {
    return this.#count('helo');
  }
  @noReply override mailFrom() {
    return this.#count('mailFrom');
  }
  @noReply override rcpt() {
    return this.#count('rcpt');
  }
  @noReply override data() {
    return this.#count('data');
  }
  @noReply override header() {
    return this.#count('header');
  }
  @noReply override eoh() {
    return this.#count('eoh');
  }
  @noReply override body() {
    return this.#count('body');
  }
  override eob() {
    this.addHeader('X-Calls', Object.entries(this.#calls).join(' '));
  }
}

/** The same said in plain JavaScript, for the callbacks of the message's content. */
export class PlainlyQuiet extends MilterProtocol<Report> {
  static module = import.meta.url;
  static noReply = ['header', 'eoh', 'body'];
  static noCallback = ['rcpt'];

  #headers = 0;
  #chunks = 0;
  #recipients = 0;

  override rcpt() {
    this.#recipients++;
  }
  override header() {
    this.#headers++;
  }
  override eoh() {}
  override body() {
    this.#chunks++;
  }
  override eob() {
    this.addHeader('X-Calls', `header,${this.#headers} body,${this.#chunks} rcpt,${this.#recipients}`);
  }
}

/** Has heard enough after one piece of the body. */
export class Skipper extends MilterProtocol<Report> {
  static module = import.meta.url;

  #chunks = 0;

  override body() {
    this.#chunks++;
    return this.skip();
  }
  override eob() {
    this.addHeader('X-Seen', `${this.#chunks} of several: ${this.bodySkipped}`);
  }
}

/** Looks at messages that are complete and at nothing else. */
export class EobOnly extends MilterProtocol<Report & { readonly refuseFirst?: boolean }> {
  static module = import.meta.url;

  #messages = 0;

  override eob() {
    this.#messages++;
    if (this.context.refuseFirst === true && this.#messages === 1) return this.setReply(550, '5.7.9', 'not the first');
    this.addHeader('X-Message', `${this.#messages} ${this.macro('i')} from ${this.macro('mail_addr')}`);
    return CONTINUE;
  }
}

export interface Waiting extends Report {
  /** How long eob() takes, in ms; for ever unless given. */
  readonly ms?: number;
}

/** Takes its time in eob(), and reports whether it was still wanted. */
export class Patient extends MilterProtocol<Waiting> {
  static module = import.meta.url;

  override async eob() {
    const { ms, report } = this.context;
    if (ms === undefined) {
      await new Promise((resolve) => this.signal.addEventListener('abort', resolve, { once: true }));
    } else {
      await delay(ms);
    }
    const reason: unknown = this.signal.reason;
    const code = reason === undefined ? 'wanted' : (reason as { code: string }).code;
    appendFileSync(report, `${JSON.stringify(['eob', code])}\n`);
    if (reason === undefined) this.addHeader('X-Patient', 'yes');
  }
}

/** What is said, or done instead. */
export interface Say {
  readonly verdict?: Verdict;
  /** The arguments of setReply(). */
  readonly reply?: readonly [code: number, xcode: string, text: string | string[]];
  readonly failure?: 'throws' | 'rejects' | 'never ends';
}

export interface Judging extends Report {
  /** The callback that says it, the first time it is called in an SMTP session. */
  readonly stage: Stage;
  /** One for each client: the number in its HELO name says which; the first until then. */
  readonly says: readonly Say[];
}

/** Says something at one stage. */
export class Judge extends MilterProtocol<Judging> {
  static module = import.meta.url;

  #say = this.context.says[0] as Say;
  #said = false;

  #judge(stage: Stage): Result {
    if (this.context.stage !== stage || this.#said) return undefined;
    this.#said = true;
    const { verdict, reply, failure } = this.#say;
    switch (failure) {
      case 'throws':
        throw new Error(`${stage} failed`);
      case 'rejects':
        return Promise.reject(new Error(`${stage} failed later`));
      case 'never ends':
        return new Promise(() => {});
      default:
        return reply === undefined ? verdict : this.setReply(...reply);
    }
  }

  override connect() {
    return this.#judge('connect');
  }
  override helo(name: string) {
    this.#say = this.context.says[Number(/\d+/.exec(name)?.[0] ?? 0)] as Say;
    return this.#judge('helo');
  }
  override mailFrom() {
    return this.#judge('mailFrom');
  }
  override rcpt() {
    return this.#judge('rcpt');
  }
  override data() {
    return this.#judge('data');
  }
  override header() {
    return this.#judge('header');
  }
  override eoh() {
    return this.#judge('eoh');
  }
  override body() {
    return this.#judge('body');
  }
  override eob() {
    return this.#judge('eob');
  }
  override unknown() {
    return this.#judge('unknown');
  }
}

/**
 * A call of a modification method; a number for a body stands for that many bytes of longBody(). `stream` gives
 * replBody() a stream of them, with the options that follow.
 */
export type Edit = readonly [method: EditMethod | 'stream', ...args: unknown[]];

type EditMethod =
  'addHeader' | 'insHeader' | 'chgHeader' | 'addRcpt' | 'delRcpt' | 'chgFrom' | 'replBody' | 'quarantine';

export interface Editing extends Report {
  /** One list for each message: the number in its header X-Case says which. */
  readonly cases: ReadonlyArray<readonly Edit[]>;
  readonly verdict?: Verdict;
}

/** Makes edits. */
export class Editor extends MilterProtocol<Editing> {
  static module = import.meta.url;

  #case = 0;

  override header(name: string, value: string) {
    if (name === 'X-Case') this.#case = Number(value);
  }

  override eob(): Result {
    for (const [method, ...args] of this.context.cases[this.#case] as readonly Edit[]) {
      if (method === 'stream') this.replBody(trickle(longBody(args[0] as number)), args[1] as object);
      else if (typeof args[0] === 'number' && method === 'replBody') this.replBody(longBody(args[0]));
      else (this[method] as (...args: unknown[]) => void)(...args);
    }
    return this.context.verdict;
  }
}

/** A stream that gives the bytes a few at a time, and never two at once. */
function trickle(bytes: Buffer): Readable {
  let at = 0;
  return new Readable({
    read() {
      setImmediate(() => this.push(at < bytes.length ? bytes.subarray(at, (at += 10_007)) : null));
    },
  });
}
