/**
 * One direction of a proxy: bytes in, whole packets out. What is to be forwarded goes on as it came, in as few writes as
 * it came in; a torn packet waits until it is whole, so that nobody ever gets half of one.
 */
import { Framer, type FrameSink } from '../codec/framer.js';

/** @returns whether the packet is forwarded; its bytes are those of the buffer from start (the length) to end */
export type Route = (buffer: Buffer, start: number, end: number) => boolean;

export class Lane implements FrameSink {
  readonly #framer: Framer;
  readonly #route: Route;
  readonly #forward: (bytes: Buffer) => void;
  #chunk: Buffer | undefined;
  /** Where in the chunk the bytes begin that are forwarded together, and where they end. */
  #from = 0;
  #to = 0;
  #reused = false;

  constructor(maxPayload: number | undefined, route: Route, forward: (bytes: Buffer) => void) {
    this.#framer = new Framer(maxPayload);
    this.#route = route;
    this.#forward = forward;
  }

  /**
   * @param reused the chunk's memory is used again as soon as this returns
   * @throws MilterError what is no packet; what was before it has been forwarded
   */
  push(chunk: Buffer, length: number, reused: boolean): void {
    this.#chunk = chunk;
    this.#reused = reused;
    this.#from = this.#to = 0;
    try {
      this.#framer.push(chunk, this, length);
    } finally {
      this.flush();
      this.#chunk = undefined;
    }
  }

  /** What has come of a packet that is not whole yet. */
  unfinished(): Buffer {
    return this.#framer.unfinished();
  }

  /** Forwards what is due so far: for whoever has something to say in between. */
  flush(): void {
    if (this.#to === this.#from) return;
    const bytes = (this.#chunk as Buffer).subarray(this.#from, this.#to);
    this.#from = this.#to;
    this.#forward(this.#reused ? Buffer.from(bytes) : bytes);
  }

  frame(buffer: Buffer, start: number, end: number): void {
    if (buffer !== this.#chunk) {
      if (this.#route(buffer, start, end)) this.#forward(buffer); // it was torn, and has memory of its own
      return;
    }
    if (this.#route(buffer, start, end)) {
      if (this.#to !== start) {
        this.flush();
        this.#from = start;
      }
      this.#to = end;
    }
  }
}
