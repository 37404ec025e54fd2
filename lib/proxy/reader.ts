/**
 * One direction of a proxy, up to the point where its bytes are packets no more: then what is left is handed on as bytes,
 * so that nothing is lost that has been read.
 */
import { MilterError } from '../errors.js';
import type { PacketSink, Parser } from '../codec/parser.js';
import type { OddPacket } from '../codec/parser.js';
import type { PacketBase } from '../codec/table.js';
import { HookedLane } from './hooked.js';
import { Lane, type Route } from './lane.js';

/** Bytes that are no packets. */
export class NoPackets {
  readonly bytes: Buffer;
  readonly error: MilterError;

  constructor(bytes: Buffer, error: MilterError) {
    this.bytes = bytes;
    this.error = error;
  }
}

/** The most bytes of a packet that come before one can know that it is none: its length but one. */
const HISTORY = 3;

export abstract class Reader {
  #received = 0;
  readonly #history = Buffer.alloc(HISTORY);

  /** Enough is waiting: no more, please. */
  abstract readonly full: boolean;

  /** Handles nothing any more. */
  abstract close(): void;

  /** What has come of a packet that is not whole yet. */
  abstract unfinished(): Buffer;

  /** @throws MilterError what is no packet */
  protected abstract read(chunk: Buffer, length: number, reused: boolean): void;

  /** @returns what is left when the bytes are no packets */
  push(chunk: Buffer, length: number, reused: boolean): NoPackets | undefined {
    try {
      this.read(chunk, length, reused);
    } catch (error) {
      if (!isFraming(error)) throw error;
      return new NoPackets(this.#left(chunk.subarray(0, length), error), error);
    }
    this.#received += length;
    if (length >= HISTORY) chunk.copy(this.#history, 0, length - HISTORY, length);
    else this.#shift(chunk.subarray(0, length));
    return undefined;
  }

  #shift(bytes: Buffer): void {
    this.#history.copyWithin(0, bytes.length);
    bytes.copy(this.#history, HISTORY - bytes.length);
  }

  /** From the beginning of what is no packet; a copy. */
  #left(chunk: Buffer, { offset = this.#received }: MilterError): Buffer {
    const at = offset - this.#received;
    if (at >= 0) return Buffer.from(chunk.subarray(at));
    return Buffer.concat([this.#history.subarray(at), chunk]);
  }
}

/** Not what a listener of the proxy's events has thrown. */
function isFraming(error: unknown): error is MilterError {
  if (!(error instanceof MilterError)) return false;
  return error.code === 'ERR_MILTER_EMPTY_PACKET' || error.code === 'ERR_MILTER_PACKET_TOO_LARGE';
}

/** Whole packets, as they are. */
export class PlainReader extends Reader {
  readonly full = false;
  readonly #lane: Lane;

  constructor(maxPayload: number | undefined, route: Route, forward: (bytes: Buffer) => void) {
    super();
    this.#lane = new Lane(maxPayload, route, forward);
  }

  protected read(chunk: Buffer, length: number, reused: boolean): void {
    this.#lane.push(chunk, length, reused);
  }

  unfinished(): Buffer {
    return this.#lane.unfinished();
  }

  close(): void {}
}

/** Packet by packet, past a hook that may take its time. */
export class HookedReader<P extends PacketBase> extends Reader {
  readonly #parser: Parser<P>;
  readonly #lane: HookedLane<P | OddPacket>;
  readonly #sink: PacketSink<P | OddPacket>;

  /** @param idle everything has been handled: more is welcome */
  constructor(parser: Parser<P>, handle: (packet: P | OddPacket) => PromiseLike<void> | void, idle: () => void) {
    super();
    this.#parser = parser;
    this.#lane = new HookedLane(handle, idle);
    this.#sink = this.#lane;
  }

  get full(): boolean {
    return this.#lane.full;
  }

  protected read(chunk: Buffer, length: number): void {
    this.#parser.parse(chunk, this.#sink, length);
  }

  unfinished(): Buffer {
    return this.#parser.unfinished();
  }

  /** What comes behind the packets that wait. */
  after(act: () => void, length?: number): void {
    this.#lane.after(act, length);
  }

  close(): void {
    this.#lane.close();
  }
}
