/**
 * `npm run bench -- session`: whole messages through createSession() without any socket. Bytes go in and come out in
 * memory, answer by answer or with no-reply; once through the Duplex itself, and once through createDecoder(), the session's
 * two object streams and createEncoder(). The milter overrides every callback and its sums are checked.
 *
 * CPU is that of this process: what the mail server's side costs, which writes prepared bytes and compares, is in there.
 */
import { pipeline } from 'node:stream';
import { createDecoder, createEncoder, createSession, type ProtocolClass } from 'milter-stream';
import { Counter, QuietCounter, type CounterContext } from './lib/counter.mjs';
import { Conversation } from './lib/conversation.js';
import type { Group, Line } from './lib/measure.js';
import { expectedSums, USUAL } from './lib/message.js';
import { Script } from './lib/script.js';

const PER_CONNECTION = 20;
/** Connections until the compiler has done its work. */
const WARM = 50;
/** How long the messages of a connection may take, in ms. */
const STALL = 30_000;

/** Bytes in, bytes out. */
interface Wire {
  readonly input: { write(bytes: Buffer): boolean; end(bytes: Buffer): unknown };
  readonly output: NodeJS.ReadableStream;
}

type Open = (MyMilter: ProtocolClass<CounterContext>, failed: (error: Error) => void) => Wire;

const context: CounterContext = { sums: expectedSums(USUAL) };

function duplex(MyMilter: ProtocolClass<CounterContext>, failed: (error: Error) => void): Wire {
  const session = createSession(MyMilter, { context });
  session.on('error', failed).on('sessionError', failed);
  return { input: session, output: session };
}

function objects(MyMilter: ProtocolClass<CounterContext>, failed: (error: Error) => void): Wire {
  const session = createSession(MyMilter, { context });
  session.on('error', failed).on('sessionError', failed);
  const input = createDecoder();
  const output = createEncoder();
  const done = (error?: Error | null): void => {
    if (error) failed(error);
  };
  pipeline(input, session.commands, done);
  pipeline(session.replies, output, done);
  return { input, output };
}

/** A connection with its messages. */
async function converse(script: Script, MyMilter: ProtocolClass<CounterContext>, open: Open): Promise<void> {
  let stalled: NodeJS.Timeout | undefined;
  try {
    await new Promise<void>((resolve, reject) => {
      const { input, output } = open(MyMilter, reject);
      let left = PER_CONNECTION;
      const talk = new Conversation(script, {
        send: (bytes) => input.write(bytes),
        more: () => --left > 0,
        end: (bytes) => input.end(bytes),
      });
      stalled = setTimeout(() => reject(new Error(`nothing came for ${STALL / 1000} s, ${talk.where}`)), STALL);
      output.on('data', (bytes: Buffer) => {
        try {
          talk.receive(bytes);
        } catch (error) {
          reject(error);
        }
      });
      output.on('end', () => (talk.over ? resolve() : reject(new Error(`the session ended, ${talk.where}`))));
      talk.start();
    });
  } finally {
    clearTimeout(stalled);
  }
}

function line(traffic: string, what: string, MyMilter: ProtocolClass<CounterContext>, open: Open): Line {
  const script = new Script(USUAL);
  const work = (): Promise<void> => converse(script, MyMilter, open);
  return {
    traffic,
    what,
    async warm() {
      for (let i = 0; i < WARM; i++) await work();
    },
    async measure(seconds) {
      const start = performance.now();
      const before = process.cpuUsage();
      let messages = 0;
      do {
        await work();
        messages += PER_CONNECTION;
      } while (performance.now() - start < seconds * 1000);
      const { user, system } = process.cpuUsage(before);
      return {
        messagesPerSecond: (messages * 1000) / (performance.now() - start),
        cpuMicrosPerMessage: (user + system) / messages,
      };
    },
  };
}

export const session: Group = {
  name: 'session',
  about: 'messages of 20 headers, 2 recipients and 2 KB in memory, 20 a connection, one connection after the other',
  rounds: 5,
  seconds: 1,
  lines: () =>
    (
      [
        ['answered', Counter],
        ['no-reply', QuietCounter],
      ] as const
    ).flatMap(([traffic, MyMilter]) => [
      line(traffic, 'createSession()', MyMilter, duplex),
      line(traffic, 'decoder, commands/replies, encoder', MyMilter, objects),
    ]),
};
