/**
 * Decorators for callbacks, as the documentation has them: `@noReply` and `@noCallback`. They are standard decorators
 * that mark the function and leave it as it is; plain JavaScript says the same with `static noReply = ['header']`.
 *
 * The marks are kept beside the functions, not on them: a wrapper would lose the marks of a decorator below it. An
 * override without the decorator is unmarked.
 */
import { MilterError } from '../errors.js';
import { STAGE_NAMES, STAGES, type Stage } from '../stages.js';

/** What a callback can be marked with. */
export type Mark = 'noReply' | 'noCallback';

type AnyFunction = (...args: never[]) => unknown;

const marks = new WeakMap<AnyFunction, Set<Mark>>();

/** The callbacks that can be marked: those with a bit in the protocol for it. */
const markable = STAGE_NAMES.filter((stage) => STAGES[stage].no !== 0);

/** @throws MilterError ERR_MILTER_OPTION if a name is not that of a callback that can be marked */
export function checkMarkable(name: unknown, mark: Mark): Stage {
  if (markable.includes(name as Stage)) return name as Stage;
  throw new MilterError(
    'ERR_MILTER_OPTION',
    `${mark} works on the callbacks ${markable.join(', ')}; it cannot be used on ${String(name)}`,
  );
}

function marker(mark: Mark) {
  return <T extends AnyFunction>(callback: T, context: ClassMethodDecoratorContext): void => {
    checkMarkable(context.name, mark);
    const set = marks.get(callback) ?? new Set();
    marks.set(callback, set.add(mark));
  };
}

/** Whether a callback was marked. */
export function isMarked(callback: AnyFunction, mark: Mark): boolean {
  return marks.get(callback)?.has(mark) === true;
}

/**
 * The callback is called, and the mail server does not wait for an answer (SMFIP_NR_*). A verdict other than CONTINUE
 * is kept and given at the next command of the message that is answered. Where the server always wants an answer, it
 * gets one.
 * @throws MilterError ERR_MILTER_OPTION on eob, abort and close, when the class is defined
 */
export const noReply = marker('noReply');

/**
 * The callback is not called, and the mail server does not send the command (SMFIP_NO*).
 * @throws MilterError ERR_MILTER_OPTION on eob, abort and close, when the class is defined
 */
export const noCallback = marker('noCallback');
