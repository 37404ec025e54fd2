/** Finds the milter's class in a worker, by the module and the name that its factory knows. */
import { MilterError, show } from '../errors.js';
import { urlOf } from './module-of.js';
import { brandOf, type ProtocolClass } from '../session/protocol.js';
import { enterWorker } from './worker-context.js';

/**
 * The class: an export of that name, the default export among them, then one of that name that was handed to a factory
 * while the module was loading, which finds an unexported class in a single file. Its `static module` must be the module
 * itself: an inherited one names another.
 * @throws MilterError ERR_MILTER_WORKER when the module does not load, or has no such class
 */
export async function findClass(module: string, name: string): Promise<ProtocolClass> {
  const { classes } = enterWorker();
  let exports: Record<string, unknown>;
  try {
    exports = (await import(module)) as Record<string, unknown>;
  } catch (cause) {
    throw new MilterError('ERR_MILTER_WORKER', notLoaded(module, cause, classes.length > 0), { cause });
  }
  const lives = (value: unknown): value is ProtocolClass => {
    if (brandOf(value) === undefined || !Object.hasOwn(value as object, 'module')) return false;
    const { module: own } = value as { module: unknown };
    return typeof own === 'string' && urlOf(own) === module;
  };
  const named = (value: unknown): value is ProtocolClass => lives(value) && value.name === name;
  // Mail must not go through another class than the one that was meant.
  const exported = new Set(Object.values(exports).filter(named));
  const found = exported.size > 0 ? exported : new Set(classes.filter(named));
  if (found.size === 1) return [...found][0] as ProtocolClass;
  if (found.size > 1) throw new MilterError('ERR_MILTER_WORKER', ambiguous(module, name, found.size));
  throw new MilterError('ERR_MILTER_WORKER', notFound(module, name, exports));
}

/** @param begun a factory was made before it failed */
function notLoaded(module: string, cause: unknown, begun: boolean): string {
  const known = cause instanceof Error;
  const hint = begun ? ' (what stands behind run() runs in workers as well: isMilterWorker() tells)' : '';
  const where = cause instanceof SyntaxError ? ', in it or in a module that it imports' : '';
  const why = `The module ${module} does not load in a worker${where}: ${known ? cause.message : show(cause)}${hint}`;
  if (!known || (cause as NodeJS.ErrnoException).code !== 'ERR_UNKNOWN_FILE_EXTENSION') return why;
  return `${why}. tsx does not reach into worker threads: run the JavaScript that tsc makes, or use AsyncFactory or ForkFactory`;
}

function notFound(module: string, name: string, exports: Record<string, unknown>): string {
  const milters = Object.entries(exports).filter(([, value]) => brandOf(value) !== undefined);
  const has =
    milters.length === 0
      ? `it exports no class that extends MilterProtocol (${Object.keys(exports).join(', ') || 'nothing'})`
      : `it exports ${milters.map(([key]) => key).join(', ')}, which say another module or none`;
  return (
    `The module ${module} has no class ${name || 'without a name'}: ${has}. ` +
    `Export it there, \`export class ${name || 'MyMilter'}\`, with the line \`static module = import.meta.url;\` in it; ` +
    `or give it to a factory while the module loads, in workers as well`
  );
}

function ambiguous(module: string, name: string, count: number): string {
  const called = name === '' ? 'without a name' : `called ${name}`;
  return `The module ${module} has ${count} classes ${called}, and mail must go through the right one: give each a name`;
}
