/** Plays messages to milters, on one SMTP session as long as that lasts. */
import {
  MilterChain,
  MilterClient,
  type ClientMessage,
  type ClientOptions,
  type ClientPeer,
  type MessageResult,
  type Step,
} from '../client/index.js';
import { Patience } from './patience.js';

/** How long a milter may take to close its connection, in ms: mail servers close theirs right behind QUIT. */
const GOODBYE = 1_000;

export interface Scene {
  /** Addresses of the milters, in their order. */
  readonly milters: readonly string[];
  readonly options: ClientOptions;
  readonly peer: ClientPeer;
  /** How long a message may take altogether, whatever the milters say meanwhile, in ms. */
  readonly limit: number;
}

export interface Played {
  readonly result: MessageResult;
  /** All that was said for this message; for the first one of an SMTP session the beginning of that as well. */
  readonly steps: readonly Step[];
  /** From MAIL to the end, in ms. */
  readonly ms: number;
}

export class Player {
  readonly #scene: Scene;
  #client: MilterClient | MilterChain | undefined;
  #patience!: Patience;

  constructor(scene: Scene) {
    this.#scene = scene;
  }

  /** @throws MilterError; the next message then gets a new session */
  async play(mail: ClientMessage): Promise<Played> {
    const greeted = this.#client !== undefined;
    const client = (this.#client ??= this.#meet());
    try {
      return await this.#patience.watch(async () => {
        if (!greeted) await client.connect(this.#scene.peer);
        const start = performance.now();
        const result = await client.send(mail);
        const ms = performance.now() - start;
        if (result.hangUp) await this.end();
        return { result, steps: greeted ? result.steps : [...client.steps, ...result.steps], ms };
      });
    } catch (error) {
      await this.end();
      throw error;
    }
  }

  /** Says goodbye, and waits a moment for the milter to close: it is not what anybody is waiting for. */
  async end(): Promise<void> {
    const client = this.#client;
    this.#client = undefined;
    if (client === undefined) return;
    const gone = client.quit();
    let timer: NodeJS.Timeout | undefined;
    await Promise.race([gone, new Promise((resolve) => (timer = setTimeout(resolve, GOODBYE)))]);
    clearTimeout(timer);
  }

  #meet(): MilterClient | MilterChain {
    const { milters, options, limit } = this.#scene;
    this.#patience = new Patience(limit, options.signal);
    const own: ClientOptions = { ...options, signal: this.#patience.signal };
    return milters.length === 1 ? new MilterClient(milters[0] as string, own) : new MilterChain(milters, own);
  }
}
