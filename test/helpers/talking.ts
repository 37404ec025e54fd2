/** Both ends of an SMTP server: a milter behind it that a test can see through, and what SMTP clients say and hear. */
import type { Test } from 'tap';
import {
  AsyncFactory,
  formatAddress,
  MilterProtocol,
  SMFIF_ALLOPTS,
  type MacroDict,
  type Result,
} from '../../lib/index.js';
import { gate } from './milter.js';
import { connectSmtp, type SmtpClient } from './smtp.js';

export type Stage = 'connect' | 'helo' | 'mailFrom' | 'rcpt' | 'data' | 'header' | 'eoh' | 'body' | 'eob' | 'unknown';

/** What the milter says where; everywhere else it goes on. */
export type Says = Partial<Record<Stage, (milter: MilterProtocol, text: string) => Result>>;

export interface Milter {
  readonly socket: string;
  /** What it heard, one line each. */
  readonly heard: string[];
  /** The macros that came with each stage, the last time. */
  readonly macros: Map<Stage, MacroDict>;
  /** Resolves when its session is over. */
  readonly closed: Promise<void>;
  readonly close: () => Promise<void>;
}

export async function startMilter(t: Test, says: Says = {}): Promise<Milter> {
  const heard: string[] = [];
  const macros = new Map<Stage, MacroDict>();
  const { promise: closed, open: over } = gate();
  class Talking extends MilterProtocol {
    #hear(stage: Stage, text = '', dict?: MacroDict): Result {
      heard.push(`${stage} ${text}`.trim());
      if (dict !== undefined) macros.set(stage, dict);
      return says[stage]?.(this, text);
    }
    override connect(hostname: string, family: string, ip: string, _port: number, dict: MacroDict) {
      return this.#hear('connect', `${hostname} ${family} ${ip}`, dict);
    }
    override helo(name: string) {
      return this.#hear('helo', name);
    }
    override mailFrom(address: string, dict: MacroDict, args: readonly string[]) {
      return this.#hear('mailFrom', [address, ...args].join(' '), dict);
    }
    override rcpt(address: string, dict: MacroDict, args: readonly string[]) {
      return this.#hear('rcpt', [address, ...args].join(' '), dict);
    }
    override data(dict: MacroDict) {
      return this.#hear('data', '', dict);
    }
    override header(name: string, value: string) {
      return this.#hear('header', `${name}:${value}`);
    }
    override eoh() {
      return this.#hear('eoh');
    }
    override body(chunk: Buffer) {
      return this.#hear('body', String(chunk.length));
    }
    override eob(dict: MacroDict) {
      return this.#hear('eob', '', dict);
    }
    override unknown(line: string) {
      return this.#hear('unknown', line);
    }
    override abort(interrupted: boolean) {
      heard.push(`abort${interrupted ? ' early' : ''}`);
    }
    override close() {
      heard.push('close');
      over();
    }
  }
  const factory = new AsyncFactory('inet:0@127.0.0.1', Talking, SMFIF_ALLOPTS);
  await factory.run();
  t.teardown(() => factory.close());
  return { socket: formatAddress(factory.address!), heard, macros, closed, close: () => factory.close() };
}

export const MESSAGE = Buffer.from('Subject: one\r\n\r\nbody\r\n');

/** `code` with `-` or a space, and the words: the lines as they were on the wire. */
export async function said(...replies: ReadonlyArray<Promise<{ code: number; lines: string[] }>>): Promise<string[]> {
  const lines: string[] = [];
  for (const reply of replies) {
    const { code, lines: texts } = await reply;
    lines.push(...texts.map((text, i) => `${code}${i < texts.length - 1 ? '-' : ' '}${text}`));
  }
  return lines;
}

export async function connected(t: Test, port: number): Promise<SmtpClient> {
  const client = await connectSmtp(port);
  t.teardown(() => client.destroy());
  return client;
}

export async function greeted(t: Test, port: number): Promise<SmtpClient> {
  const client = await connected(t, port);
  await client.command('EHLO client.example.org');
  return client;
}

/** MAIL and RCPT, which are taken. */
export async function addressed(client: SmtpClient): Promise<void> {
  await client.command('MAIL FROM:<a@example.org>');
  await client.command('RCPT TO:<b@example.com>');
}

/** A whole message. @returns the reply to its last dot */
export async function send(client: SmtpClient, message = MESSAGE): Promise<string[]> {
  await addressed(client);
  await client.command('DATA');
  return said(client.message(message));
}
