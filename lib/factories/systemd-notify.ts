/**
 * Tells systemd how the service is doing: sd_notify(3). Node has no Unix datagram sockets, so systemd's own program does
 * it, which comes with systemd itself.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const execute = promisify(execFile);

/** It waits for systemd to have read the message, 5 seconds at most. */
const TIMEOUT = 10_000;

export class SystemdNotify {
  readonly #failed: (error: Error) => void;
  #last: Promise<void> = Promise.resolve();

  /** @param failed is told when systemd could not be: that is never a reason to stop */
  constructor(failed: (error: Error) => void) {
    this.#failed = failed;
  }

  /** Settles when everything has been told, or cannot be. */
  get told(): Promise<void> {
    return this.#last;
  }

  /** Tells variables like `READY=1`, after what was told before; does nothing where nobody listens. */
  tell(...variables: string[]): void {
    if (!process.env['NOTIFY_SOCKET']) return;
    // Each is a line to systemd.
    const lines = variables.map((variable) => variable.replace(/\s+/g, ' '));
    this.#last = this.#last.then(() => this.#run(lines));
  }

  async #run(lines: string[]): Promise<void> {
    try {
      await execute('systemd-notify', lines, { timeout: TIMEOUT });
    } catch (error) {
      this.#failed(error as Error);
    }
  }
}
