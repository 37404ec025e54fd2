/** Captures in files, for commands that read them. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { writeCapture, type CaptureEvent, type CaptureFormat } from '../../lib/capture/index.js';
import { collect } from '../helpers/capture.js';
import { STAGES, type Script } from '../helpers/milter.js';
import { recorded } from '../helpers/recorded.js';
import { serving } from './milters.js';

/** A milter that hears everything, and says nothing to it. */
export const ALL: Script = Object.fromEntries(STAGES.map((stage) => [stage, () => {}]));

export interface Captures {
  /** @returns the path of a capture with these events */
  readonly written: (name: string, events: readonly CaptureEvent[], format?: CaptureFormat) => Promise<string>;
  /** @returns the path of a capture of real sessions */
  readonly captured: (
    t: Test,
    name: string,
    script?: Script,
    sessions?: Parameters<typeof recorded>[2],
  ) => Promise<string>;
}

export function capturesIn(folder: string): Captures {
  const written: Captures['written'] = async (name, events, format = 'jsonl') => {
    const path = join(folder, name);
    writeFileSync(path, Buffer.concat(await collect(writeCapture(events, format))));
    return path;
  };
  return {
    written,
    async captured(t, name, script = ALL, sessions = [[{}]]) {
      return written(name, await recorded(t, await serving(t, script), sessions));
    },
  };
}
