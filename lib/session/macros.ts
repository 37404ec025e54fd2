/**
 * The macros a mail server has sent, by stage, with libmilter's priority and lifetimes.
 *
 * A packet replaces all the macros of its stage. A command ends the macros of the stages behind it, and those of its own
 * stage that came for an earlier command of the kind. The macros of MAIL and later end with the message. Those under the
 * letters of HEADER, BODY, UNKNOWN and ABORT, which Postfix sends, live for that one command.
 */
import type { MacroCommand } from '../codec/commands.js';
import type { MacroPair } from '../codec/fields.js';
import { makeDict, NO_MACROS, type MacroDict } from './macro-dict.js';

/** From the lowest priority to the highest: the order of the commands. */
const LASTING = 'CHMRTNE';
/** MAIL: the macros before it outlive a message. */
const FIRST_OF_MESSAGE = LASTING.indexOf('M');

/** The macros of one letter. */
interface Entry {
  pairs: readonly MacroPair[];
  dict: MacroDict;
  /** Came after the last command of this letter: they belong to the next one. */
  fresh: boolean;
  /** Can be looked up. The others are kept only to be recognised when they are sent again. */
  live: boolean;
}

export class MacroStore {
  /** By place in LASTING. */
  readonly #lasting: Array<Entry | undefined> = LASTING.split('').map(() => undefined);
  readonly #passing = new Map<string, Entry>();
  /** Those of the command that is being handled, if its macros live for that command alone. */
  #now: Entry | undefined;

  /** Takes a macro packet. Postfix repeats one before every header: an equal one gives the same object again. */
  define({ stage, macros }: MacroCommand): void {
    const entry = this.#entry(stage);
    if (entry === undefined) {
      this.#add(stage, { pairs: macros, dict: makeDict(macros), fresh: true, live: true });
      return;
    }
    if (!samePairs(entry.pairs, macros)) {
      entry.pairs = macros;
      entry.dict = makeDict(macros);
    }
    entry.fresh = true;
    entry.live = true;
  }

  /** Says that the command of a letter comes now, and gives its macros. */
  begin(letter: string): MacroDict {
    const place = LASTING.indexOf(letter);
    if (place >= 0 && place < 4) this.#clearFrom(place + 1);
    const entry = place >= 0 ? this.#lasting[place] : this.#passing.get(letter);
    this.#now = place >= 0 ? undefined : entry;
    if (entry === undefined) return NO_MACROS;
    if (!entry.fresh) entry.live = false;
    entry.fresh = false;
    return entry.live ? entry.dict : NO_MACROS;
  }

  /**
   * A message is over: its macros must not be seen in the next one. A MAIL that ends it comes behind its own macros:
   * these stay.
   */
  endMessage(): void {
    for (let i = FIRST_OF_MESSAGE; i < LASTING.length; i++) {
      const entry = this.#lasting[i];
      if (entry !== undefined && !(i === FIRST_OF_MESSAGE && entry.fresh)) entry.live = false;
    }
    for (const entry of this.#passing.values()) entry.live = false;
  }

  /** An SMTP session is over. */
  clear(): void {
    this.#lasting.fill(undefined);
    this.#passing.clear();
    this.#now = undefined;
  }

  /** Looks for a macro in all live stages, the latest first; the name with or without braces. */
  get(name: string): string | undefined {
    if (this.#now?.live === true) {
      const value = this.#now.dict[name];
      if (value !== undefined) return value;
    }
    for (let i = LASTING.length - 1; i >= 0; i--) {
      const entry = this.#lasting[i];
      if (entry === undefined || !entry.live) continue;
      const value = entry.dict[name];
      if (value !== undefined) return value;
    }
    return undefined;
  }

  /** All that get() finds, by its bare name. */
  all(): MacroPair[] {
    const pairs = new Map<string, string>();
    for (const entry of [...this.#lasting, this.#now]) {
      if (entry?.live !== true) continue;
      for (const [name, value] of Object.entries(entry.dict)) pairs.set(name, value as string);
    }
    return [...pairs];
  }

  #entry(letter: string): Entry | undefined {
    const place = LASTING.indexOf(letter);
    return place >= 0 ? this.#lasting[place] : this.#passing.get(letter);
  }

  #add(letter: string, entry: Entry): void {
    const place = LASTING.indexOf(letter);
    if (place >= 0) this.#lasting[place] = entry;
    else this.#passing.set(letter, entry);
  }

  #clearFrom(place: number): void {
    for (let i = place; i < LASTING.length; i++) {
      const entry = this.#lasting[i];
      if (entry !== undefined) entry.live = false;
    }
  }
}

function samePairs(a: readonly MacroPair[], b: readonly MacroPair[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) {
    const [name, value] = a[i] as MacroPair;
    const other = b[i] as MacroPair;
    if (name !== other[0] || value !== other[1]) return false;
  }
  return true;
}
