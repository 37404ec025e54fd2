/** What is said about a message in the log: one line at its end, when asked for, and what a dry run would have done. */
import type { EditCounts } from './edits.js';
import type { Answer } from './host.js';
import type { MacroStore } from './macros.js';
import type { CheckedOptions } from './options.js';

export class MessageLog {
  /** The edits that were made, or in a dry run would have been. */
  edits: EditCounts | undefined;

  readonly #options: CheckedOptions;
  readonly #macros: MacroStore;
  #since = 0;

  constructor(options: CheckedOptions, macros: MacroStore) {
    this.#options = options;
    this.#macros = macros;
  }

  begin(): void {
    this.edits = undefined;
    if (this.#options.logMessages) this.#since = performance.now();
  }

  /** What was not done; never content. */
  dryRun(stage: string, { verdict, text }: Answer): void {
    const details = { queueId: this.#macros.get('i'), stage, verdict, reply: text, edits: this.edits };
    this.#options.log.info(details, `dry run: ${stage}() would have said ${verdict}`);
  }

  end(stage: string, verdict: string): void {
    const { log, logMessages, dryRun } = this.#options;
    if (dryRun && stage === 'eob' && this.edits !== undefined) {
      log.info({ queueId: this.#macros.get('i'), edits: this.edits }, 'dry run: eob() would have changed the message');
    }
    if (!logMessages) return;
    const ms = Math.round(performance.now() - this.#since);
    const details = { queueId: this.#macros.get('i'), verdict, stage, edits: this.edits, ms, worker: process.pid };
    log.info(details, `message: ${verdict}`);
  }
}
