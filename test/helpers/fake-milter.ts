/**
 * A milter that says what a script tells it to, right or wrong, byte by byte. What nothing is said about it answers as
 * a simple milter would: it agrees to everything it is offered but steps, and continues.
 */
import { Duplex } from 'node:stream';
import { commandParser, type Command } from '../../lib/codec/index.js';
import { packet, u32 } from './bytes.js';

/** Where the script writes. */
export interface Line {
  write(bytes: Buffer): void;
  /** Ends the connection in good order. */
  end(): void;
  /** Breaks it. */
  break(error: Error): void;
}

/** Bytes to answer with (none: silence), or something to do. */
export type Says = Buffer | ((line: Line) => void);

/** What is said to each kind of command. A list: to the first, the second, …; to further ones as the last. */
export type Script = { readonly [T in Command['type'] | 'malformed']?: Says | readonly Says[] };

export interface FakeMilter {
  /** The mail server's end. */
  readonly stream: Duplex;
  /** Every command that came, in order. */
  readonly heard: Command[];
}

/** The milter's answer to an offer. */
export const agrees = (version = 6, actions = 0x1ff, protocol = 0, ...lists: Buffer[]): Buffer =>
  packet('O', u32(version), u32(actions), u32(protocol), ...lists);

/** One list of macros behind an answer to an offer. */
export const list = (stage: number, names: string): Buffer =>
  Buffer.concat([u32(stage), Buffer.from(`${names}\0`, 'latin1')]);

export const silence = Buffer.alloc(0);

const UNANSWERED = new Set<string>(['macro', 'abort', 'quit', 'quitNewConnection', 'unrecognized']);

export function fakeMilter(script: Script = {}): FakeMilter {
  const heard: Command[] = [];
  const parser = commandParser({ maxPayload: 0x3fff_ffff, lenient: true });
  const stream = new Duplex({
    read() {},
    write(bytes: Buffer, _encoding, done) {
      parser.parse(bytes, { packet: (command) => hear(command as Command) });
      done();
    },
    final(done) {
      stream.push(null);
      done();
    },
  });
  const line: Line = {
    write: (bytes) => void stream.push(bytes),
    end: () => void stream.push(null),
    break: (error) => void stream.destroy(error),
  };
  const hear = (command: Command): void => {
    const says = scripted(script[command.type], heard.filter(({ type }) => type === command.type).length);
    heard.push(command);
    if (typeof says === 'function') says(line);
    else if (says !== undefined) line.write(says);
    else if (command.type === 'negotiate') line.write(agrees(command.version, command.actions));
    else if (!UNANSWERED.has(command.type)) line.write(packet('c'));
  };
  return { stream, heard };
}

function scripted(says: Says | readonly Says[] | undefined, before: number): Says | undefined {
  return Array.isArray(says)
    ? (says as readonly Says[])[Math.min(before, says.length - 1)]
    : (says as Says | undefined);
}
