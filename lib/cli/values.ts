/** The values of options as they were given, read as what they should be. */
import { MAX_MS } from '../option-rules.js';
import { usageError } from './exit.js';

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };

export type RawValues = Readonly<Record<string, string | boolean | Array<string | boolean> | undefined>>;

export class Values {
  readonly #raw: RawValues;

  constructor(raw: RawValues) {
    this.#raw = raw;
  }

  flag(name: string): boolean {
    return this.#raw[name] === true;
  }

  text(name: string): string | undefined {
    return this.#raw[name] as string | undefined;
  }

  /** Of an option that may be given several times. */
  list(name: string): readonly string[] {
    return (this.#raw[name] as string[] | undefined) ?? [];
  }

  /** A whole number. */
  whole(name: string, min: number, max: number): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const number = Number(text);
    if (/^\d+$/.test(text) && number >= min && number <= max) return number;
    throw this.bad(name, `must be a whole number from ${min} to ${max}`);
  }

  /** A time in milliseconds: `500ms`, `8s`, `2m`, `1h`; seconds where no unit is. */
  time(name: string): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const [, number = '', unit = 's'] = /^(\d+(?:\.\d+)?)(ms|s|m|h)?$/.exec(text) ?? [];
    const ms = Math.round(Number(number) * (UNITS[unit] as number));
    if (ms >= 1 && ms <= MAX_MS) return ms;
    throw this.bad(name, 'must be a time like 500ms, 8s or 2m');
  }

  /** What goes into a packet ends at a NUL, and would be a command of its own in SMTP behind a line end. */
  line(name: string): string | undefined {
    const text = this.text(name);
    // oxlint-disable-next-line no-control-regex -- they are what is looked for
    if (text !== undefined && (text === '' || /[\0\r\n]/.test(text))) throw this.bad(name, 'must be a line of text');
    return text;
  }

  choice<const T extends string>(name: string, choices: readonly T[]): T | undefined {
    const text = this.text(name);
    if (text === undefined || choices.includes(text as T)) return text as T | undefined;
    throw this.bad(name, `must be ${choices.slice(0, -1).join(', ')} or ${choices.at(-1)}`);
  }

  /** @param rule what was expected */
  bad(name: string, rule: string, text = this.text(name)): Error {
    return usageError(`--${name} ${rule}, got ${JSON.stringify(text)}`);
  }
}
