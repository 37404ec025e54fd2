import type { MilterProtocol } from 'milter-stream';
import type { Sums } from './message.js';

export interface CounterContext {
  readonly sums: Sums;
  readonly addsHeader?: boolean;
  /** How long eob() computes, in ms. */
  readonly burn?: number;
}

export declare class Counter extends MilterProtocol<CounterContext> {
  static module: string;
}

export declare class QuietCounter extends Counter {
  static noReply: string[];
}
