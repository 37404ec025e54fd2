// The next hop: takes every message and keeps it as it came, so that a test can compare bytes.

import { EventEmitter, once } from 'node:events';
import type { AddressInfo, Socket } from 'node:net';

import { SMTPServer } from 'smtp-server';
import type { SMTPServerAddress, SMTPServerSession } from 'smtp-server';

const NEXT_TIMEOUT = 30_000;

export type EsmtpArgs = Record<string, string | true>;

export interface SinkMessage {
  /** '' for the null sender. */
  mailFrom: string;
  rcptTo: string[];
  /** Byte for byte what followed DATA, dots unstuffed, up to and with the last CRLF. */
  data: Buffer;
  /** The parameters of MAIL, keys in upper case, xtext decoded. */
  mailArgs: EsmtpArgs;
  /** Those of each RCPT, in the order of `rcptTo`. */
  rcptArgs: EsmtpArgs[];
}

export interface Sink {
  port: number;
  /** Everything received so far, taken or not. */
  messages: readonly SinkMessage[];
  /** The oldest message not taken yet. Waits for one, and rejects after 30 s. */
  next(): Promise<SinkMessage>;
  /** Resolves once no client is connected: what was on its way is here by then, or never will be. */
  idle(): Promise<void>;
  close(): Promise<void>;
}

export async function startSink(): Promise<Sink> {
  const messages: SinkMessage[] = [];
  const untaken: SinkMessage[] = [];
  const arrivals = new EventEmitter().setMaxListeners(0);
  const open = new Set<Socket>();
  const waiting = new Set<AbortController>();

  const server = new SMTPServer({
    authOptional: true,
    disabledCommands: ['AUTH', 'STARTTLS'],
    disableReverseLookup: true,
    hideDSN: false,
    // Whether an address is a good one is for the test to say.
    lenientAddressParsing: true,
    logger: false,
    closeTimeout: 500,
    onData(stream, session, callback) {
      const chunks: Buffer[] = [];
      stream.on('data', (chunk: Buffer) => chunks.push(chunk));
      // A message that breaks off has no end, and doesn't count.
      stream.on('end', () => {
        const message = { ...envelope(session), data: Buffer.concat(chunks) };
        messages.push(message);
        untaken.push(message);
        arrivals.emit('message');
        callback();
      });
    },
  });
  // A client that breaks off is the business of the test that made it do so.
  server.on('error', () => {});
  server.server.on('connection', (socket) => {
    open.add(socket);
    socket.once('close', () => open.delete(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server.server, 'listening');

  const received = (): string =>
    messages.map((message) => `<${message.mailFrom}> to <${message.rcptTo.join('>, <')}>`).join('; ') || 'nothing';

  return {
    port: (server.server.address() as AddressInfo).port,
    messages,

    async next() {
      const patience = new AbortController();
      const timer = setTimeout(() => patience.abort(`no message within ${NEXT_TIMEOUT / 1000} s`), NEXT_TIMEOUT);
      waiting.add(patience);
      try {
        for (;;) {
          const message = untaken.shift();
          if (message) return message;
          await once(arrivals, 'message', { signal: patience.signal });
        }
      } catch {
        throw new Error(`${String(patience.signal.reason)}; received so far: ${received()}`);
      } finally {
        clearTimeout(timer);
        waiting.delete(patience);
      }
    },

    async idle() {
      while (open.size > 0) await Promise.all([...open].map((socket) => once(socket, 'close')));
    },

    async close() {
      for (const patience of waiting) patience.abort('the sink was closed');
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
    },
  };
}

function envelope(session: SMTPServerSession): Omit<SinkMessage, 'data'> {
  const { mailFrom, rcptTo } = session.envelope;
  return {
    mailFrom: mailFrom ? mailFrom.address : '',
    rcptTo: rcptTo.map((recipient) => recipient.address),
    mailArgs: mailFrom ? esmtpArgs(mailFrom) : {},
    rcptArgs: rcptTo.map(esmtpArgs),
  };
}

function esmtpArgs(address: SMTPServerAddress): EsmtpArgs {
  return { ...address.args };
}
