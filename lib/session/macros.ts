/**
 * The macros a mail server has sent, by stage, with libmilter's priority and lifetimes.
 *
 * A packet replaces all the macros of its stage. A command ends the macros of the stages behind it, and those of its own
 * stage that came for an earlier command of the kind. The macros of MAIL and later end with the message. Those under the
 * letters of HEADER, BODY, UNKNOWN and ABORT, which Postfix sends, live for that one command.
 */
import type { MacroCommand } from '../codec/commands.js';
import type { MacroPair } from '../codec/fields.js';

/** The macros of one command: found as `i` and as `{i}`, as `mail_addr` and as `{mail_addr}`. Frozen, no prototype. */
export type MacroDict = Readonly<Record<string, string | undefined>>;

/** No macros. */
export const NO_MACROS: MacroDict = Object.freeze(Object.create(null) as MacroDict);

/** From the lowest priority to the highest: the order of the commands. */
const LASTING = 'CHMRTNE';
/** Those that outlive a message. */
const BEFORE_MESSAGE = 'CH';

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
  readonly #entries = new Map<string, Entry>();
  /** The letter of the command that is being handled, if its macros live for that command alone. */
  #passing = '';

  /** Takes a macro packet. Postfix repeats one before every header: an equal one gives the same object again. */
  define(command: MacroCommand): void {
    const entry = this.#entries.get(command.stage);
    if (entry === undefined) {
      const dict = makeDict(command.macros);
      this.#entries.set(command.stage, { pairs: command.macros, dict, fresh: true, live: true });
      return;
    }
    if (!samePairs(entry.pairs, command.macros)) {
      entry.pairs = command.macros;
      entry.dict = makeDict(command.macros);
    }
    entry.fresh = true;
    entry.live = true;
  }

  /** Says that the command of a letter comes now, and gives its macros. */
  begin(letter: string): MacroDict {
    const place = LASTING.indexOf(letter);
    this.#passing = place < 0 ? letter : '';
    if (place >= 0 && place < 4) this.#clearFrom(place + 1);
    const entry = this.#entries.get(letter);
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
    for (const [letter, entry] of this.#entries) {
      if (BEFORE_MESSAGE.includes(letter) || (letter === 'M' && entry.fresh)) continue;
      entry.live = false;
    }
  }

  /** An SMTP session is over. */
  clear(): void {
    this.#entries.clear();
  }

  /** Looks for a macro in all live stages, the latest first; the name with or without braces. */
  get(name: string): string | undefined {
    const passing = this.#passing === '' ? undefined : this.#entries.get(this.#passing);
    if (passing?.live === true && passing.dict[name] !== undefined) return passing.dict[name];
    for (let i = LASTING.length - 1; i >= 0; i--) {
      const entry = this.#entries.get(LASTING[i] as string);
      if (entry?.live === true && entry.dict[name] !== undefined) return entry.dict[name];
    }
    return undefined;
  }

  /** All that get() finds, by its bare name. */
  all(): MacroPair[] {
    const pairs = new Map<string, string>();
    for (const letter of LASTING.split('').concat(this.#passing)) {
      const entry = this.#entries.get(letter);
      if (entry?.live !== true) continue;
      for (const [name, value] of Object.entries(entry.dict)) pairs.set(name, value as string);
    }
    return [...pairs];
  }

  #clearFrom(place: number): void {
    for (let i = place; i < LASTING.length; i++) {
      const entry = this.#entries.get(LASTING[i] as string);
      if (entry !== undefined) entry.live = false;
    }
  }
}

function samePairs(a: readonly MacroPair[], b: readonly MacroPair[]): boolean {
  return a.length === b.length && a.every(([name, value], i) => name === b[i]?.[0] && value === b[i]?.[1]);
}

/** The macros of a packet, as a milter sees them. */
export function makeDict(pairs: readonly MacroPair[]): MacroDict {
  if (pairs.length === 0) return NO_MACROS;
  const dict = Object.create(null) as Record<string, string>;
  for (const [name, value] of pairs) {
    const bare = name.startsWith('{') && name.endsWith('}') ? name.slice(1, -1) : name;
    dict[bare] = value;
    // The other spelling is found too, but not listed: a printed dictionary shows each macro once.
    Object.defineProperty(dict, `{${bare}}`, { value, configurable: true, writable: true });
  }
  return Object.freeze(dict);
}
