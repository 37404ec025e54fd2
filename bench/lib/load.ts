/**
 * The mail server of the benches: sends the same message again and again over some connections, and checks each answer.
 * A wrong answer, a lost connection and a milter that falls silent are errors: what is wrong need not be fast.
 */
import { connect, type Socket } from 'node:net';
import { parseAddress } from 'milter-stream';
import { Conversation } from './conversation.js';
import type { Message } from './message.js';
import { Script } from './script.js';

/** What is sent, and how. */
export interface Traffic {
  readonly message: Message;
  readonly connections: number;
  /** Messages on a connection before the next one is opened. */
  readonly perConnection: number;
  /** Whether the milter adds a header to each message. */
  readonly addsHeader?: boolean;
  /** How long a connection waits before its next message, in ms: so much that nobody waits for a processor. Default: not. */
  readonly pause?: number;
  /** Whether latencies are those of the answers, not of whole messages. */
  readonly eachAnswer?: boolean;
}

/** When it is enough: the messages in progress are still sent. */
export interface Limit {
  readonly seconds?: number;
  readonly messages?: number;
}

export interface Load {
  readonly messages: number;
  readonly seconds: number;
  /**
   * How long each message took, in ms, in ascending order: from when it could be sent to the answer at its end. The first
   * one of a connection pays for the connection. Or how long each answer took, counted from when it was asked for.
   */
  readonly latencies: readonly number[];
}

/** How long an answer may take, in ms. */
const STALL = 30_000;

/** Sends messages until a limit is reached; each connection sends one at least. */
export async function load(address: string, traffic: Traffic, limit: Limit, stall = STALL): Promise<Load> {
  const script = new Script(traffic.message, traffic.addsHeader);
  const place = parseAddress(address, 'connect');
  const sockets = new Set<Socket>();
  /** Of whole messages. */
  const latencies: number[] = [];
  const answers: number[] = [];
  const { seconds = Infinity, messages = Infinity } = limit;
  const { pause, eachAnswer } = traffic;
  const start = performance.now();
  let failure: Error | undefined;

  const enough = (): boolean =>
    failure !== undefined || latencies.length >= messages || performance.now() - start > seconds * 1000;

  const connection = (): Promise<void> =>
    new Promise((resolve, reject) => {
      let since = performance.now();
      let asked = since;
      let left = traffic.perConnection;
      const socket = place.kind === 'unix' ? connect(place.path) : connect(place.port, place.host);
      const talk = new Conversation(script, {
        send(bytes) {
          asked = performance.now();
          socket.write(bytes);
        },
        ...(eachAnswer === true && { answered: () => void answers.push(performance.now() - asked) }),
        more() {
          const now = performance.now();
          latencies.push(now - since);
          since = now;
          return --left > 0 && !enough();
        },
        ...(pause !== undefined && {
          next: (begin: () => void) =>
            setTimeout(() => {
              since = performance.now();
              begin();
            }, pause),
        }),
        end: (bytes) => socket.end(bytes),
      });
      sockets.add(socket);
      socket.setNoDelay(true);
      socket.setTimeout(stall, () => socket.destroy(new Error(`nothing came for ${stall / 1000} s, ${talk.where}`)));
      socket.on('data', (chunk) => {
        try {
          talk.receive(chunk);
        } catch (error) {
          socket.destroy(error as Error);
        }
      });
      // A milter may close before it has read QUIT: that is no loss.
      socket.on('error', (error) => {
        const { code } = error as NodeJS.ErrnoException;
        if (code === undefined) reject(error);
        else if (!talk.over) reject(new Error(`connection lost (${code}), ${talk.where}`));
      });
      socket.on('close', () => {
        sockets.delete(socket);
        if (talk.over) resolve();
        else reject(new Error(`connection lost, ${talk.where}`));
      });
      talk.start();
    });

  const client = async (): Promise<void> => {
    try {
      do await connection();
      while (!enough());
    } catch (error) {
      failure ??= error as Error;
      for (const socket of sockets) socket.destroy();
    }
  };

  await Promise.all(Array.from({ length: traffic.connections }, client));
  if (failure !== undefined) throw failure;
  const took = (performance.now() - start) / 1000;
  const told = eachAnswer === true ? answers : latencies;
  return { messages: latencies.length, seconds: took, latencies: told.sort((a, b) => a - b) };
}
