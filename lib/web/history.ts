/**
 * What is kept for those who look later: the items of the last sessions, as JSON, up to a number of sessions and of
 * characters. Sessions that are over go first, the oldest of them; the only one left loses its older half.
 */

/** An item that is kept. `json` is '' when it is not any more. */
export interface Entry {
  /** Counted from 1. */
  readonly seq: number;
  readonly id: number;
  /** Place in its conversation. */
  readonly at: number;
  json: string;
}

/** A session is gone; or what it had before a place. */
export interface Drop {
  readonly id: number;
  readonly before?: number;
}

export interface HistoryLimits {
  readonly maxSessions: number;
  readonly maxLength: number;
}

interface Kept {
  entries: Entry[];
  length: number;
  open: boolean;
}

export class History {
  readonly #limits: HistoryLimits;
  readonly #dropped: (drop: Drop) => void;
  readonly #sessions = new Map<number, Kept>();
  /** By `seq`; among them those that are gone, never more than half. */
  #entries: Entry[] = [];
  #gone = 0;
  #length = 0;
  #seq = 0;

  constructor(limits: HistoryLimits, dropped: (drop: Drop) => void) {
    this.#limits = limits;
    this.#dropped = dropped;
  }

  add({ id, at }: Drop & { readonly at: number }, json: string, isLast: boolean): void {
    let kept = this.#sessions.get(id);
    if (kept === undefined) this.#sessions.set(id, (kept = { entries: [], length: 0, open: true }));
    const entry: Entry = { seq: ++this.#seq, id, at, json };
    kept.entries.push(entry);
    kept.length += json.length;
    kept.open = !isLast;
    this.#entries.push(entry);
    this.#length += json.length;
    this.#makeRoom();
  }

  /** The first item behind that number. */
  after(seq: number): Entry | undefined {
    const all = this.#entries;
    let [low, high] = [0, all.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((all[middle] as Entry).seq > seq) high = middle;
      else low = middle + 1;
    }
    while (all[low]?.json === '') low++;
    return all[low];
  }

  #makeRoom(): void {
    const { maxSessions, maxLength } = this.#limits;
    while (this.#sessions.size > maxSessions || (this.#length > maxLength && this.#sessions.size > 1)) {
      this.#drop(this.#oldest());
    }
    if (this.#length > maxLength) this.#halve();
    if (this.#gone <= this.#entries.length / 2) return;
    this.#entries = this.#entries.filter(({ json }) => json !== '');
    this.#gone = 0;
  }

  #oldest(): number {
    const ids = [...this.#sessions.keys()];
    return ids.find((id) => !(this.#sessions.get(id) as Kept).open) ?? (ids[0] as number);
  }

  #drop(id: number): void {
    this.#forget(this.#sessions.get(id) as Kept, Infinity);
    this.#sessions.delete(id);
    this.#dropped({ id });
  }

  #halve(): void {
    for (const [id, kept] of this.#sessions) {
      const { at } = kept.entries.at(kept.entries.length >> 1) as Entry;
      this.#forget(kept, at);
      this.#dropped({ id, before: at });
    }
  }

  #forget(kept: Kept, before: number): void {
    for (const entry of kept.entries) {
      if (entry.at >= before) continue;
      this.#length -= entry.json.length;
      entry.json = '';
      this.#gone++;
    }
    kept.entries = kept.entries.filter(({ at }) => at >= before);
  }
}
