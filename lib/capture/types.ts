/** What is recorded of a connection between a mail server and a milter, whatever file it is kept in. */
import type { Command } from '../codec/commands.js';
import type { OddPacket } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';
import type { Stage } from '../stages.js';

/** Who said something. */
export type Side = 'mta' | 'milter';

/** One end of a connection. */
export interface Endpoint {
  /** An IP address, or the path of a Unix socket; '' where it is not known. */
  readonly address: string;
  /** 0 for a Unix socket. */
  readonly port: number;
}

/** A connection was made. */
export interface OpenEvent {
  readonly type: 'open';
  /** Which connection; unique in a capture. */
  readonly session: string;
  /** ms since 1970, with fractions. */
  readonly time: number;
  readonly mta?: Endpoint;
  readonly milter?: Endpoint;
  /** The capture begins in the middle of the connection, or may: its beginning was not seen. */
  readonly late?: true;
  /** What only one side said is known, from a packet's first byte on: nothing is held against anything. */
  readonly only?: Side;
}

/** Bytes in the order in which they came, cut anywhere. */
export interface DataEvent {
  readonly type: 'data';
  readonly session: string;
  readonly time: number;
  readonly from: Side;
  readonly bytes: Buffer;
}

/** A connection is over; `error` says why where it was not in good order. */
export interface CloseEvent {
  readonly type: 'close';
  readonly session: string;
  readonly time: number;
  /** Who closed it, where that is known. */
  readonly from?: Side;
  readonly error?: string;
}

/** Bytes of one side that the capture does not have. */
export interface GapEvent {
  readonly type: 'gap';
  readonly session: string;
  readonly time: number;
  readonly from: Side;
  /** How many; 0 where that is not known. */
  readonly missing: number;
}

/** Something in the file that could not be read; the rest of it can. */
export interface ProblemEvent {
  readonly type: 'problem';
  /** '' where it concerns no session, or nobody can tell which. */
  readonly session: string;
  readonly time: number;
  /** Names the place: a frame, a line. Nothing of what was said is in it. */
  readonly text: string;
}

export type CaptureEvent = OpenEvent | DataEvent | CloseEvent | GapEvent | ProblemEvent;

/** What events and the bytes of files come from. */
export type Source<T> = AsyncIterable<T> | Iterable<T>;

/** One packet of a conversation, decoded. */
export interface PacketRecord {
  readonly type: 'packet';
  readonly session: string;
  readonly time: number;
  readonly from: Side;
  /** Counted from 1 within the session. */
  readonly number: number;
  /** Offset of its first byte in what this side has said. */
  readonly offset: number;
  readonly packet: Command | Reply | OddPacket;
  /** All its bytes, length included. */
  readonly raw: Buffer;
  /** Of a final reply: the number of the command that it answers, its kind, and how long that took, in ms. */
  readonly answers?: { readonly number: number; readonly stage: Stage | 'negotiate'; readonly ms: number };
  /** What is wrong with it at this place: nobody asked for it, an edit that was not agreed on … */
  readonly problem?: string;
}

/**
 * Bytes that are no packets, or can't be told apart any more, or are missing (garbage); what could not be read in the
 * file (problem); and how a session begins and ends.
 */
export interface NoteRecord {
  readonly type: 'open' | 'close' | 'garbage' | 'problem';
  readonly session: string;
  readonly time: number;
  readonly from?: Side;
  readonly text: string;
  readonly bytes?: Buffer;
}

export type ConversationRecord = PacketRecord | NoteRecord;
