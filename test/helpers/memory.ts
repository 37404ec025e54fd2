/** What is still held in memory, told without waiting for the garbage collector's own time. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/**
 * Collects everything that can go. Twice, in turns of their own: a WeakRef holds until the end of its turn, and the
 * memory of buffers is given back in the background, by the next collection at the latest.
 */
export async function collectGarbage(): Promise<void> {
  for (let turn = 0; turn < 3; turn++) {
    await new Promise(setImmediate);
    collect();
  }
}

/** The bytes of all objects and buffers that are alive. */
export async function memoryInUse(): Promise<number> {
  await collectGarbage();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}
