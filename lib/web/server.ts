/** createLadder(): the conversations of a proxy on a web page, as they go. */
import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Conversation } from '../capture/conversation.js';
import type { CaptureEvent, ConversationRecord } from '../capture/types.js';
import { MilterError } from '../errors.js';
import { optionError } from '../option-rules.js';
import { Guard } from './guard.js';
import { History, type Drop } from './history.js';
import { Itemizer, type ItemOptions } from './model.js';
import { contentPolicy, page, type PageOptions } from './page.js';
import { inUrl, isLoopback, type WebPlace } from './place.js';
import { Viewer } from './viewer.js';

export interface LadderOptions extends ItemOptions, PageOptions {
  /** Most sessions that are kept. Default 500. */
  readonly maxSessions?: number | undefined;
  /** Most characters of JSON that are kept. Default 64 Mi. */
  readonly maxLength?: number | undefined;
  /** Most pages that look on at the same time. Default 16. */
  readonly maxViewers?: number | undefined;
}

/** Where the page is. */
export interface LadderPlace {
  /** With the token: whoever knows it sees everything. */
  readonly url: string;
  /** What whoever started it should know: others can get there. */
  readonly warning?: string;
}

const HEADERS = {
  'Content-Security-Policy': contentPolicy({ live: true, framed: false }),
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cache-Control': 'no-store',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
} as const;

export class Ladder {
  readonly #token = randomBytes(24).toString('base64url');
  readonly #itemizer: Itemizer;
  readonly #history: History;
  readonly #html: Buffer;
  readonly #maxViewers: number;
  readonly #viewers = new Set<Viewer>();
  readonly #conversations = new Map<string, Conversation>();
  #dropped = 0;
  #server: Server | undefined;
  #guard: Guard | undefined;

  constructor(options: LadderOptions = {}) {
    const { maxSessions = 500, maxLength = 64 * 1024 * 1024, maxViewers = 16, ...rest } = options;
    for (const [name, value] of Object.entries({ maxSessions, maxLength, maxViewers })) {
      if (Number.isSafeInteger(value) && value > 0) continue;
      throw optionError(name, 'must be a positive integer', value);
    }
    this.#itemizer = new Itemizer(rest);
    this.#html = Buffer.from(page(rest));
    this.#maxViewers = maxViewers;
    this.#history = new History({ maxSessions, maxLength }, (drop) => this.#drop(drop));
  }

  /** How many pages look on. */
  get viewers(): number {
    return this.#viewers.size;
  }

  /** Shows a record. It never waits and never throws: whoever looks on is nobody's concern. */
  take(record: ConversationRecord): void {
    const item = this.#itemizer.item(record);
    this.#history.add(item, JSON.stringify(item), item.kind === 'close');
    for (const viewer of this.#viewers) viewer.look();
  }

  /** Shows what an event means: for `proxy.on('event', (event) => ladder.event(event))`. */
  event(event: CaptureEvent): void {
    const { session, type, time } = event;
    if (type === 'problem' && !this.#conversations.has(session)) {
      this.take({ type, session, time, text: event.text });
      return;
    }
    let conversation = this.#conversations.get(session);
    if (conversation === undefined) this.#conversations.set(session, (conversation = new Conversation(session)));
    if (type === 'close') this.#conversations.delete(session);
    for (const record of conversation.take(event)) this.take(record);
  }

  /**
   * Serves the page.
   * @param place default: any free port of 127.0.0.1
   * @throws MilterError ERR_MILTER_LISTEN
   */
  async listen({ host = '127.0.0.1', port = 0 }: Partial<WebPlace> = {}): Promise<LadderPlace> {
    if (this.#server !== undefined) throw new MilterError('ERR_MILTER_SEQUENCE', 'This page is served already');
    const server = createServer((request, response) => this.#answer(request, response));
    server.maxConnections = this.#maxViewers * 4;
    this.#server = server;
    this.#guard = new Guard(this.#token, host);
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(port, host, () => resolve());
      });
    } catch (cause) {
      this.#server = undefined;
      const { message } = cause as Error;
      throw new MilterError('ERR_MILTER_LISTEN', `The web page cannot be served: ${message}`, { cause });
    }
    const { port: found } = server.address() as AddressInfo;
    const shown = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host;
    const url = `http://${inUrl(shown)}:${found}/${this.#token}/`;
    if (isLoopback(host)) return { url };
    const warning = `The web page can be reached from other machines (${host}), without encryption: whoever has its address, or listens on the network, sees all mail`;
    return { url, warning };
  }

  /** Says to those who look on that nothing more comes, and ends. */
  async close(): Promise<void> {
    const server = this.#server;
    if (server === undefined) return;
    this.#server = undefined;
    const closed = new Promise((resolve) => server.close(resolve));
    for (const viewer of this.#viewers) viewer.end();
    server.closeAllConnections();
    await closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #drop(drop: Drop): void {
    if (drop.before === undefined) this.#dropped++;
    for (const viewer of this.#viewers) viewer.drop(drop, this.#dropped);
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const [, token = '', file] = /^\/([\w-]*)(?:\/([a-z]*))?$/.exec(request.url as string) ?? [];
    const refusal = (this.#guard as Guard).refusal(request, token);
    if (refusal !== undefined) return refuse(response, refusal.status, refusal.text);
    if (file === '') return this.#page(response);
    if (file === 'events') return this.#events(response);
    refuse(response, 404, 'Not found');
  }

  #page(response: ServerResponse): void {
    response.writeHead(200, {
      ...HEADERS,
      'Content-Type': 'text/html; charset=utf-8',
      'Content-Length': this.#html.length,
    });
    response.end(this.#html);
  }

  #events(response: ServerResponse): void {
    if (this.#viewers.size >= this.#maxViewers) return refuse(response, 503, 'Too many pages look on already');
    // Whoever is gone without a word is found out by the system.
    response.socket?.setKeepAlive(true, 30_000);
    response.socket?.setNoDelay(true);
    response.writeHead(200, { ...HEADERS, 'Content-Type': 'text/event-stream', Connection: 'close' });
    response.flushHeaders();
    const viewer = new Viewer(response, this.#history, this.#dropped);
    this.#viewers.add(viewer);
    response.on('close', () => this.#viewers.delete(viewer));
  }
}

function refuse(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, {
    ...HEADERS,
    'Content-Type': 'text/plain; charset=utf-8',
    Connection: 'close',
    ...(status === 405 && { Allow: 'GET' }),
  });
  response.end(`${text}\n`);
}

/** A web page that shows conversations as they go: see Ladder. @throws MilterError ERR_MILTER_OPTION */
export function createLadder(options?: LadderOptions): Ladder {
  return new Ladder(options);
}
