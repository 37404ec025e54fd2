// Waiting for the outside world: ask again until it is so.

import { setTimeout as delay } from 'node:timers/promises';

/** Resolves with the first truthy answer of `probe`; rejects after `seconds`, naming what was waited for. */
export async function until<T>(
  what: string,
  probe: () => T | Promise<T>,
  seconds = 30,
): Promise<Exclude<T, false | undefined>> {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const answer = await probe();
    if (answer) return answer as Exclude<T, false | undefined>;
    if (Date.now() > deadline) throw new Error(`waited ${seconds} s for ${what}`);
    await delay(20);
  }
}
