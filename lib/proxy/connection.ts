/** Joins the mail server's socket, the milter's, and what is known of their conversation. */
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { now } from '../capture/now.js';
import type { CaptureEvent, Side } from '../capture/types.js';
import { commandParser, replyParser } from '../codec/parser.js';
import { MilterError } from '../errors.js';
import { readSocket } from '../sockets/shared-reads.js';
import { reach, type Dial } from './dialling.js';
import { endpointsOf } from './endpoints.js';
import { HookRunner } from './hook-runner.js';
import type { CheckedProxyOptions } from './options.js';
import { ProxySession } from './proxy-session.js';
import { penFor, type Pen } from './pen.js';
import { HookedReader, PlainReader, type NoPackets, type Reader } from './reader.js';
import type { ProxyContext, ProxyHooks } from './types.js';

/** What the proxy is told. */
export interface Watcher {
  /** Whether anybody listens to events. */
  readonly watching: boolean;
  event(event: CaptureEvent): void;
  report(error: MilterError): void;
  closed(): void;
}

/** Why nobody waits any more; made once, as a reason costs more than all the rest of an abort. */
const LEFT = new MilterError('ERR_MILTER_ABORTED', 'The mail server has left, or the connection is ended');

export class ProxyConnection {
  readonly #id: string;
  readonly #mta: Duplex;
  readonly #watcher: Watcher;
  readonly #options: CheckedProxyOptions;
  readonly #hooks: ProxyHooks | undefined;
  readonly #session: ProxySession;
  readonly #toMta: Pen;
  /** Aborted when the mail server says no more, or the connection is ended. */
  readonly #leaving = new AbortController();
  #milter: Duplex | undefined;
  #toMilter: Pen | undefined;
  #commands: Reader;
  #replies: Reader;
  /** What came was no packet: from now on bytes are passed on as they come. */
  #bytesOnly = false;
  #dialling = true;
  /** The milter says no more. */
  #milterOver = false;
  #mtaClosed = false;
  #milterClosed = false;
  #over = false;
  /** Runs when one side has left, and the other is to do so. */
  #linger: NodeJS.Timeout | undefined;
  #error: string | undefined;

  constructor(id: string, mta: Duplex, hooks: ProxyHooks | undefined, options: CheckedProxyOptions, watcher: Watcher) {
    this.#id = id;
    this.#mta = mta;
    this.#hooks = hooks;
    this.#options = options;
    this.#watcher = watcher;
    this.#toMta = penFor(mta, options.trickle, () => this.#resume('milter'));
    const port = {
      toMta: (bytes: Buffer) => this.#toMta.write(bytes),
      report: (error: MilterError) => watcher.report(error),
      endMta: () => this.#endMta(),
      destroy: () => this.destroy(),
    };
    this.#session = new ProxySession(port, options.onFailure);
    [this.#commands, this.#replies] = this.#readers();
    mta.on('error', (error) => this.#mtaGone(error.message));
    mta.on('close', () => this.#mtaGone());
  }

  /** Connects to the milter, and begins. */
  async start(dial: Dial): Promise<void> {
    const milter = await reach(dial, this.#options.connectTimeout, this.#leaving.signal);
    const failure = milter instanceof MilterError ? milter : brokenBefore(milter);
    this.#dialling = false;
    if (failure === undefined) this.#join(milter as Duplex);
    this.#tell(() => ({ type: 'open', session: this.#id, time: now(), ...endpointsOf(this.#mta, this.#milter) }));
    if (this.#mta.destroyed) {
      this.#milter?.destroy();
      this.#mtaGone();
      this.#finish();
      return;
    }
    if (failure === undefined) this.#listen(this.#milter as Duplex, 'milter');
    else this.#session.fail(failure);
    this.#listen(this.#mta, 'mta');
    this.#mta.on('end', () => this.#mtaEnded());
  }

  /** Ends both connections at once: neither is then lost. */
  destroy(): void {
    this.#milterOver = true;
    this.#leaving.abort(LEFT);
    this.#mta.destroy();
    this.#milter?.destroy();
  }

  #join(milter: Duplex): void {
    this.#milter = milter;
    this.#toMilter = penFor(milter, this.#options.trickle, () => this.#resume('mta'));
    milter.on('error', (error) => this.#milterGone(error.message, error));
    // Of several milters, which go on without the one that has failed.
    milter.on('sessionError', (error: MilterError) => this.#watcher.report(error));
    milter.on('end', () => this.#milterGone('it has closed the connection'));
    milter.on('close', () => {
      this.#milterClosed = true;
      this.#milterGone('the connection was closed');
      this.#finish();
    });
  }

  /** Whole packets, as they are; or past the hooks. */
  #readers(): [commands: Reader, replies: Reader] {
    const { maxPayload } = this.#options;
    const session = this.#session;
    const toMta = (bytes: Buffer): void => this.#toMta.write(bytes);
    const toMilter = (bytes: Buffer): void => this.#toMilter?.write(bytes);
    if (this.#hooks === undefined) {
      return [
        new PlainReader(maxPayload, (buffer, start, end) => session.heard(buffer, start, end), toMilter),
        new PlainReader(maxPayload, (buffer, start, end) => session.said(buffer, start, end), toMta),
      ];
    }
    const ends = { toMta, toMilter, report: (error: MilterError) => this.#watcher.report(error) };
    const runner = new HookRunner(session, this.#hooks, this.#context(), ends);
    const lenient = { lenient: true, maxPayload };
    return [
      new HookedReader(
        commandParser(lenient),
        (packet) => runner.command(packet),
        () => this.#resume('mta'),
      ),
      new HookedReader(
        replyParser(lenient),
        (packet) => runner.reply(packet),
        () => this.#resume('milter'),
      ),
    ];
  }

  #context(): ProxyContext {
    const session = this.#session;
    return {
      id: this.#id,
      state: new Map(),
      signal: this.#leaving.signal,
      get agreed() {
        return session.agreement.milter;
      },
      destroy: (reason) => {
        if (reason !== undefined)
          this.#watcher.report(new MilterError('ERR_MILTER_CONNECTION', reason.message, { cause: reason }));
        this.destroy();
      },
    };
  }

  #listen(stream: Duplex, from: Side): void {
    if (!(stream instanceof Socket)) {
      stream.on('data', (chunk: Buffer) => {
        if (!this.#take(from, chunk, chunk.length, false)) stream.pause();
      });
      return;
    }
    let reused = false;
    // What hooks are given is theirs to keep.
    const shared = this.#options.sharedReads && this.#hooks === undefined;
    reused = readSocket(stream, shared, (chunk, length) => this.#take(from, chunk, length, reused));
    stream.resume();
  }

  /** @returns whether more is welcome */
  #take(from: Side, chunk: Buffer, length: number, reused: boolean): boolean {
    if (this.#watcher.watching) {
      const bytes = Buffer.from(chunk.subarray(0, length));
      this.#watcher.event({ type: 'data', session: this.#id, time: now(), from, bytes });
    }
    const reader = from === 'mta' ? this.#commands : this.#replies;
    if (this.#bytesOnly) {
      const bytes = reused ? Buffer.from(chunk.subarray(0, length)) : chunk.subarray(0, length);
      this.#behind(from, () => this.#pass(from, bytes), length);
    } else {
      const left = reader.push(chunk, length, reused);
      if (left !== undefined) this.#noPackets(from, left);
      else if (from === 'milter') this.#session.settle();
    }
    this.#linger?.refresh();
    return !reader.full && this.#penOf(from)?.full !== true;
  }

  /** Bytes pass from now on, in both directions: also what waited for the rest of a packet. */
  #noPackets(from: Side, { bytes, error }: NoPackets): void {
    const who = from === 'mta' ? 'mail server' : 'milter';
    const what = `What the ${who} says is no packet, and bytes are passed on as they come: ${error.message}`;
    const { code, offset, bytes: first } = error;
    this.#watcher.report(
      new MilterError(code, what, { ...(offset !== undefined && { offset }), ...(first && { bytes: first }) }),
    );
    this.#bytesOnly = true;
    const other = from === 'mta' ? 'milter' : 'mta';
    this.#behind(from, () => this.#pass(from, bytes));
    this.#behind(other, () => this.#pass(other, this.#readerOf(other).unfinished()));
    // There is no milter that could judge it, and nobody else could answer.
    if (this.#session.lost) this.#behind(from, () => this.#endMta());
  }

  /** The mail server has heard all that there is to say. */
  #endMta(): void {
    this.#toMta.end();
    this.#awaitEnd('mail server');
  }

  /** Behind what waits for a hook. */
  #behind(from: Side, act: () => void, length?: number): void {
    const reader = this.#readerOf(from);
    if (reader instanceof HookedReader) reader.after(act, length);
    else act();
  }

  #readerOf(from: Side): Reader {
    return from === 'mta' ? this.#commands : this.#replies;
  }

  /** Where it goes on: nowhere, where the milter is gone. */
  #penOf(from: Side): Pen | undefined {
    if (from === 'milter') return this.#toMta;
    return this.#milterOver ? undefined : this.#toMilter;
  }

  #pass(from: Side, bytes: Buffer): void {
    if (bytes.length > 0) this.#penOf(from)?.write(bytes);
  }

  #resume(from: Side): void {
    if (!this.#readerOf(from).full && this.#penOf(from)?.full !== true)
      (from === 'mta' ? this.#mta : this.#milter)?.resume();
  }

  /** The mail server says no more. */
  #mtaEnded(): void {
    this.#session.quitting = true;
    this.#leaving.abort(LEFT);
    this.#awaitEnd('milter'); // for a hook, too: nobody waits for what it says
    this.#behind('mta', () => {
      if (!this.#bytesOnly) this.#pass('mta', this.#commands.unfinished());
      if (this.#milterOver || this.#toMilter === undefined) this.#endMta();
      else this.#toMilter.end();
    });
  }

  #milterGone(why: string, cause?: Error): void {
    if (this.#mtaClosed || this.#milterOver) return;
    this.#milterOver = true;
    this.#behind('milter', () => {
      if (this.#session.quitting || this.#bytesOnly) {
        if (!this.#bytesOnly) this.#pass('milter', this.#replies.unfinished());
        this.#endMta();
      } else {
        const what = `The connection to the milter was lost: ${why}`;
        this.#session.fail(new MilterError('ERR_MILTER_CONNECTION', what, { ...(cause && { cause }) }));
      }
      this.#resume('mta'); // it may have been held back by the milter
    });
    this.#milter?.destroy();
  }

  #mtaGone(error?: string): void {
    if (this.#mtaClosed) return;
    this.#mtaClosed = true;
    this.#error = error;
    this.#leaving.abort(LEFT);
    this.#commands.close();
    this.#replies.close();
    // What the milter has not been told yet, QUIT for one, is still on its way.
    if (error !== undefined) this.#milter?.destroy();
    else this.#toMilter?.end();
    this.#awaitEnd('milter');
    this.#finish();
  }

  /** One side has left. What the other one still has to say may take its time; silence may not. */
  #awaitEnd(who: 'mail server' | 'milter'): void {
    const { closeTimeout } = this.#options;
    clearTimeout(this.#linger);
    this.#linger = setTimeout(() => {
      const what = `The ${who} has not closed its connection within ${closeTimeout} ms after the other side`;
      this.#watcher.report(new MilterError('ERR_MILTER_TIMEOUT', what));
      this.destroy();
    }, closeTimeout);
  }

  /** When both are gone. */
  #finish(): void {
    const isMilterThere = this.#dialling || (this.#milter !== undefined && !this.#milterClosed);
    if (this.#over || !this.#mtaClosed || isMilterThere) return;
    this.#over = true;
    clearTimeout(this.#linger);
    const error = this.#error;
    this.#tell(() => ({ type: 'close', session: this.#id, time: now(), ...(error !== undefined && { error }) }));
    this.#watcher.closed();
  }

  #tell(event: () => CaptureEvent): void {
    if (this.#watcher.watching) this.#watcher.event(event());
  }
}

/** A stream that has failed before anybody could listen. */
function brokenBefore(milter: Duplex): MilterError | undefined {
  if (!milter.destroyed) return undefined;
  const cause = milter.errored ?? undefined;
  const what = `Cannot connect to the milter: ${cause?.message ?? 'its stream is destroyed'}`;
  return new MilterError('ERR_MILTER_CONNECTION', what, { ...(cause && { cause }) });
}
