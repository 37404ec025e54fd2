/**
 * Several milters as one: a stream that a mail server, or a proxy, can talk to as to a milter. Behind it is the client's
 * chain, so the order, the defaults and what each milter sees of the one before are those of MilterChain.
 *
 * Commands are handled one after the other. While one is at work, those behind it are read ahead, up to a limit, so that
 * an ABORT, a QUIT or the end of what the mail server says cuts a message short that the milters are at work on: it is
 * refused for now, and they hear of it at once. Beyond the limit nothing more is taken, which is the back-pressure.
 */
import { Duplex } from 'node:stream';
import { MilterChain, type ChainedMilter } from '../client/chain.js';
import type { ClientOptions } from '../client/types.js';
import { commandParser, encodeReply } from '../codec/index.js';
import type { Command } from '../codec/commands.js';
import type { Reply } from '../codec/replies.js';
import type { MilterError } from '../errors.js';
import { holdToRules, wholeTo } from '../option-rules.js';
import { ChainedMilters, type ChainSettings } from './chained-milters.js';

/** How many bytes of commands wait for the one at work before no more are taken. */
const READ_AHEAD = 65_536;

/** What a milter has said goes on as it is: the mail server is to judge it. */
const ANY_SIZE = 0x3fff_ffff;

/** What ends a message that is at work. */
const CUTS: ReadonlySet<Command['type']> = new Set(['abort', 'quit', 'quitNewConnection']);

type Done = (error?: Error | null) => void;

/** What a chain may be told: all that MilterChain may, and how much it holds. */
export interface ChainOptions extends ClientOptions {
  /**
   * Most bytes of a message that are held for the milters: recipients, headers and body as they came, and 256 more for
   * each of them. A larger one costs the default action. Default 134,217,728 (128 MiB), more than most servers take.
   */
  maxMessage?: number | undefined;
}

/**
 * @param options of the chain; what the mail server offers is offered to the milters
 * @returns makes a stream for each mail server. It emits 'sessionError' (a MilterError) for each failure of a milter that
 *   a default action stands in for, and ends with one where that is 'throw'
 * @throws MilterError ERR_MILTER_ADDRESS, ERR_MILTER_OPTION
 */
export function chainMilter(
  milters: ReadonlyArray<string | ChainedMilter>,
  { maxMessage = 134_217_728, ...options }: ChainOptions = {},
): () => Duplex {
  holdToRules({ maxMessage }, { maxMessage: wholeTo(Number.MAX_SAFE_INTEGER) });
  void new MilterChain(milters, options);
  return () => new ChainStream({ milters, options, maxMessage });
}

class ChainStream extends Duplex {
  readonly #milters: ChainedMilters;
  readonly #parser = commandParser();
  readonly #sink = { packet: (command: unknown) => this.#arrived(command as Command) };
  #waiting: Command[] = [];
  /** Bytes of the commands that have come and are not done. */
  #ahead = 0;
  /** How many of those end the message before them. */
  #cuts = 0;
  #working = false;
  /** QUIT has come: what follows is nobody's. */
  #quitting = false;
  /** No more comes. */
  #ended = false;
  /** What came is no packet. */
  #failure: Error | undefined;
  /** The callback of a write that was too much, and that of the end; who waits until what was said has been taken. */
  #held: Done | undefined;
  #final: Done | undefined;
  #taken: (() => void) | undefined;

  constructor(settings: ChainSettings) {
    super();
    const isGone = (): boolean => this.#gone;
    this.#milters = new ChainedMilters(settings, {
      get gone() {
        return isGone();
      },
      progress: () => void this.#say([{ type: 'progress' }]),
      tell: (error: MilterError) => void this.emit('sessionError', error),
    });
  }

  override _read(): void {
    this.#taken?.();
  }

  override _write(bytes: Buffer, _encoding: string, done: Done): void {
    this.#held = done;
    this.#read(() => this.#parser.parse(bytes, this.#sink));
  }

  override _final(done: Done): void {
    this.#final = done;
    this.#ended = true;
    this.#read(() => this.#parser.end());
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#milters.destroy();
    done(error);
  }

  #read(go: () => void): void {
    try {
      if (!this.#quitting) go();
    } catch (error) {
      this.#failure = error as Error;
    }
    if (this.#gone) this.#milters.cut();
    void this.#work();
    this.#goOn();
  }

  /** The message before is cut short. */
  get #gone(): boolean {
    return this.#cuts > 0 || this.#ended || this.#failure !== undefined;
  }

  #arrived(command: Command): void {
    if (this.#quitting) return;
    this.#quitting = command.type === 'quit';
    this.#waiting.push(command);
    this.#ahead += (command.raw as Buffer).length;
    if (CUTS.has(command.type)) this.#cuts++;
  }

  /** Asks for more, where it is welcome. */
  #goOn(): void {
    if (this.#ahead > READ_AHEAD) return;
    const done = this.#held;
    this.#held = undefined;
    done?.();
  }

  async #work(): Promise<void> {
    if (this.#working) return;
    this.#working = true;
    try {
      while (this.#waiting.length > 0) for (const command of this.#waiting.splice(0)) await this.#handle(command);
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#quitting || this.#ended) {
        await this.#milters.quit();
        this.push(null);
      }
      this.#final?.();
    } catch (error) {
      this.destroy(error as Error);
    }
    this.#working = false;
  }

  async #handle(command: Command): Promise<void> {
    if (this.destroyed) return;
    const replies = await this.#milters.handle(command);
    if (CUTS.has(command.type)) this.#cuts--;
    this.#ahead -= (command.raw as Buffer).length;
    if (!this.#say(replies) && !this.destroyed) await new Promise<void>((resolve) => (this.#taken = resolve));
    this.#goOn();
  }

  /** All of it, or nothing where something cannot be said. @returns whether more is welcome */
  #say(replies: readonly Reply[]): boolean {
    const packets = replies.map((reply) => encodeReply(reply, ANY_SIZE));
    return packets.map((bytes) => this.push(bytes)).at(-1) ?? true;
  }
}
