/** The arguments of `npm run bench`. */
import { parseArgs } from 'node:util';

export interface Arguments {
  /** In the order in which they are measured. */
  readonly groups: readonly string[];
  /** Undefined: each group's own. */
  readonly rounds: number | undefined;
  readonly seconds: number | undefined;
  readonly json: boolean;
  readonly save: string | undefined;
  readonly compare: string | undefined;
  readonly plots: string | undefined;
  readonly help: boolean;
}

/** What cannot be meant. */
export class UsageError extends Error {}

/**
 * @param known the groups there are
 * @throws UsageError
 */
export function readArguments(args: readonly string[], known: readonly string[]): Arguments {
  const { values, positionals } = parse(args);
  const unknown = positionals.find((name) => !known.includes(name));
  if (unknown !== undefined) throw new UsageError(`there is no group '${unknown}', only ${known.join(', ')}`);
  const { rounds, seconds, json = false, save, compare, plots, help = false } = values;
  return {
    groups: positionals.length === 0 ? known : known.filter((name) => positionals.includes(name)),
    rounds: above0('rounds', rounds, Number.isInteger),
    seconds: above0('seconds', seconds, Number.isFinite),
    json,
    save,
    compare,
    plots,
    help,
  };
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        rounds: { type: 'string' },
        seconds: { type: 'string' },
        json: { type: 'boolean' },
        save: { type: 'string' },
        compare: { type: 'string' },
        plots: { type: 'string' },
        help: { type: 'boolean' },
      },
    });
  } catch (error) {
    // Node goes on with advice that does not fit here.
    const [said = ''] = (error as Error).message.split(/\.\s/);
    throw new UsageError(said, { cause: error });
  }
}

function above0(name: string, text: string | undefined, fits: (number: number) => boolean): number | undefined {
  if (text === undefined) return undefined;
  const number = text.trim() === '' ? NaN : Number(text);
  if (!fits(number) || number <= 0) throw new UsageError(`--${name} cannot be '${text}'`);
  return number;
}

/** The command that measures the same again: what only says where results go is left out. */
export function commandOf({ groups, rounds, seconds }: Arguments, known: readonly string[]): string {
  const args = [
    ...(groups.length === known.length ? [] : groups),
    ...(rounds === undefined ? [] : ['--rounds', rounds]),
    ...(seconds === undefined ? [] : ['--seconds', seconds]),
  ];
  return args.length === 0 ? 'npm run bench' : `npm run bench -- ${args.join(' ')}`;
}
