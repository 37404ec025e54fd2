/**
 * Writes the edits of an accepted message: the whole body first, its packets one behind the other (Postfix takes any
 * other reply in between for the end of the body), then everything else and the final reply. Body first, because where
 * a mail server passes mail on when the connection breaks, half-way must mean the old message, not new headers over it.
 */
import type { Reply } from '../codec/replies.js';
import type { BodyPart, Edits } from './edits.js';
import { chunkBytes, Spool } from './spool.js';

/** Where the packets go. */
export interface DeliveryPort {
  reply(reply: Reply): void;
  /** Writes what was gathered; false: full, call again after drained. */
  flush(): boolean;
}

/** Above this much body the packets are not written in one go but as the mail server takes them. */
const AT_ONCE = 256 * 1024;

export class Delivery {
  /** A part of the body has been written: from here on the message can only be completed or refused for now. */
  started = false;

  readonly #port: DeliveryPort;
  readonly #edits: Edits;
  readonly #maxPayload: number;
  #cancelled = false;
  #wake: (() => void) | undefined;

  constructor(port: DeliveryPort, edits: Edits, maxPayload: number) {
    this.#port = port;
    this.#edits = edits;
    this.#maxPayload = maxPayload;
  }

  /** Writes everything without waiting, where that is right; false: use run(). */
  runNow(): boolean {
    const parts = this.#edits.body;
    if (parts !== undefined) {
      const buffers = parts.filter((part) => Buffer.isBuffer(part));
      if (buffers.length < parts.length) return false;
      if (buffers.reduce((sum, part) => sum + part.length, 0) > AT_ONCE) return false;
      for (const part of buffers) for (const chunk of this.#cut(part)) this.#writeChunk(chunk);
      this.#endBody();
    }
    this.#writeRest();
    return true;
  }

  /** Waits until bodies given as streams have been read whole. */
  async prepare(): Promise<void> {
    for (const part of this.#edits.body as BodyPart[]) if (part instanceof Spool) await part.ready;
  }

  /** Writes everything, as fast as it is taken. Ends early, without an error, when cancelled. */
  async run(): Promise<void> {
    for (const part of this.#edits.body as BodyPart[]) {
      for await (const bytes of this.#piecesOf(part)) {
        for (const chunk of this.#cut(bytes)) {
          if (this.#cancelled) return;
          this.#writeChunk(chunk);
          if (!this.#port.flush()) await new Promise<void>((resolve) => (this.#wake = resolve));
        }
      }
    }
    if (this.#cancelled) return;
    this.#endBody();
    this.#writeRest();
  }

  /** What was written has been taken. */
  drained(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  /** Nothing more is to be written. */
  cancel(): void {
    this.#cancelled = true;
    this.#edits.discard();
    this.drained();
  }

  async *#piecesOf(part: BodyPart): AsyncGenerator<Buffer> {
    if (Buffer.isBuffer(part)) yield part;
    else if (part instanceof Spool) yield* part.chunks(this.#maxPayload);
    else for await (const chunk of part.live) yield chunkBytes(chunk);
  }

  *#cut(bytes: Buffer): Generator<Buffer> {
    for (let at = 0; at < bytes.length; at += this.#maxPayload) yield bytes.subarray(at, at + this.#maxPayload);
  }

  #writeChunk(chunk: Buffer): void {
    this.started = true;
    this.#port.reply({ type: 'replBody', chunk });
  }

  /** An empty body is asked for with one empty packet. */
  #endBody(): void {
    if (!this.started) this.#writeChunk(Buffer.alloc(0));
  }

  #writeRest(): void {
    for (const reply of this.#edits.replies) this.#port.reply(reply);
    this.#edits.discard();
  }
}
