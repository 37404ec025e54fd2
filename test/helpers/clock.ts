/**
 * Time that passes when the test says so: nothing has to be waited for, and nothing comes too early or too late.
 * Stands in for setTimeout(), clearTimeout() and performance.now() of this process until the test ends.
 */
import type { Test } from 'tap';
import { settled } from './streams.js';

interface Alarm {
  readonly at: number;
  readonly fire: () => void;
  unref(): Alarm;
}

export interface Clock {
  /** Lets time pass; what is due happens in its order, and what follows from that is done when it resolves. */
  pass(ms: number): Promise<void>;
}

export function stopClock(t: Test): Clock {
  const clear = globalThis.clearTimeout;
  const alarms = new Set<Alarm>();
  let now = 1000;
  const setTimeout = (fire: () => void, ms: number): Alarm => {
    const alarm: Alarm = { at: now + ms, fire, unref: () => alarm };
    alarms.add(alarm);
    return alarm;
  };
  const clearTimeout = (alarm: Alarm): void => {
    if (!alarms.delete(alarm)) clear(alarm as unknown as NodeJS.Timeout);
  };
  t.intercept(globalThis, 'setTimeout', { value: setTimeout });
  t.intercept(globalThis, 'clearTimeout', { value: clearTimeout });
  t.intercept(performance, 'now', { value: () => now });
  return {
    async pass(ms) {
      const end = now + ms;
      await settled();
      for (;;) {
        const [next] = [...alarms].filter((alarm) => alarm.at <= end).toSorted((a, b) => a.at - b.at);
        if (next === undefined) break;
        alarms.delete(next);
        now = Math.max(now, next.at);
        next.fire();
        await settled();
      }
      now = end;
    },
  };
}
