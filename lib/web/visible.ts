/**
 * Text of anybody's on a page: what is no visible character is written out, so that nothing hides, turns the line round or
 * reaches into the next one; and nothing is lost, as the backslash is doubled.
 *
 *   \r \n \t \\    \x00 (a control, or with \x80 to \xff a byte that is no UTF-8)    \u{202e} (any other character)
 */

const UNSEEN = /[\\\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu;

const SHORT: Readonly<Record<string, string>> = { '\\': '\\\\', '\r': '\\r', '\n': '\\n', '\t': '\\t' };

/** A text in the library's way (a byte that is no UTF-8 is one of U+DC80 to U+DCFF), made visible. */
export function visible(text: string): string {
  return text.replace(UNSEEN, (character) => SHORT[character] ?? escaped(character.codePointAt(0) as number));
}

function escaped(point: number): string {
  if (point < 0x80) return `\\x${point.toString(16).padStart(2, '0')}`;
  return point >= 0xdc80 && point <= 0xdcff ? `\\x${(point - 0xdc00).toString(16)}` : `\\u{${point.toString(16)}}`;
}

/** The beginning of a text, at most so many UTF-16 units, no character cut in two. */
export function beginning(text: string, limit: number): string {
  if (text.length <= limit) return text;
  const last = text.charCodeAt(limit - 1);
  const next = text.charCodeAt(limit);
  const splits = last >= 0xd800 && last <= 0xdbff && next >= 0xdc00 && next <= 0xdfff;
  return text.slice(0, splits ? limit - 1 : limit);
}
