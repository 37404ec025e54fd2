/** The milter's own preparations and cleaning up: once in each thread or process that runs its callbacks. */
import { MilterError, show } from '../errors.js';
import type { ProtocolClass } from '../session/protocol.js';

/** @throws MilterError ERR_MILTER_CALLBACK with what setup() threw as its cause */
export async function setUp(Milter: ProtocolClass, context: unknown): Promise<unknown> {
  try {
    return await Milter.setup?.(context);
  } catch (cause) {
    throw failed(Milter, 'setup', cause);
  }
}

/** A teardown() that fails is told of and changes nothing. */
export async function tearDown(
  Milter: ProtocolClass,
  shared: unknown,
  report: (error: MilterError) => void,
): Promise<void> {
  try {
    await Milter.teardown?.(shared);
  } catch (cause) {
    report(failed(Milter, 'teardown', cause));
  }
}

function failed(Milter: ProtocolClass, method: string, cause: unknown): MilterError {
  const message = `${Milter.name}.${method}() failed: ${cause instanceof Error ? cause.message : show(cause)}`;
  return new MilterError('ERR_MILTER_CALLBACK', message, { cause });
}
