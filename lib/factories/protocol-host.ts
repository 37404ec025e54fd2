/**
 * The program of a worker thread or process: joins a WorkerHost and what carries its messages.
 *
 * A process ignores SIGINT, SIGTERM and SIGHUP, which a terminal or a service manager sends to the whole group: its factory
 * decides when it ends. It ends by itself when the factory is gone.
 */
import type { Socket } from 'node:net';
import { parentPort } from 'node:worker_threads';
import { isEnvelope, type Envelope, type FromWorker, type ToWorker } from './messages.js';
import { enterWorker } from './worker-context.js';
import { WorkerHost } from './worker-host.js';

enterWorker();

/** A factory's thread may itself belong to a process with a channel, so the thread is looked for first. */
if (parentPort !== null) inThread(parentPort);
else inProcess();

function inThread(port: NonNullable<typeof parentPort>): void {
  const host = new WorkerHost({
    send(batch, answer) {
      port.postMessage({ milterStream: batch, answer }, buffersOf(batch));
    },
    exit: (code) => process.exit(code),
  });
  port.on('message', (message: unknown) => {
    if (isEnvelope<ToWorker>(message)) host.receive(message.milterStream);
  });
}

/** Their memory moves to the factory instead of being copied once more. */
function buffersOf(batch: readonly FromWorker[]): ArrayBuffer[] {
  const buffers: ArrayBuffer[] = [];
  for (const message of batch) if (message[0] === 'bytes') buffers.push(message[2].buffer as ArrayBuffer);
  return buffers;
}

function inProcess(): void {
  const send = (message: Envelope<FromWorker>, done: () => void): void => {
    (process.send as NonNullable<typeof process.send>)(message, undefined, undefined, done);
  };
  const host = new WorkerHost({
    send(batch, answer) {
      if (process.connected) send({ milterStream: batch, answer }, () => {});
    },
    exit(code) {
      if (!process.connected) process.exit(code);
      // Behind everything else on the channel.
      send({ milterStream: [] }, () => process.exit(code));
    },
  });
  process.on('message', (message: unknown, socket: unknown) => {
    if (isEnvelope<ToWorker>(message)) host.receive(message.milterStream, socket as Socket | undefined);
  });
  process.on('disconnect', () => host.abandoned());
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
  process.on('uncaughtExceptionMonitor', (error) => host.dying(error));
}
