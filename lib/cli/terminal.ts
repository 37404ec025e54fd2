/** Text for people: colours where they are wanted, and nothing in it that a terminal would act upon. */
import type { Io, Output } from './command.js';

type Painter = (text: string) => string;

export interface Paint {
  readonly bold: Painter;
  readonly dim: Painter;
  readonly red: Painter;
  readonly green: Painter;
  readonly yellow: Painter;
}

/** The colours for a stream: NO_COLOR (no-color.org) wins over FORCE_COLOR, which wins over what the stream is. */
export function paintFor(stream: Output, env: Io['env']): Paint {
  const forced = env['FORCE_COLOR'] !== undefined && env['FORCE_COLOR'] !== '0';
  const wanted = forced || (stream.isTTY === true && env['TERM'] !== 'dumb');
  const colour = wanted && !env['NO_COLOR'];
  const painter =
    (code: number): Painter =>
    (text) =>
      colour ? `\x1b[${code}m${text}\x1b[0m` : text;
  return { bold: painter(1), dim: painter(2), red: painter(31), green: painter(32), yellow: painter(33) };
}

/** Controls, invisible marks that change how text is laid out, and the surrogates that stand for single bytes. */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** A text of anybody's on one line of a terminal: what is no visible character is written out. A tab stays. */
export function printable(text: string): string {
  return text.replace(UNSAFE, (character) => {
    if (character === '\t') return character;
    if (character === '\r') return '\\r';
    if (character === '\n') return '\\n';
    const point = character.codePointAt(0) as number;
    const byte = point >= 0xdc80 && point <= 0xdcff ? point - 0xdc00 : point;
    return byte < 0x80 || byte !== point ? `\\x${byte.toString(16).padStart(2, '0')}` : `\\u{${point.toString(16)}}`;
  });
}

/** A value as JSON on one line, nothing lost: a byte that is no UTF-8 is a lone surrogate, as everywhere in the library. */
export function jsonLine(value: unknown): string {
  return `${escapeJson(JSON.stringify(value))}\n`;
}

/** JSON.stringify() leaves some of them as they are. */
function escapeJson(json: string): string {
  return json.replace(UNSAFE, (character) =>
    character
      .split('')
      .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
      .join(''),
  );
}

/** A number of things: `1 line`, `2 lines`. */
export function count(number: number, what: string): string {
  return `${number.toLocaleString('en')} ${what}${number === 1 ? '' : 's'}`;
}

/** Milliseconds, with as many places as tell something. */
export function milliseconds(ms: number): string {
  return `${ms.toFixed(ms < 1 ? 3 : ms < 100 ? 1 : 0)} ms`;
}
