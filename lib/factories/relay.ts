/**
 * The factory's half of a session that runs in a worker: it owns the mail server's socket and passes whole packets on,
 * in both directions and no faster than they are taken. It knows which command waits (the Ledger), so that the mail
 * server is answered, in step, when the worker dies or is blocked; and what a worker that takes over must hear first
 * (the Memo). The edits of a message are held back until it is accepted.
 */
import type { Socket } from 'node:net';
import { commandCodec, type NegotiateCommand } from '../codec/commands.js';
import { Framer, type FrameSink } from '../codec/framer.js';
import { replyCodec, type Reply } from '../codec/replies.js';
import { MILTER_MDS_64K } from '../constants.js';
import { MilterError } from '../errors.js';
import { outOfOrder, timeout, tooLong } from '../session/failures.js';
import type { CheckedOptions } from '../session/options.js';
import { Timer } from '../session/timer.js';
import type { Stage } from '../stages.js';
import type { ConnectionEvents, Served } from './connection.js';
import { HeldEdits } from './held-edits.js';
import { Ledger, type Sent, type Waiting } from './ledger.js';
import { Memo, type Frame } from './memo.js';
import { arrived, type FromTenant, type ToWorker } from './messages.js';
import type { Pool } from './pool.js';
import type { PoolWorker, Tenant } from './pool-worker.js';
import { Pieces } from './pieces.js';
import { packError, unpackMilterError } from './portable.js';
import { readSocket } from '../sockets/shared-reads.js';
import { ACKNOWLEDGED_AT, WINDOW } from './relayed-session.js';

/** How many workers get the offer, before the factory answers it itself and refuses mail for now. */
const TRIES = 3;
/** How long a session that is to end at once may take, in ms. */
export const DESTROY_WITHIN = 1_000;
const PROGRESS = Buffer.from([0, 0, 0, 1, 0x70]);

/** A worker whose callback is late says so itself, by the error policy; the factory acts when it does not. */
function grace(deadline: number): number {
  return deadline + Math.max(250, Math.min(1_000, deadline / 8));
}

export class Relay implements Tenant, Served, FrameSink {
  readonly #socket: Socket;
  readonly #pool: Pool;
  readonly #options: CheckedOptions;
  readonly #events: ConnectionEvents;
  readonly #ledger: Ledger;
  readonly #memo = new Memo();
  readonly #commands: Framer;
  readonly #replies = new Framer();
  readonly #replySink: FrameSink = { frame: (buffer, start, end) => this.#reply(buffer, start, end) };
  readonly #toWorker = new Pieces();
  readonly #toServer = new Pieces();
  readonly #held: HeldEdits;
  readonly #deadline = new Timer(() => this.#late());
  readonly #progress = new Timer(() => this.#stillAtWork());
  readonly #idle = new Timer(() => this.#silent());
  readonly #ending = new Timer(() => this.#stuck());

  #worker: PoolWorker | undefined;
  #tenant = 0;
  #tries = 0;
  /** What the worker is at work on, as far as the deadline knows. */
  #watched: Waiting | undefined;
  /** Bytes of commands that the worker has not handled. */
  #unhandled = 0;
  /** Bytes of replies that the worker has not been told of as passed on. */
  #untold = 0;
  #spoolFull = false;
  /** Held edits are being written. */
  #releasing = false;
  /** The connection is to end when they are. */
  #closeDue = false;
  #inputEnded = false;
  /** It is to end at once. */
  #destroyed = false;
  /** Nothing more is said to either side. */
  #over = false;
  #socketClosed = false;
  #told = false;
  /** What is fed is memory that is used again. */
  readonly #reusedChunks: boolean;

  /** @param sharedReads whether the socket may be read into memory that other connections use too */
  constructor(
    socket: Socket,
    pool: Pool,
    worker: PoolWorker,
    options: CheckedOptions,
    events: ConnectionEvents,
    sharedReads: boolean,
  ) {
    this.#socket = socket;
    this.#pool = pool;
    this.#options = options;
    this.#events = events;
    this.#ledger = new Ledger(options.dryRun);
    this.#commands = new Framer(options.maxPayload);
    this.#held = new HeldEdits(options.spoolMemory, () => this.#spooled());
    this.#moveIn(worker);
    socket.setNoDelay(true);
    socket.setKeepAlive(true);
    this.#reusedChunks = readSocket(socket, sharedReads, (bytes, length) => {
      this.#feed(bytes, length);
      return true; // it rests by itself
    });
    socket.on('drain', () => this.#drained());
    socket.on('end', () => this.#end());
    socket.on('error', (error) => this.#lost(error));
    socket.on('close', () => {
      this.#socketClosed = true;
      this.#finishIfOver();
    });
    socket.resume();
  }

  get waiting(): boolean {
    return this.#ledger.head !== undefined;
  }

  get patience(): number {
    const { eobDeadline, callbackDeadline } = this.#options;
    return this.#ledger.head?.stage === 'eob' ? eobDeadline : callbackDeadline;
  }

  // ---- from the mail server -----------------------------------------------------------------------------------------

  #feed(chunk: Buffer, length: number): void {
    if (this.#over || this.#ledger.quit) return;
    this.#idle.touch();
    try {
      this.#commands.push(chunk, this, length);
    } catch (error) {
      this.#passOn();
      if (!this.#ledger.quit) this.#fail(error as MilterError); // what follows a QUIT is nobody's
      return;
    }
    this.#passOn();
    this.#memo.keepMacros();
    this.#restIfFull();
  }

  /** Called by the framer for each packet. */
  frame(buffer: Buffer, start: number, end: number): void {
    if (this.#over || this.#ledger.quit) return;
    const frame = { buffer, start, end };
    const type = commandCodec.typeOf(buffer[start + 4] as number) as Sent | 'macro' | undefined;
    if (type === 'macro') {
      this.#memo.macros(frame);
      return;
    }
    const macros = this.#memo.takeMacros();
    if (type === 'quitNewConnection') this.#memo.nextConnection();
    const fate = this.#ledger.command(type, this.#worker !== undefined);
    if (type !== undefined) this.#memo.command(type as Stage | 'negotiate', frame);
    if (fate === 'worker') this.#give(type, macros, frame);
    else if (fate !== undefined) this.#say(fate);
    if (this.#ledger.quit && this.#worker === undefined) this.#close();
  }

  #give(type: Sent | undefined, macros: readonly Frame[], frame: Frame): void {
    if (this.#worker === undefined && !this.#takeOver(type)) {
      this.#unserved(type, frame);
      return;
    }
    this.#ledger.given(type);
    for (const { buffer, start, end } of [...macros, frame]) this.#toWorker.add(buffer, start, end);
  }

  /** @throws MilterError what a session would say of it */
  #unserved(type: Sent | undefined, { buffer, start, end }: Frame): void {
    if (type === 'negotiate') {
      this.#turnAway();
      return;
    }
    if (type === undefined || this.#ledger.agreement === undefined) {
      throw outOfOrder(commandCodec.read(buffer, start, end).type, 'a command before the negotiation');
    }
    const fate = this.#ledger.unserved(type as Stage);
    if (fate !== undefined) this.#say(fate as Reply);
  }

  /** Nobody is there to negotiate. */
  #turnAway(): void {
    const { offer } = this.#memo;
    try {
      const replies = this.#ledger.turnAway(commandCodec.read(offer, 0, offer.length) as NegotiateCommand);
      for (const reply of replies) this.#say(reply);
    } catch (error) {
      this.#fail(error as MilterError);
    }
  }

  /** Has another worker go on with the conversation. */
  #takeOver(type: Sent | undefined): boolean {
    const worker = this.#pool.acquire();
    if (worker === undefined) return false;
    this.#moveIn(worker);
    const { bytes, stages } = this.#memo.before(type);
    this.#ledger.repeat(stages);
    for (const packet of bytes) this.#toWorker.add(packet, 0, packet.length);
    return true;
  }

  #moveIn(worker: PoolWorker): void {
    const { agreement } = this.#ledger;
    this.#idle.stop();
    this.#worker = worker;
    this.#tenant = worker.add(this);
    this.#unhandled = 0;
    this.#untold = 0;
    this.#post(['open', this.#tenant, agreement === undefined ? {} : { agreement }]);
    if (this.#ledger.draining) this.#post(['drain', this.#tenant]);
  }

  /** Macros may themselves begin a message: before it is asked whether there is one they must be there. */
  #giveMacros(): void {
    if (this.#worker === undefined) return;
    for (const { buffer, start, end } of this.#memo.takeMacros()) this.#toWorker.add(buffer, start, end);
    this.#passOn();
  }

  /** Sends the worker what has gathered. */
  #passOn(): void {
    for (const piece of this.#toWorker.take()) {
      const bytes = this.#reusedChunks ? Buffer.from(piece) : piece;
      if (this.#ledger.agreement === undefined) this.#memo.addBeforeAgreement(bytes);
      this.#unhandled += bytes.length;
      this.#post(['bytes', this.#tenant, bytes]);
    }
    this.#watch();
  }

  #post(message: ToWorker): void {
    this.#worker?.post(message);
  }

  #restIfFull(): void {
    if (this.#unhandled > WINDOW || this.#socket.writableNeedDrain) this.#socket.pause();
  }

  #goOn(): void {
    if (!this.#over && this.#unhandled <= WINDOW && !this.#socket.writableNeedDrain) this.#socket.resume();
  }

  #end(): void {
    if (this.#over || this.#inputEnded) return;
    try {
      if (!this.#ledger.quit) this.#commands.end();
    } catch (error) {
      this.#fail(error as MilterError);
      return;
    }
    this.#inputEnded = true;
    this.#endSoon(['end', this.#tenant]);
  }

  /** The connection is of no more use. */
  #lost(why: Error): void {
    if (this.#over || this.#inputEnded) return;
    this.#inputEnded = true;
    this.#endSoon(['lost', this.#tenant, packError(why)]);
  }

  /** The worker's callbacks come to their end, and then it says so. */
  #endSoon(message: ToWorker): void {
    if (this.#worker === undefined) {
      this.#close(message[0] === 'lost');
      return;
    }
    const { eobDeadline, callbackDeadline } = this.#options;
    this.#giveMacros();
    this.#post(message);
    // Whatever it is at work on, then abort() and close().
    if (!this.#destroyed) this.#ending.start(grace(eobDeadline) + 2 * grace(callbackDeadline));
  }

  /** The mail server has broken the protocol. */
  #fail(error: MilterError): void {
    if (this.#inputEnded) return;
    this.#report(error);
    this.#lost(error);
  }

  #report(error: MilterError): void {
    this.#options.log.error({ err: error, code: error.code }, error.message);
    this.#events.report(error);
  }

  /** Without a worker, nobody else looks at the time. */
  #silent(): void {
    this.#fail(timeout('Nothing came from the mail server', this.#patienceWithServer));
  }

  get #patienceWithServer(): number {
    const { negotiationTimeout, idleTimeout } = this.#options;
    return this.#ledger.agreement === undefined ? negotiationTimeout : idleTimeout;
  }

  // ---- from the worker ----------------------------------------------------------------------------------------------

  receive(message: FromTenant): void {
    switch (message[0]) {
      case 'bytes':
        this.#receiveBytes(arrived(message[2]));
        break;
      case 'taken':
        this.#unhandled -= message[2];
        this.#goOn();
        break;
      case 'report':
        this.#events.report(unpackMilterError(message[2], 'ERR_MILTER_CALLBACK', 'A session failed'));
        break;
      case 'closed':
        this.#leave();
        this.#close(message[2] !== undefined);
        break;
      default: // the others are not about relayed sessions
    }
  }

  #receiveBytes(chunk: Buffer): void {
    this.#untold += chunk.length;
    this.#replies.push(chunk, this.#replySink);
    this.#speak();
    this.#tellTaken();
    this.#watch();
  }

  #reply(buffer: Buffer, start: number, end: number): void {
    if (this.#releasing) {
      this.#fail(outOfOrder('a command', 'the reply to the end of the message was still due'));
      return;
    }
    const type = replyCodec.typeOf(buffer[start + 4] as number) as Reply['type'];
    switch (this.#ledger.reply(type, () => replyCodec.read(buffer, start, end))) {
      case 'repeated':
        break;
      case 'progress':
        this.#toServer.add(buffer, start, end);
        break;
      case 'edit': {
        const packet = Buffer.from(buffer.subarray(start, end)); // the others of its batch need not stay
        if (!this.#held.add(packet, type === 'replBody')) this.#spoolFull = true;
        break;
      }
      case 'refusal':
        this.#worker?.served();
        this.#held.discard();
        this.#spoolFull = false;
        this.#answered(buffer, start, end);
        break;
      case 'final':
        if (type !== 'negotiate') this.#worker?.served();
        this.#answered(buffer, start, end);
        break;
    }
  }

  #answered(buffer: Buffer, start: number, end: number): void {
    if (!this.#held.empty) {
      const packets = this.#held.take();
      if (packets === undefined) {
        void this.#release(buffer.subarray(start, end));
        return;
      }
      for (const packet of packets) this.#toServer.add(packet, 0, packet.length);
    }
    this.#toServer.add(buffer, start, end);
  }

  /** Writes edits that are too large to be written in one go, then the reply that makes them count. */
  async #release(reply: Buffer): Promise<void> {
    this.#releasing = true;
    try {
      for await (const bytes of this.#held.chunks()) {
        if (!this.#socket.writable) return;
        if (!this.#socket.write(bytes)) await this.#writable();
      }
      this.#socket.write(reply);
    } catch (cause) {
      if (this.#over) return; // the connection is: that is no fault of the file's
      // The file it is in cannot be written or read. Nothing is out yet, or what is out ends with a whole packet.
      this.#report(
        new MilterError('ERR_MILTER_CALLBACK', `The new body is lost: ${(cause as Error).message}`, { cause }),
      );
      this.#say({ type: 'tempFail' });
    } finally {
      this.#held.discard();
      this.#releasing = false;
      this.#spoolFull = false;
      this.#tellTaken();
      if (this.#closeDue) this.#close();
    }
  }

  /** Resolves when the socket takes more, or is closed. */
  #writable(): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        this.#socket.off('drain', done);
        this.#socket.off('close', done);
        resolve();
      };
      this.#socket.on('drain', done);
      this.#socket.on('close', done);
    });
  }

  #spooled(): void {
    this.#spoolFull = false;
    this.#tellTaken();
  }

  /** The worker may write more when what it wrote has been taken. */
  #tellTaken(): void {
    if (this.#untold < ACKNOWLEDGED_AT || this.#spoolFull || this.#socket.writableNeedDrain) return;
    this.#post(['taken', this.#tenant, this.#untold]);
    this.#untold = 0;
  }

  #drained(): void {
    this.#tellTaken();
    this.#goOn();
  }

  /** A reply of the factory's own. */
  #say(reply: Reply): void {
    const bytes = replyCodec.write(reply, MILTER_MDS_64K);
    this.#toServer.add(bytes, 0, bytes.length);
    this.#speak();
  }

  /** Writes what has gathered. */
  #speak(): void {
    if (this.#toServer.empty) return;
    const pieces = this.#toServer.take();
    if (!this.#socketClosed) this.#socket.write(pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces));
  }

  // ---- time ---------------------------------------------------------------------------------------------------------

  /** Sets the clock anew when the worker has gone on to another command. */
  #watch(): void {
    const head = this.#ledger.head;
    if (head === this.#watched) return;
    this.#watched = head;
    this.#deadline.stop();
    this.#progress.stop();
    if (head === undefined || this.#worker === undefined) return;
    this.#deadline.start(grace(this.patience));
    if (head.stage === 'eob') this.#progress.start(this.#options.progressAfter);
  }

  #stillAtWork(): void {
    this.#toServer.add(PROGRESS, 0, PROGRESS.length);
    this.#speak();
    this.#progress.start(this.#options.progressEvery);
  }

  /** The worker has not answered in time: it goes on without this session, if it goes on at all. */
  #late(): void {
    const worker = this.#worker as PoolWorker;
    const { stage } = this.#ledger.head as Waiting;
    const error = tooLong(stage, this.patience);
    this.#report(error);
    this.#post(['destroy', this.#tenant]);
    worker.killIfBlocked();
    this.#withoutWorker();
  }

  // ---- death --------------------------------------------------------------------------------------------------------

  workerDied(cause: MilterError): void {
    const stage = this.#ledger.atStake;
    if (stage !== undefined) {
      const what = stage === 'negotiate' ? 'another one is asked' : 'the message is refused for now';
      this.#report(new MilterError('ERR_MILTER_WORKER', `A worker died at ${stage}: ${what}`, { stage, cause }));
    }
    this.#withoutWorker();
  }

  /** There is no worker any more: what waits is answered. */
  #withoutWorker(): void {
    this.#leave();
    if (!this.#releasing) this.#held.discard(); // else the message is accepted, and they are complete
    this.#spoolFull = false;
    const due = this.#ledger.died();
    if (due === 'negotiate') {
      // A connection that is closed now would be taken for leave to skip the milter: after the last try it is turned away.
      const worker = ++this.#tries < TRIES && !this.#destroyed ? this.#pool.acquire() : undefined;
      if (worker !== undefined) {
        this.#negotiateAgain(worker);
        return;
      }
      this.#turnAway();
    } else {
      for (const reply of due) this.#say(reply);
    }
    this.#watch();
    if (this.#inputEnded || this.#destroyed || this.#ledger.quit) this.#close();
    else this.#idle.start(this.#patienceWithServer);
    this.#goOn();
  }

  #negotiateAgain(worker: PoolWorker): void {
    this.#moveIn(worker);
    this.#ledger.given('negotiate');
    for (const bytes of this.#memo.beforeAgreement) {
      this.#unhandled += bytes.length;
      this.#post(['bytes', this.#tenant, bytes]);
    }
    if (this.#inputEnded) this.#post(['end', this.#tenant]);
    this.#watch();
  }

  #leave(): void {
    this.#worker?.remove(this.#tenant);
    this.#worker = undefined;
    this.#unhandled = 0;
    this.#untold = 0;
  }

  // ---- the end ------------------------------------------------------------------------------------------------------

  drain(): void {
    this.#giveMacros();
    this.#ledger.draining = true;
    this.#post(['drain', this.#tenant]);
  }

  destroy(): void {
    this.#destroyed = true;
    if (this.#over) {
      this.#socket.destroy();
    } else if (this.#worker === undefined) {
      this.#close();
    } else {
      this.#post(['destroy', this.#tenant]);
      this.#ending.start(DESTROY_WITHIN);
    }
  }

  /** The worker does not even end the session. */
  #stuck(): void {
    this.#worker?.kill('did not end its sessions');
  }

  #close(failed = false): void {
    if (this.#over) return;
    if (this.#releasing && !failed && !this.#destroyed) {
      this.#closeDue = true;
      return;
    }
    this.#over = true;
    this.#deadline.stop();
    this.#progress.stop();
    this.#idle.stop();
    this.#ending.stop();
    this.#leave();
    this.#held.discard();
    // What the system has not taken by now is given up where it is to end at once: the client may never read it.
    if (failed || (this.#destroyed && this.#socket.writableLength > 0)) this.#socket.destroy();
    else this.#socket.end(() => this.#socket.destroy());
    this.#finishIfOver();
  }

  #finishIfOver(): void {
    if (!this.#over || !this.#socketClosed || this.#told) return;
    this.#told = true;
    this.#events.closed();
  }
}
