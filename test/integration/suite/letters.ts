// Messages as they go out and as they arrive. Text is latin1 throughout: a character is a byte.
import type { SinkMessage } from '../../helpers/sink.js';
import type { SmtpClient, SmtpReply } from '../../helpers/smtp.js';

/** Stands for the header that a mail server puts on top of what it hands on. */
export const OWN_RECEIVED = 'Received: (its own)';

/** With everything that Sendmail would add if it were missing. */
export const HEAD: readonly string[] = [
  'From: Anna <anna@example.org>',
  'To: Berta <berta@example.net>',
  'Subject: one',
  'Date: Sat, 01 Jan 2000 12:00:00 +0000',
  'Message-Id: <1@example.org>',
];

export const BODY = 'Hello Berta,\r\n.\r\n..\r\nbye\r\n';

export function letter(head: readonly string[] = HEAD, body: string | Buffer = BODY): Buffer {
  const text = Buffer.isBuffer(body) ? body : Buffer.from(body, 'latin1');
  return Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\n\r\n`, 'latin1'), text]);
}

/** A body with lines of many lengths, dots in front of some, and every byte that may be in a line. */
export function longBody(bytes: number): Buffer {
  let text = '';
  for (let line = 0; text.length < bytes; line++) {
    text += '.'.repeat(line % 3);
    for (let at = 0; at < (line * 37) % 500; at++) text += String.fromCharCode(32 + ((line + at) % 224));
    text += '\r\n';
  }
  const cut = text.slice(0, Math.max(bytes - 2, 0)).replace(/\r$/, '.');
  return Buffer.from(bytes === 0 ? '' : `${cut}\r\n`, 'latin1');
}

/** What arrived, its headers apart (with their CRLF where they are folded), the server's own Received named. */
export function opened({ data }: SinkMessage): { head: string[]; body: string } {
  const text = data.toString('latin1');
  const [head = '', ...rest] = text.split('\r\n\r\n');
  const lines = (rest.length === 0 ? text.replace(/\r\n$/, '') : head).split(/\r\n(?![ \t])/);
  return { head: lines.map((line) => (isOwn(line) ? OWN_RECEIVED : line)), body: rest.join('\r\n\r\n') };
}

/** The bytes below the server's own Received, which must be on top. */
export function belowReceived({ data }: SinkMessage): Buffer {
  const [first = ''] = data.toString('latin1').split(/(?<=\r\n)(?![ \t])/, 1);
  if (!isOwn(first)) throw new Error(`no Received of the server's own on top, but ${JSON.stringify(first)}`);
  return data.subarray(first.length);
}

export function isOwn(line: string): boolean {
  return /^Received: (from [^]*\s)?by (postfix|sendmail)\.example\.test\s/.test(line);
}

/** The value of a header, of which there must be one. */
export function headerOf(message: SinkMessage, name: string): string {
  const lines = opened(message).head.filter((line) => line.startsWith(`${name}: `));
  if (lines.length !== 1) throw new Error(`${lines.length} headers ${name} in ${message.data.toString('latin1')}`);
  return (lines[0] as string).slice(name.length + 2);
}

export interface Envelope {
  from?: string;
  to?: readonly string[];
}

/** Hands a message in, none of it refused before its end. Gives the reply to the final dot. */
export async function send(client: SmtpClient, data: Buffer = letter(), envelope: Envelope = {}): Promise<SmtpReply> {
  const { from = '<anna@example.org>', to = ['<berta@example.net>'] } = envelope;
  await good(client, `MAIL FROM:${from}`, 250);
  for (const address of to) await good(client, `RCPT TO:${address}`, 250);
  await good(client, 'DATA', 354);
  return client.message(data);
}

/** Says a command, which must be answered like this. */
export async function good(client: SmtpClient, command: string, code = 250): Promise<SmtpReply> {
  const reply = await client.command(Buffer.from(command));
  if (reply.code !== code) throw new Error(`${command}: ${reply.code} ${reply.text}`);
  return reply;
}

/** The queue id that both servers name when they take a message. */
export function queueId({ code, text }: SmtpReply): string {
  const [, id] = /^2\.0\.0 (?:Ok: queued as )?(\w{8,})/.exec(text) ?? [];
  if (code !== 250 || id === undefined) throw new Error(`not taken: ${code} ${text}`);
  return id;
}
