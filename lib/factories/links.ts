/** The two kinds of worker, as a factory sees them: something that takes batches, gives batches, and ends. */
import { fork } from 'node:child_process';
import type { Socket } from 'node:net';
import { Worker, type ResourceLimits } from 'node:worker_threads';
import { BatchPipe, FROM_WORKER, PIPES, TO_WORKER } from './batch-pipe.js';
import { isEnvelope, memoryOf, pack, unpack } from './batch.js';
import type { FromWorker, ToWorker } from './messages.js';
import { inheritedFlags, inheritedVariables } from './worker-environment.js';

export interface LinkEvents {
  received(batch: readonly FromWorker[], answer: boolean): void;
  /** Called once. `cause` is what it died of, where that is known. */
  ended(how: string, cause?: unknown): void;
}

export interface Link {
  /** What it is called in messages and log lines: `process 4711`, `thread 3`. */
  readonly name: string;
  /** @param socket goes with the batch, and stays open here */
  send(batch: readonly ToWorker[], socket?: Socket): void;
  /** Ends it at once, whatever it is doing. */
  kill(): void;
}

export type StartLink = (events: LinkEvents) => Link;

export interface LinkOptions {
  readonly resourceLimits: ResourceLimits | undefined;
  readonly execArgv: readonly string[] | undefined;
  /** Who has the mail server's sockets. */
  readonly socket: 'parent' | 'child';
}

/** How long a process may live on whose pipe is closed, in ms: it is about to end. */
const SPEECHLESS = 1_000;

const ENTRY = new URL('./protocol-host.js', import.meta.url);

/** The module that workers load is often the program itself, which may read its command line while it loads. */
const commandLine = (): string[] => process.argv.slice(2);

/** Starts worker threads. */
export function threadLink({ resourceLimits, execArgv }: LinkOptions): StartLink {
  const inherited = inheritedFlags(process.execArgv);
  // Left to themselves threads inherit all flags, also those that could not be given to a thread.
  const flags = execArgv ?? (inherited.length < process.execArgv.length ? inherited : undefined);
  return (events) => {
    const worker = new Worker(ENTRY, {
      argv: commandLine(),
      ...(resourceLimits === undefined ? {} : { resourceLimits }),
      ...(flags === undefined ? {} : { execArgv: [...flags] }),
    });
    let cause: unknown;
    const { threadId } = worker; // of a thread that has ended it is -1
    worker.on('message', (message: unknown) => {
      if (isEnvelope<FromWorker>(message)) events.received(unpack(message), message.answer === true);
    });
    worker.on('error', (error) => (cause = error));
    worker.on('exit', (code) => events.ended(`ended with exit code ${code}`, cause));
    return {
      name: `thread ${threadId}`,
      send(batch) {
        const envelope = pack(batch);
        worker.postMessage(envelope, memoryOf(envelope));
      },
      kill: () => void worker.terminate(),
    };
  };
}

/**
 * Starts worker processes. Batches go through a pipe, unless sockets are to go with them: these need Node's own channel,
 * and the order is to be kept.
 */
export function processLink({ resourceLimits, execArgv, socket }: LinkOptions): StartLink {
  const flags = execArgv ?? inheritedFlags(process.execArgv);
  const piped = socket === 'parent';
  return (events) => {
    const child = fork(ENTRY, commandLine(), {
      serialization: 'advanced',
      env: { ...inheritedVariables(process.env), ...(piped && { [PIPES]: 'yes' }) },
      execArgv: [...flags, ...heapFlags(resourceLimits)],
      stdio: ['inherit', 'inherit', 'inherit', 'ipc', ...(piped ? ['pipe' as const, 'pipe' as const] : [])],
    });
    let over = false;
    let nonsense: Error | undefined;
    const end = (how: string, cause?: unknown): void => {
      if (over) return;
      over = true;
      events.ended(how, cause);
    };
    const received = (batch: readonly FromWorker[], answer: boolean): void => {
      if (!over) events.received(batch, answer);
    };
    const broken = (error: Error): void => {
      nonsense = error;
      child.kill('SIGKILL');
    };
    // A process that could not be started, for lack of descriptors, has none.
    const pipes = piped ? (child.stdio as readonly unknown[] | undefined) : undefined;
    const input = pipes?.[FROM_WORKER] as Socket | undefined;
    const pipe = input && new BatchPipe<ToWorker, FromWorker>(input, pipes?.[TO_WORKER] as Socket, received, broken);
    // One that can say nothing any more is of no use, whatever has closed its descriptors.
    input?.on('close', () => setTimeout(() => over || child.kill('SIGKILL'), SPEECHLESS).unref());
    child.on('message', (message: unknown) => {
      if (isEnvelope<FromWorker>(message)) received(unpack(message), message.answer === true);
    });
    child.on('error', (error) => {
      if (child.pid === undefined) end('could not be started', error);
    });
    // What it has said before it ended has been heard by then.
    child.on(piped ? 'close' : 'exit', (code: number | null, signal: string | null) =>
      end(signal === null ? `ended with exit code ${code}` : `was ended by ${signal}`, nonsense),
    );
    return {
      name: `process ${child.pid ?? '(none)'}`,
      send(batch, socket) {
        // What cannot be sent because it is about to end is answered when it has ended.
        if (pipe !== undefined) pipe.send(batch);
        else if (child.connected) child.send(pack(batch), socket, { keepOpen: true }, () => {});
      },
      kill: () => void child.kill('SIGKILL'),
    };
  };
}

/** What Node calls the limits of a thread when they are those of a process. */
function heapFlags(limits: ResourceLimits | undefined): string[] {
  const { maxOldGenerationSizeMb, maxYoungGenerationSizeMb, stackSizeMb } = limits ?? {};
  return [
    ...(maxOldGenerationSizeMb === undefined ? [] : [`--max-old-space-size=${maxOldGenerationSizeMb}`]),
    // The young generation is three semi-spaces.
    ...(maxYoungGenerationSizeMb === undefined
      ? []
      : [`--max-semi-space-size=${Math.max(1, Math.floor(maxYoungGenerationSizeMb / 3))}`]),
    ...(stackSizeMb === undefined ? [] : [`--stack-size=${Math.floor(stackSizeMb * 1024)}`]),
  ];
}
