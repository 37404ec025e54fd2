/**
 * A TCP connection out of its segments, in whatever order, cut and repetition they were captured. Both directions are one
 * conversation, so a segment is held back until what it acknowledges has been handed on: an answer never comes before its
 * question, however the capture has it.
 *
 * What is missing may still come. It is given up when its receiver says that it has it and PATIENCE more segments have
 * gone by, when more than MAX_HELD bytes wait behind it, and at the end.
 */
import { isOffer } from './direction.js';
import { owned, portionsOf } from './portions.js';
import { Half, type Piece } from './stream-half.js';
import type { Segment } from './segment.js';
import { nameOf } from './show.js';
import type { CaptureEvent, Endpoint, Side } from './types.js';

/** How many segments something that is out of order may come late. */
const PATIENCE = 64;
/** How much of one connection may wait, in bytes. */
const MAX_HELD = 4 * 1024 * 1024;

/** What a file of this library's own says of a connection. */
export interface FlowName {
  readonly session: string;
  /** Who sent the segment that says so. */
  readonly from: Side;
  readonly mta?: Endpoint;
  readonly milter?: Endpoint;
}

type Index = 0 | 1;

const other = (index: Index): Index => (index === 0 ? 1 : 0);

export class Flow {
  readonly session: string;
  /** The connection is over, and everything of it was handed on. */
  closed = false;
  readonly #halves: readonly [Half, Half];
  readonly #name: FlowName | undefined;
  readonly #port: number | undefined;
  #mta: Index | undefined;
  #opened = false;
  /** The beginning of what the mail server says was not seen. */
  #late = false;
  #begunLate = false;
  readonly #synSeen = [false, false];
  readonly #start: number;
  #time: number;
  #firstSyn: number | undefined;
  #causal = true;
  #waited = 0;
  #closedBy: Index | undefined;
  #events: CaptureEvent[] = [];

  /**
   * @param first the segment that shows that there is a connection; its sender is index 0
   * @param port of the milter, where that is known
   */
  constructor(session: string, first: Segment, name: FlowName | undefined, port: number | undefined) {
    this.session = session;
    this.#halves = [new Half(first.source), new Half(first.destination)];
    this.#name = name;
    this.#port = port;
    this.#start = first.time;
    this.#time = first.time;
    if (name !== undefined) this.#mta = name.from === 'mta' ? 0 : 1;
  }

  /** Whether a SYN begins another connection between the same ends: this one had another, or was in its middle. */
  isOver(segment: Segment): boolean {
    if (!segment.syn || segment.ack !== undefined) return false;
    return this.#firstSyn === undefined ? this.closed || this.#begunLate : this.#firstSyn !== segment.seq;
  }

  /** What a segment, sent by an end, leads to. Not to be called when it is closed. */
  take(segment: Segment, index: Index, error?: string): CaptureEvent[] {
    const half = this.#halves[index];
    const peer = this.#halves[other(index)];
    const needs = segment.ack === undefined ? -Infinity : peer.positionOf(segment.ack);
    peer.acknowledged = Math.max(peer.acknowledged, needs);
    let position = half.positionOf(segment.seq);
    if (segment.syn) {
      position++;
      half.next ??= position;
      this.#synSeen[index] = true;
      if (segment.ack === undefined) this.#firstSyn = segment.seq;
      this.#mta ??= segment.ack === undefined ? index : other(index);
    }
    const { data, size, time, fin } = segment;
    this.#time = time;
    const isDue = !this.#waits && position === half.next && (!this.#causal || needs <= (peer.next ?? -1));
    if (data.length > 0) half.hold({ position, time, bytes: isDue ? data : owned(data), fin: false, needs });
    if (fin) half.hold({ position: position + size, time, bytes: data.subarray(0, 0), fin: true, needs });
    this.#release();
    if (segment.rst) {
      this.#giveUp();
      this.#open(index);
      if (!this.closed) this.#close(time, index, error ?? `reset by ${nameOf(this.#sideOf(index))}`);
    } else if (this.#waits) {
      const tooMuch = this.held > MAX_HELD;
      if (++this.#waited > PATIENCE || tooMuch) this.#escalate(tooMuch);
    }
    return this.#given();
  }

  /** Waits no longer for anything. */
  finish(): CaptureEvent[] {
    this.#giveUp();
    return this.#given();
  }

  /** Another connection takes its place. */
  replace(): CaptureEvent[] {
    const events = this.finish();
    if (this.closed || !this.#opened) return events;
    const { session } = this;
    return [...events, { type: 'close', session, time: this.#time, error: 'its end is not in the capture' }];
  }

  /** How much of it waits, in bytes. */
  get held(): number {
    return this.#halves[0].cost + this.#halves[1].cost;
  }

  get #waits(): boolean {
    return this.#halves[0].first !== undefined || this.#halves[1].first !== undefined;
  }

  /** What has come of it. It isn't kept: a piece of the file would stay in memory as long as the connection is open. */
  #given(): CaptureEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }

  #giveUp(): void {
    while (this.#waits && this.#escalate(true));
  }

  /** Hands on whatever is due. */
  #release(): void {
    for (let index: Index = 0, idle = 0; idle < 2; index = other(index)) {
      const due = this.#due(index);
      idle = due ? 0 : idle + 1;
      if (due) this.#handOn(index);
    }
  }

  #due(index: Index): boolean {
    const half = this.#halves[index];
    const { first, next } = half;
    if (first === undefined || next === undefined || first.position > next) return false;
    return !this.#causal || first.needs <= (this.#halves[other(index)].next ?? -1);
  }

  #handOn(index: Index): void {
    const piece = this.#halves[index].shift();
    this.#waited = 0;
    if (piece.bytes.length > 0) this.#data(index, piece);
    if (!piece.fin) return;
    this.#halves[index].ended = true;
    this.#closedBy ??= index;
    if (this.#halves[other(index)].ended) this.#close(piece.time, this.#closedBy);
  }

  /**
   * Gives up the first thing that is being waited for; returns whether there was any.
   * @param all also what its receiver may lack, too
   */
  #escalate(all: boolean): boolean {
    const given = this.#beginLate() || this.#skipGap(0, all) || this.#skipGap(1, all) || this.#forgetOrder();
    if (given) this.#release();
    return given;
  }

  #beginLate(): boolean {
    const begun = this.#halves.map((half) => half.beginLate());
    if (!begun.includes(true)) return false;
    this.#begunLate = true;
    this.#late = this.#mta === undefined || (begun[this.#mta] === true && !(this.#synSeen[this.#mta] as boolean));
    return true;
  }

  #skipGap(index: Index, all: boolean): boolean {
    const half = this.#halves[index];
    const { first } = half;
    const next = half.next as number;
    const known = half.acknowledged > next;
    if (first === undefined ? !known : first.position <= next || !(known || all)) return false;
    const end = first?.position ?? half.acknowledged;
    this.#gap(index, first?.time ?? this.#time, end - next);
    half.next = end;
    return true;
  }

  /** A segment that has come waits for another: they wait for each other, or one direction was not captured. */
  #forgetOrder(): boolean {
    const blocked = this.#halves.some(({ first, next }) => first !== undefined && first.position <= (next as number));
    if (!this.#causal || !blocked) return false;
    this.#causal = false;
    return true;
  }

  // ---- events -------------------------------------------------------------------------------------------------------

  #data(index: Index, { bytes, time }: Piece): void {
    this.#open(index, bytes);
    const from = this.#sideOf(index);
    for (const portion of portionsOf(bytes)) {
      this.#events.push({ type: 'data', session: this.session, time, from, bytes: portion });
    }
  }

  #gap(index: Index, time: number, missing: number): void {
    this.#open(index);
    this.#events.push({ type: 'gap', session: this.session, time, from: this.#sideOf(index), missing });
  }

  #close(time: number, index: Index, error?: string): void {
    this.#open(index);
    this.closed = true;
    for (const half of this.#halves) half.drop();
    const from = this.#sideOf(index);
    this.#events.push({ type: 'close', session: this.session, time, from, ...(error !== undefined && { error }) });
  }

  /** Tells of the connection before anything of it. */
  #open(index: Index, bytes?: Buffer): void {
    if (this.#opened) return;
    this.#opened = true;
    this.#mta = this.#whoIsMta(index, bytes);
    const ends = {
      mta: this.#name?.mta ?? this.#halves[this.#mta].endpoint,
      milter: this.#name?.milter ?? this.#halves[other(this.#mta)].endpoint,
    };
    const late = this.#late ? ({ late: true } as const) : {};
    this.#events.push({ type: 'open', session: this.session, time: this.#start, ...ends, ...late });
  }

  /** By the port that was given, else by who connected, else by who makes an offer, else by the lower port. */
  #whoIsMta(index: Index, bytes: Buffer | undefined): Index {
    const ports = this.#halves.map((half) => half.endpoint.port) as [number, number];
    if (this.#port !== undefined && ports[0] !== ports[1]) return ports[0] === this.#port ? 1 : 0;
    if (this.#mta !== undefined) return this.#mta;
    if (bytes !== undefined && bytes.length >= 5 && isOffer(bytes)) return index;
    return ports[0] < ports[1] ? 1 : 0;
  }

  #sideOf(index: Index): Side {
    return index === this.#mta ? 'mta' : 'milter';
  }
}
