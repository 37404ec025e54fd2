/**
 * One page that looks on. It has no queue of its own, only its place in what is kept: a slow one is behind, and misses
 * what is dropped meanwhile; it costs the memory of its socket, and nobody waits for it.
 */
import type { ServerResponse } from 'node:http';
import type { Drop, History } from './history.js';

/** What the server says besides items. */
export type Notice =
  /** Forget everything: it comes again. */
  | { readonly kind: 'hello' }
  /** So many sessions are not kept any more, and have not been. */
  | { readonly kind: 'state'; readonly dropped: number }
  | ({ readonly kind: 'drop' } & Drop)
  /** Nothing more will come. */
  | { readonly kind: 'end' };

export class Viewer {
  readonly #response: ServerResponse;
  readonly #history: History;
  /** What it has been told of these sessions has to be taken back when they are dropped. */
  readonly #known = new Set<number>();
  readonly #drops = new Map<number, Drop>();
  #dropped = 0;
  #said = 0;
  #seq = 0;
  #full = false;

  constructor(response: ServerResponse, history: History, dropped: number) {
    this.#response = response;
    this.#history = history;
    this.#dropped = dropped;
    response.on('drain', () => {
      this.#full = false;
      this.look();
    });
    this.#tell({ kind: 'hello' });
    this.look();
  }

  /** Writes what is new, as far as the socket takes it. */
  look(): void {
    for (const [id, drop] of this.#drops) {
      if (this.#full) return;
      this.#drops.delete(id);
      this.#tell({ kind: 'drop', ...drop });
    }
    if (!this.#full && this.#said !== this.#dropped) {
      this.#said = this.#dropped;
      this.#tell({ kind: 'state', dropped: this.#dropped });
    }
    while (!this.#full) {
      const next = this.#history.after(this.#seq);
      if (next === undefined) return;
      this.#seq = next.seq;
      this.#known.add(next.id);
      this.#write(next.json);
    }
  }

  /** @param dropped how many sessions that have been, all in all */
  drop(drop: Drop, dropped: number): void {
    this.#dropped = dropped;
    if (!this.#known.has(drop.id)) return;
    if (drop.before === undefined) this.#known.delete(drop.id);
    this.#drops.set(drop.id, drop);
  }

  end(): void {
    this.#tell({ kind: 'end' });
    this.#response.end();
  }

  #tell(notice: Notice): void {
    this.#write(JSON.stringify(notice));
  }

  /** JSON has no line ends: each is one `data` line. */
  #write(json: string): void {
    this.#full = !this.#response.write(`data: ${json}\n\n`);
  }
}
