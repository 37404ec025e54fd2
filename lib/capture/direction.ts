/**
 * One side's bytes, cut into packets for as long as that is possible. What is behind an error of framing is not
 * searched for a packet: any four bytes may be a length.
 */
import { guessPeer } from '../codec/guess.js';
import { commandParser, replyParser, type OddPacket, type PacketSink, type Parser } from '../codec/parser.js';
import type { Command } from '../codec/commands.js';
import type { Reply } from '../codec/replies.js';
import { MILTER_MDS_1M, SMFIC_OPTNEG } from '../constants.js';
import type { MilterError } from '../errors.js';
import type { Side } from './types.js';

export type AnyPacket = Command | Reply | OddPacket;

/** Bytes that are no packets. */
export interface Garbage {
  readonly text: string;
  readonly bytes: Buffer;
}

/** Takes what is found, in its order. */
export interface Finder {
  found(packet: AnyPacket, raw: Buffer, offset: number): void;
}

/** Length and code: enough to see whether something is an offer. */
const HEAD = 5;
const nothing = Buffer.alloc(0);

export class Direction implements PacketSink<AnyPacket> {
  readonly #parser: Parser<Command> | Parser<Reply>;
  #finder: Finder | undefined;
  /** Whether the first packet has to be an offer, or the answer to one. */
  #expectsOffer: boolean;
  #lost = false;
  #received = 0;
  #offset = 0;
  /** What has come of the packet that is not complete; memory of its own, with room behind it. */
  #torn = nothing;
  #tornSize = 0;

  constructor(side: Side, expectsOffer: boolean, maxPayload: number = MILTER_MDS_1M) {
    const options = { lenient: true, maxPayload };
    this.#parser = side === 'mta' ? commandParser(options) : replyParser(options);
    this.#expectsOffer = expectsOffer;
  }

  /** Gives the packets that end in these bytes to the finder; returns what can't be told apart. */
  take(bytes: Buffer, finder: Finder): Garbage | undefined {
    if (this.#lost) return { text: 'Not synchronised', bytes };
    if (this.#expectsOffer) return this.#takeHead(bytes, finder);
    const tornBefore = this.#tornSize;
    this.#received += bytes.length;
    this.#finder = finder;
    try {
      this.#parser.parse(bytes, this);
    } catch (error) {
      const left = this.#received - this.#offset;
      const rest = left <= bytes.length ? bytes.subarray(bytes.length - left) : this.#join(bytes, tornBefore);
      this.#lose();
      return { text: `Not synchronised from here on: ${(error as MilterError).message}`, bytes: rest };
    } finally {
      this.#finder = undefined;
    }
    this.#keep(bytes);
    return undefined;
  }

  packet(packet: AnyPacket): void {
    const raw = packet.raw as Buffer;
    const offset = this.#offset;
    this.#offset += raw.length;
    (this.#finder as Finder).found(packet, raw, offset);
  }

  /** No more can be understood, since something is missing; returns what there is of a packet. */
  lose(): Buffer {
    const torn = Buffer.from(this.#torn.subarray(0, this.#tornSize));
    this.#lose();
    return torn;
  }

  #lose(): void {
    this.#lost = true;
    this.#torn = nothing;
    this.#tornSize = 0;
  }

  #takeHead(bytes: Buffer, finder: Finder): Garbage | undefined {
    const head = this.#tornSize === 0 ? bytes : this.#join(bytes, this.#tornSize);
    if (head.length < HEAD) {
      this.#torn = Buffer.from(head);
      this.#tornSize = head.length;
      return undefined;
    }
    this.#torn = nothing;
    this.#tornSize = 0;
    this.#expectsOffer = false;
    if (isOffer(head)) return this.take(head, finder);
    this.#lose();
    return { text: `Not synchronised: it does not begin with an offer${guessPeer(head.subarray(0, 32))}`, bytes: head };
  }

  /** Keeps what a packet lacks its end of: in a buffer that doubles, so that many small pieces cost no more than one. */
  #keep(bytes: Buffer): void {
    const left = this.#received - this.#offset;
    const added = Math.min(left, bytes.length);
    const had = left - added;
    if (this.#torn.length < left) {
      const torn = Buffer.allocUnsafeSlow(Math.max(left, 2 * had));
      this.#torn.copy(torn, 0, 0, had);
      this.#torn = torn;
    }
    bytes.copy(this.#torn, had, bytes.length - added);
    this.#tornSize = left;
    if (left === 0) this.#torn = nothing;
  }

  #join(bytes: Buffer, torn: number): Buffer {
    return Buffer.concat([this.#torn.subarray(0, torn), bytes]);
  }
}

/** Whether a stream begins with an offer, or the answer to one: they have the same letter, and twelve bytes or more. */
export function isOffer(head: Buffer): boolean {
  const length = head.readUInt32BE(0);
  return head[4] === SMFIC_OPTNEG && length >= 13 && length <= 1 + MILTER_MDS_1M;
}
