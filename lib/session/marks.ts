/**
 * Decorators for callbacks, as the documentation has them: `@noReply`, `@noCallback` and `@callInThread`. They are standard
 * decorators that mark the function and leave it as it is; plain JavaScript says the same with `static noReply = ['header']`.
 *
 * The marks are kept beside the functions, not on them: a wrapper would lose the marks of a decorator below it. An
 * override without the decorator is unmarked.
 */
import { MilterError } from '../errors.js';
import { STAGE_NAMES, STAGES, type Stage } from '../stages.js';

/** What a callback can be marked with. */
export type Mark = 'noReply' | 'noCallback' | 'callInThread';

/** Every callback there is. */
export type Callback = Stage | 'abort' | 'close';

type AnyFunction = (...args: never[]) => unknown;

const marks = new WeakMap<AnyFunction, Set<Mark>>();

export const CALLBACKS: readonly Callback[] = [...STAGE_NAMES, 'abort', 'close'];

/** The callbacks that have a bit in the protocol. */
const withBits = STAGE_NAMES.filter((stage) => STAGES[stage].no !== 0);

/** @throws MilterError ERR_MILTER_OPTION if a name is not that of a callback that can be marked */
export function checkMarkable(name: unknown, mark: Mark): Callback {
  const markable = mark === 'callInThread' ? CALLBACKS : withBits;
  if (markable.includes(name as Callback)) return name as Callback;
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

/**
 * Under AsyncFactory the callback runs in a thread of a small pool, so that a long computation holds up neither other
 * sessions nor the reading of this one. Each session has an object of its own there, which the marked callbacks share:
 * the fields of the unmarked ones' object are not seen. What is there: the arguments, macro(), setReply(), skip(), all
 * verdicts, the edits in eob(), `context` as a clone, and `shared` from the setup() of that thread; `signal` throws.
 * The class needs `static module = import.meta.url`. ThreadFactory, ForkFactory and createSession() run the callback in
 * place. In plain JavaScript: `static callInThread = ['body']`.
 * @throws MilterError ERR_MILTER_OPTION on what is no callback, when the class is defined
 */
export const callInThread = marker('callInThread');
