/**
 * One connection as the mail server sees it, without the connection itself: messages one after the other, each answer
 * awaited and compared with the only one that is right.
 *
 * Answers are compared as bytes, not decoded: the generator then costs the same whatever becomes of the codec.
 */
import { decodeReply } from 'milter-stream/codec';
import { Script, type Step } from './script.js';

/** How a conversation reaches the rest. */
export interface Line {
  send(bytes: Buffer): void;
  /** What was sent last has its answer. */
  answered?(): void;
  /** A message is through; whether another one follows. */
  more(): boolean;
  /** Begins it, now or later; missing: now. */
  next?(begin: () => void): void;
  /** These bytes are the last ones. */
  end(bytes: Buffer): void;
}

const nothing = Buffer.alloc(0);
/** The length, the code, three numbers. */
const AGREED = 4 + 1 + 12;

export class Conversation {
  /** Whether all has been said. */
  over = false;

  readonly #script: Script;
  readonly #line: Line;
  /** Undefined until the milter has answered the offer. */
  #later: readonly Step[] | undefined;
  #steps: readonly Step[] = [];
  #at = 0;
  #message = 1;
  /** What has come of an answer that is not complete. */
  #part: Buffer = nothing;

  constructor(script: Script, line: Line) {
    this.#script = script;
    this.#line = line;
  }

  start(): void {
    this.#line.send(Script.offer);
  }

  /** What is waited for, for errors. */
  get where(): string {
    if (this.over) return 'after the end';
    if (this.#later === undefined) return 'waiting for the answer to the offer';
    return `waiting for the answer to ${this.#steps[this.#at]?.what ?? '?'} of message ${this.#message}`;
  }

  /**
   * Bytes have come from the milter.
   * @throws Error when they are not what they must be
   */
  receive(chunk: Buffer): void {
    const bytes = this.#part.length === 0 ? chunk : Buffer.concat([this.#part, chunk]);
    this.#part = nothing;
    if (this.over) throw new Error(`${show(bytes)} came ${this.where}`);
    if (this.#later === undefined) this.#agree(bytes);
    else this.#answered(bytes, (this.#steps[this.#at] as Step).answer);
  }

  #agree(bytes: Buffer): void {
    if (bytes.length < AGREED) {
      this.#part = bytes;
      return;
    }
    const reply = decode(bytes);
    if (reply?.type !== 'negotiate') throw this.#unexpected(bytes);
    const { first, later } = this.#script.steps(reply.protocol);
    this.#later = later;
    this.#begin(first);
  }

  #answered(bytes: Buffer, answer: Buffer): void {
    if (bytes.equals(answer)) this.#next();
    else if (bytes.length < answer.length && bytes.equals(answer.subarray(0, bytes.length))) this.#part = bytes;
    else throw this.#unexpected(bytes);
  }

  #next(): void {
    this.#line.answered?.();
    const step = this.#steps[++this.#at];
    if (step !== undefined) {
      this.#line.send(step.bytes);
    } else if (this.#line.more()) {
      this.#message++;
      if (this.#line.next === undefined) this.#again();
      else this.#line.next(this.#again);
    } else {
      this.over = true;
      this.#line.end(Script.quit);
    }
  }

  readonly #again = (): void => this.#begin(this.#later as readonly Step[]);

  #begin(steps: readonly Step[]): void {
    this.#steps = steps;
    this.#at = 0;
    this.#line.send((steps[0] as Step).bytes);
  }

  #unexpected(bytes: Buffer): Error {
    return new Error(`unexpected answer: ${show(bytes)} while ${this.where}`);
  }
}

function decode(bytes: Buffer): ReturnType<typeof decodeReply> | undefined {
  try {
    return decodeReply(bytes.subarray(0, 4 + bytes.readUInt32BE(0)));
  } catch {
    return undefined;
  }
}

/** The first of the answers in there, as a human reads it. */
function show(bytes: Buffer): string {
  const reply = decode(bytes);
  if (reply === undefined) return `bytes ${bytes.subarray(0, 32).toString('hex')}`;
  return JSON.stringify(reply, (key, value: unknown) => (key === 'raw' ? undefined : value));
}
