/**
 * The macros of one command as a milter sees them. Mail servers send the same lists of names again and again with other
 * values, so what the names of a list become is worked out once, and found again name by name.
 */
import type { MacroPair } from '../codec/fields.js';

/** The macros of one command: found as `i` and as `{i}`, as `mail_addr` and as `{mail_addr}`. Frozen, no prototype. */
export type MacroDict = Readonly<Record<string, string | undefined>>;

/** No macros. */
export const NO_MACROS: MacroDict = Object.freeze(Object.create(null) as MacroDict);

/** Both spellings of a name. */
interface Spellings {
  readonly bare: string;
  readonly braced: string;
}

/** What is known of the lists of names that begin alike. */
interface Names {
  readonly next: Map<string, Names>;
  /** Those of the whole list. */
  spellings?: readonly Spellings[];
}

const first: Names = { next: new Map() };

/** Of a server that invents names all the time not everything is remembered. */
const MOST_NAMES = 1_000;
let known = 0;

/** The macros of a packet, as a milter sees them. */
export function makeDict(pairs: readonly MacroPair[]): MacroDict {
  if (pairs.length === 0) return NO_MACROS;
  const spellings = spellingsOf(pairs);
  // Made like this, V8 keeps it as an object with a shape; one that comes from Object.create(null) is a hash table.
  const dict = Object.setPrototypeOf({}, null) as Record<string, string>;
  for (let i = 0; i < pairs.length; i++) {
    const { bare, braced } = spellings[i] as Spellings;
    const value = (pairs[i] as MacroPair)[1];
    dict[bare] = value;
    // The other spelling is found too, but not listed: a printed dictionary shows each macro once.
    unlisted.value = value;
    Object.defineProperty(dict, braced, unlisted);
  }
  return Object.freeze(dict);
}

const unlisted = { value: '', configurable: true, writable: true };

function spellingsOf(pairs: readonly MacroPair[]): readonly Spellings[] {
  let names: Names | undefined = first;
  for (let i = 0; i < pairs.length && names !== undefined; i++) names = following(names, (pairs[i] as MacroPair)[0]);
  return names === undefined ? spell(pairs) : (names.spellings ??= spell(pairs));
}

function following(names: Names, name: string): Names | undefined {
  const found = names.next.get(name);
  if (found !== undefined || known === MOST_NAMES) return found;
  known++;
  const added: Names = { next: new Map() };
  names.next.set(name, added);
  return added;
}

function spell(pairs: readonly MacroPair[]): readonly Spellings[] {
  return pairs.map(([name]) => {
    const bare = name.startsWith('{') && name.endsWith('}') ? name.slice(1, -1) : name;
    return { bare, braced: `{${bare}}` };
  });
}
