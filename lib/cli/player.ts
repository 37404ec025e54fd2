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

export interface Scene {
  /** Addresses of the milters, in their order. */
  readonly milters: readonly string[];
  readonly options: ClientOptions;
  readonly peer: ClientPeer;
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

  constructor(scene: Scene) {
    this.#scene = scene;
  }

  /** @throws MilterError; the next message then gets a new session */
  async play(mail: ClientMessage): Promise<Played> {
    const greeting = await this.#connect();
    const client = this.#client as MilterClient | MilterChain;
    try {
      const start = performance.now();
      const result = await client.send(mail);
      const ms = performance.now() - start;
      if (result.hangUp) await this.end();
      return { result, steps: [...greeting, ...result.steps], ms };
    } catch (error) {
      await this.end();
      throw error;
    }
  }

  async end(): Promise<void> {
    const client = this.#client;
    this.#client = undefined;
    await client?.quit();
  }

  /** @returns what was said, where there was no session yet */
  async #connect(): Promise<readonly Step[]> {
    if (this.#client !== undefined) return [];
    const { milters, options, peer } = this.#scene;
    const client =
      milters.length === 1 ? new MilterClient(milters[0] as string, options) : new MilterChain(milters, options);
    await client.connect(peer);
    this.#client = client;
    return client.steps;
  }
}
