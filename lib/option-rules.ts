/** What options are held to: a rule in words that an error can say, and the check. */
import { MilterError, show } from './errors.js';

/** setTimeout() takes no more ms; longer ones would fire at once. */
export const MAX_MS = 0x7fff_ffff;

export type Rule = readonly [words: string, holds: (value: unknown) => boolean];

export const isWhole = (value: unknown, min: number, max: number): boolean =>
  Number.isInteger(value) && (value as number) >= min && (value as number) <= max;

/** A whole number above 0. */
export const wholeTo = (max: number): Rule => [
  `must be a whole number from 1 to ${max}`,
  (value) => isWhole(value, 1, max),
];

export const oneOf = (...words: readonly string[]): Rule => [
  `must be ${words.map((word) => `'${word}'`).join(' or ')}`,
  (value) => words.includes(value as string),
];

export const yesOrNo: Rule = ['must be true or false', (value) => typeof value === 'boolean'];

export const abortSignal: Rule = ['must be an AbortSignal', (value) => value instanceof AbortSignal];

export function optionError(name: string, words: string, value: unknown): MilterError {
  return new MilterError('ERR_MILTER_OPTION', `${name} ${words}, got ${show(value)}`);
}

/**
 * Holds options to their rules; undefined is as if an option were not there.
 * @throws MilterError ERR_MILTER_OPTION that names the option and what it got
 */
export function holdToRules<T extends object>(options: T, rules: Readonly<Record<keyof T, Rule>>): void {
  for (const [name, value] of Object.entries(options)) {
    const rule = Object.hasOwn(rules, name) ? rules[name as keyof T] : undefined;
    if (rule === undefined) throw optionError(name, 'is no option', value);
    if (value !== undefined && !rule[1](value)) throw optionError(name, rule[0], value);
  }
}
