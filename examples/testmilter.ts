/**
 * A milter that shows everything: it prints each callback, refuses one recipient, tags the subject and adds a header.
 * Start from here: keep the callbacks you need, and the mail server will not even send the rest.
 *
 *   npx tsx examples/testmilter.ts inet:8891@127.0.0.1
 */
import { pathToFileURL } from 'node:url';
import {
  ACCEPT,
  AsyncFactory,
  bareAddress,
  CONTINUE,
  formatAddress,
  MilterProtocol,
  SMFIF_ADDHDRS,
  SMFIF_CHGHDRS,
  type Family,
  type MacroDict,
} from 'milter-stream';

/** What the milter may do to a message. */
export const TEST_ACTIONS = SMFIF_ADDHDRS | SMFIF_CHGHDRS;

/** Mail for this address is refused. */
export const REFUSED = 'nobody@example.com';

/** Control characters of a message must not reach the terminal. */
export function printable(text: string): string {
  // oxlint-disable-next-line no-control-regex -- they are what is looked for
  return text.replace(/[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]/g, '·');
}

export class TestMilter extends MilterProtocol {
  static readonly module = import.meta.url;

  #subject = '';
  #bytes = 0;

  override connect(hostname: string, family: Family, ip: string, port: number, cmdDict: MacroDict) {
    this.log('connect', `${hostname} [${ip}] port ${port}, family ${family}, macros ${JSON.stringify(cmdDict)}`);
  }

  override helo(heloname: string) {
    this.log('helo', heloname);
  }

  override mailFrom(frAddr: string, _cmdDict: MacroDict, args: readonly string[]) {
    this.#subject = '';
    this.#bytes = 0;
    this.log('mailFrom', [frAddr, ...args].join(' '));
  }

  override rcpt(recip: string, _cmdDict: MacroDict, args: readonly string[]) {
    this.log('rcpt', [recip, ...args].join(' '));
    if (bareAddress(recip) === REFUSED) return this.setReply(550, '5.1.1', 'There is nobody here of that name');
    return CONTINUE;
  }

  override data() {
    this.log('data', `queue id ${this.macro('i') ?? 'not known yet'}`);
  }

  override header(key: string, val: string) {
    this.log('header', `${key}: ${val.replace(/\n\s+/g, ' ')}`);
    if (key.toLowerCase() === 'subject') this.#subject = val;
  }

  override eoh() {
    this.log('eoh', '');
  }

  override body(chunk: Buffer) {
    this.#bytes += chunk.length;
    this.log('body', `${chunk.length} bytes`);
  }

  override eob() {
    this.log('eob', `${this.#bytes} bytes of body in all`);
    if (this.#subject !== '') this.chgHeader('Subject', `[tested] ${this.#subject}`);
    this.addHeader('X-Test-Milter', `${this.#bytes} bytes of body`);
    return ACCEPT;
  }

  override unknown(line: string) {
    this.log('unknown', line);
  }

  override abort(interrupted: boolean) {
    this.log('abort', interrupted ? 'the message was cut short' : 'after a complete message');
  }

  override close() {
    this.log('close', '');
  }

  private log(callback: string, what: string): void {
    console.log(printable(`${callback.padEnd(9)}${what}`.trimEnd()));
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const factory = new AsyncFactory(process.argv[2] ?? 'inet:8891@127.0.0.1', TestMilter, TEST_ACTIONS);
  factory.on('sessionError', (error) => console.error(`${error.code}: ${error.message}`));
  await factory.run();
  if (factory.address) console.log(`Listening on ${formatAddress(factory.address)}; Ctrl-C stops`);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void factory.close());
}
