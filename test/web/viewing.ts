/** Somebody who looks on without a browser: requests, and the events one by one. */
import { get, request, type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import type { Item } from '../../lib/web/model.js';
import type { Notice } from '../../lib/web/viewer.js';

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
}

/** One request, on a connection of its own. */
export async function ask(url: string, headers: Record<string, string> = {}, method = 'GET'): Promise<Answer> {
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    request(url, { method, headers, agent: false }, resolve).on('error', reject).end();
  });
  let text = '';
  for await (const chunk of response.setEncoding('utf8')) text += chunk as string;
  return { status: response.statusCode as number, headers: response.headers, text };
}

/** Looks on: what is told, in order, until the server ends it. */
export class Looking {
  readonly #response: IncomingMessage;
  readonly #told: AsyncGenerator<Item | Notice, undefined>;

  static async at(url: string): Promise<Looking> {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      get(`${url}events`, { agent: false }, resolve).on('error', reject);
    });
    return new Looking(response);
  }

  constructor(response: IncomingMessage) {
    this.#response = response;
    this.#told = told(response);
  }

  get response(): IncomingMessage {
    return this.#response;
  }

  /** The next thing; undefined at the end. */
  async next(): Promise<Item | Notice | undefined> {
    const { value } = await this.#told.next();
    return value;
  }

  /** All up to the first for which it is so. */
  async until(isLast: (what: Item | Notice) => boolean): Promise<Array<Item | Notice>> {
    const all: Array<Item | Notice> = [];
    for (;;) {
      const what = await this.next();
      if (what === undefined) throw new Error('The server ended it before');
      all.push(what);
      if (isLast(what)) return all;
    }
  }

  leave(): void {
    this.#response.destroy();
  }
}

async function* told(response: IncomingMessage): AsyncGenerator<Item | Notice, undefined> {
  let rest = '';
  for await (const chunk of response.setEncoding('utf8')) {
    const lines = (rest + (chunk as string)).split('\n\n');
    rest = lines.pop() as string;
    for (const line of lines) yield JSON.parse(line.replace(/^data: /, '')) as Item | Notice;
  }
  return undefined;
}
