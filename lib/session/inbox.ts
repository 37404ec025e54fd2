/**
 * The commands that came while a callback was busy. The session reads ahead a little, because a paused socket tells
 * nothing of its end; beyond the limit it stops reading, which is the back-pressure.
 */
import type { Command } from '../codec/commands.js';

/** How many bytes are read ahead. */
const READ_AHEAD = 64 * 1024;

export class Inbox {
  #commands: Command[] = [];
  #next = 0;
  #bytes = 0;

  get empty(): boolean {
    return this.#next === this.#commands.length;
  }

  /** Enough was read ahead. */
  get full(): boolean {
    return this.#bytes >= READ_AHEAD;
  }

  /** Counts bytes that were read ahead. */
  count(bytes: number): void {
    this.#bytes += bytes;
  }

  add(command: Command): void {
    this.#commands.push(command);
  }

  /** Puts commands in front of all others. */
  addFirst(...commands: Command[]): void {
    this.#commands.splice(this.#next, 0, ...commands);
  }

  take(): Command {
    const command = this.#commands[this.#next++] as Command;
    if (this.empty) this.clear();
    return command;
  }

  clear(): void {
    this.#commands = [];
    this.#next = 0;
    this.#bytes = 0;
  }
}
