/**
 * The program of a worker thread or process: joins a WorkerHost and what carries its messages.
 *
 * A process ignores SIGINT, SIGTERM and SIGHUP, which a terminal or a service manager sends to the whole group: its factory
 * decides when it ends. It ends by itself when the factory is gone.
 */
import { Socket } from 'node:net';
import { parentPort } from 'node:worker_threads';
import { BatchPipe, FROM_WORKER, PIPES, TO_WORKER } from './batch-pipe.js';
import { isEnvelope, memoryOf, pack, unpack, type Envelope } from './batch.js';
import type { FromWorker, ToWorker } from './messages.js';
import { enterWorker } from './worker-context.js';
import { WorkerHost } from './worker-host.js';

enterWorker();

/** A factory's thread may itself belong to a process with a channel, so the thread is looked for first. */
if (parentPort !== null) inThread(parentPort);
else inProcess();

function inThread(port: NonNullable<typeof parentPort>): void {
  const host = new WorkerHost({
    send(batch, answer) {
      const envelope = pack(batch, answer);
      port.postMessage(envelope, memoryOf(envelope));
    },
    exit: (code) => process.exit(code),
  });
  port.on('message', (message: unknown) => {
    if (isEnvelope<ToWorker>(message)) host.receive(unpack(message));
  });
}

function inProcess(): void {
  const piped = process.env[PIPES] !== undefined;
  delete process.env[PIPES]; // it is not meant for the processes of this one
  if (piped) {
    withPipes();
    return;
  }
  const send = (message: Envelope<FromWorker>, done: () => void): void => {
    (process.send as NonNullable<typeof process.send>)(message, undefined, undefined, done);
  };
  const host = new WorkerHost({
    send(batch, answer) {
      if (process.connected) send(pack(batch, answer), () => {});
    },
    exit(code) {
      if (!process.connected) process.exit(code);
      // Behind everything else on the channel.
      send({ milterStream: [] }, () => process.exit(code));
    },
  });
  process.on('message', (message: unknown, socket: unknown) => {
    if (isEnvelope<ToWorker>(message)) host.receive(unpack(message), socket as Socket | undefined);
  });
  process.on('disconnect', () => host.abandoned());
  together(host);
}

function together(host: WorkerHost): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
  process.on('uncaughtExceptionMonitor', (error) => host.dying(error));
}

function withPipes(): void {
  const input = new Socket({ fd: TO_WORKER, readable: true, writable: false });
  const output = new Socket({ fd: FROM_WORKER, readable: false, writable: true });
  const host = new WorkerHost({
    send: (batch, answer) => pipe.send(batch, answer),
    exit: (code) => pipe.end(() => process.exit(code)), // behind everything else
  });
  const pipe = new BatchPipe<FromWorker, ToWorker>(
    input,
    output,
    (batch) => host.receive(batch),
    (error) => {
      throw error; // a mistake of the factory: this process dies of it, and says so
    },
  );
  input.on('close', () => host.abandoned());
  together(host);
}
