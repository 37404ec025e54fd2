/**
 * What a worker that takes over a connection must hear first: the offer, and the CONNECT and HELO of the SMTP session
 * with their macros. And the macros that came for the command which is due next: they travel with it.
 */
import type { Stage } from '../stages.js';

/** A packet, as a part of a buffer. */
export interface Frame {
  readonly buffer: Buffer;
  readonly start: number;
  readonly end: number;
}

const STAGES = ['negotiate', 'connect', 'helo'] as const;

/** What is repeated for a new worker. */
export type Repeated = (typeof STAGES)[number];

export class Memo {
  /** Everything that has been sent while nothing was agreed. */
  readonly #beforeAgreement: Buffer[] = [];
  readonly #commands = new Map<Repeated, Buffer>();
  readonly #macros = new Map<Repeated, Buffer>();
  /** By letter: a packet replaces the one before. */
  #pending = new Map<number, Frame>();

  /** The offer, as it came. */
  get offer(): Buffer {
    return this.#commands.get('negotiate') as Buffer;
  }

  get beforeAgreement(): readonly Buffer[] {
    return this.#beforeAgreement;
  }

  addBeforeAgreement(bytes: Buffer): void {
    this.#beforeAgreement.push(Buffer.from(bytes));
  }

  /** A macro packet: it waits for its command. */
  macros(frame: Frame): void {
    const letter = frame.buffer[frame.start + 5] ?? 0;
    this.#pending.delete(letter); // so that the new one is the last
    this.#pending.set(letter, frame);
    if (letter === 0x43)
      this.#macros.set('connect', copy(frame)); // C
    else if (letter === 0x48) this.#macros.set('helo', copy(frame)); // H
  }

  /** The macros that travel with the command that has come. */
  takeMacros(): Frame[] {
    if (this.#pending.size === 0) return [];
    const frames = [...this.#pending.values()];
    this.#pending = new Map();
    return frames;
  }

  /** The chunk they came in is at its end. */
  keepMacros(): void {
    for (const [letter, frame] of this.#pending) {
      const buffer = copy(frame);
      this.#pending.set(letter, { buffer, start: 0, end: buffer.length });
    }
  }

  command(type: Stage | 'negotiate', frame: Frame): void {
    if (type === 'negotiate' || type === 'connect' || type === 'helo') this.#commands.set(type, copy(frame));
  }

  /** QUIT_NC: another SMTP session begins. */
  nextConnection(): void {
    for (const type of ['connect', 'helo'] as const) {
      this.#commands.delete(type);
      this.#macros.delete(type);
    }
  }

  /** What comes before a command, as bytes and by name. */
  before(command: string | undefined): { bytes: Buffer[]; stages: Repeated[] } {
    const bytes: Buffer[] = [];
    const stages: Repeated[] = [];
    for (const type of STAGES) {
      if (type === command) break;
      const macros = this.#macros.get(type);
      if (macros !== undefined) bytes.push(macros);
      const frame = this.#commands.get(type);
      if (frame === undefined) continue;
      bytes.push(frame);
      stages.push(type);
    }
    return { bytes, stages };
  }
}

function copy({ buffer, start, end }: Frame): Buffer {
  return Buffer.from(buffer.subarray(start, end));
}
