/**
 * The edits of a message whose end is not answered yet, as packets: a worker may die before it has given them all, and
 * half of them must not reach the mail server. A body that is large goes to a file like that of a stream.
 */
import { PassThrough } from 'node:stream';
import { Framer } from '../codec/framer.js';
import { Spool } from '../session/spool.js';
import { Pieces } from './pieces.js';

export class HeldEdits {
  readonly #limit: number;
  readonly #drained: () => void;
  #body: Buffer[] = [];
  #rest: Buffer[] = [];
  #bytes = 0;
  #input: PassThrough | undefined;
  #spool: Spool | undefined;

  /**
   * @param limit how much of a body is kept in memory, in bytes
   * @param drained called when there is room again after add() has said that there is none
   */
  constructor(limit: number, drained: () => void) {
    this.#limit = limit;
    this.#drained = drained;
  }

  get empty(): boolean {
    return this.#body.length === 0 && this.#rest.length === 0 && this.#spool === undefined;
  }

  /** Takes a packet. False: wait for `drained` before the next one. */
  add(packet: Buffer, isBody: boolean): boolean {
    if (!isBody) {
      this.#rest.push(packet);
      return true;
    }
    this.#bytes += packet.length;
    if (this.#input === undefined && this.#bytes <= this.#limit) {
      this.#body.push(packet);
      return true;
    }
    const input = (this.#input ??= this.#openSpool());
    return input.write(packet) || input.destroyed; // the file cannot be written: chunks() will say so
  }

  /** Everything, if it is in memory; it is empty then. */
  take(): Buffer[] | undefined {
    if (this.#spool !== undefined) return undefined;
    const all = [...this.#body, ...this.#rest];
    this.#forget();
    return all;
  }

  /** Everything that take() does not give: whole packets, as fast as they are taken; it is empty then. */
  async *chunks(): AsyncGenerator<Buffer> {
    const spool = this.#spool as Spool;
    const framer = new Framer();
    const packets = new Pieces();
    this.#input?.end();
    await spool.ready;
    for await (const bytes of spool.chunks(65_536)) {
      framer.push(bytes, { frame: (buffer, start, end) => packets.add(buffer, start, end) });
      yield* packets.take();
    }
    yield Buffer.concat(this.#rest);
    this.discard();
  }

  discard(): void {
    this.#spool?.discard();
    this.#forget();
  }

  #forget(): void {
    this.#body = [];
    this.#rest = [];
    this.#bytes = 0;
    this.#input = undefined;
    this.#spool = undefined;
  }

  #openSpool(): PassThrough {
    const input = new PassThrough();
    const drained = (): void => {
      if (this.#input === input) this.#drained();
    };
    input.on('drain', drained).on('close', drained);
    this.#spool = new Spool(input, { spoolMemory: this.#limit });
    for (const packet of this.#body.splice(0)) input.write(packet);
    return input;
  }
}
