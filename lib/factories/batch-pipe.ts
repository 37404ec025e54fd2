/**
 * Batches through pipes between a factory and a worker process: what Node's own channel does for a fifth of its price. A
 * batch is a frame as the milter protocol has it (length, code, payload), so the same reader cuts it: one of bytes alone,
 * which nearly all are, is written as numbers and the bytes; any other one as v8 serializes it.
 */
import type { Socket } from 'node:net';
import { deserialize, serialize } from 'node:v8';
import { Framer } from '../codec/framer.js';
import { pack, unpack, type Envelope } from './batch.js';
import type { FromWorker, ToWorker } from './messages.js';

/** The variable that says to a worker process that it has pipes. */
export const PIPES = 'MILTER_STREAM_PIPES';
/** Their descriptors there: what the factory says, and what the worker says. */
export const TO_WORKER = 4;
export const FROM_WORKER = 5;

const BYTES = 0x42;
const ANYTHING = 0x56;
/** The largest batch; windows keep it far below. */
const MOST = 0x3fff_ffff;
/** Length and code of the frame, whether it is an answer, how many messages. */
const HEAD = 4 + 1 + 1 + 4;
/** Of a message: its tenant, how many bytes. */
const ENTRY = 4 + 4;

interface Heard<M> {
  readonly batch: readonly M[];
  readonly answer: boolean;
}

/**
 * Writes the batches of one side and reads those of the other. Each way has a pipe of its own: one that cannot be written to
 * any more is closed, and what a process has said before it ended must still be read.
 */
export class BatchPipe<Out extends ToWorker | FromWorker, In extends ToWorker | FromWorker> {
  readonly #output: Socket;
  readonly #received: (batch: readonly In[], answer: boolean) => void;
  readonly #broken: (error: Error) => void;
  readonly #framer = new Framer(MOST);
  #heard: Array<Heard<In>> = [];

  /** @param broken is told when what has come is no batch, and nothing is read any more */
  constructor(
    input: Socket,
    output: Socket,
    received: (batch: readonly In[], answer: boolean) => void,
    broken: (error: Error) => void,
  ) {
    this.#output = output;
    this.#received = received;
    this.#broken = broken;
    input.on('data', (chunk) => this.#read(chunk));
    // The other side has ended, which is told elsewhere.
    input.on('error', () => {});
    output.on('error', () => {});
  }

  send(batch: readonly Out[], answer = false): void {
    if (!this.#output.writable) return;
    this.#output.write(bytesAlone(batch) ? bytesFrame(batch, answer) : anyFrame(pack(batch, answer)));
  }

  /** Says no more; `done` when everything is on its way. */
  end(done: () => void): void {
    if (this.#output.destroyed) done();
    else this.#output.end(done);
  }

  /** What is done with a batch is not in here: its failures are no failures of reading. */
  #read(chunk: Buffer): void {
    let failure: Error | undefined;
    try {
      this.#framer.push(chunk, this);
    } catch (error) {
      failure = error as Error;
    }
    for (const { batch, answer } of this.#heard.splice(0)) this.#received(batch, answer);
    if (failure !== undefined) this.#broken(failure);
  }

  /** Called by the framer. */
  frame(buffer: Buffer, start: number, end: number): void {
    if (buffer[start + 4] === BYTES) {
      this.#heard.push({ batch: readBytes<In>(buffer, start), answer: buffer[start + 5] === 1 });
      return;
    }
    const envelope = deserialize(buffer.subarray(start + 5, end)) as Envelope<In>;
    this.#heard.push({ batch: unpack(envelope), answer: envelope.answer === true });
  }
}

type BytesMessage = readonly ['bytes', tenant: number, Uint8Array];

function bytesAlone(batch: ReadonlyArray<ToWorker | FromWorker>): batch is readonly BytesMessage[] {
  for (const message of batch) if (message[0] !== 'bytes') return false;
  return true;
}

function bytesFrame(batch: readonly BytesMessage[], answer: boolean): Buffer {
  let size = HEAD;
  for (const [, , bytes] of batch) size += ENTRY + bytes.length;
  const frame = Buffer.allocUnsafe(size);
  frame.writeUInt32BE(size - 4, 0);
  frame[4] = BYTES;
  frame[5] = answer ? 1 : 0;
  frame.writeUInt32BE(batch.length, 6);
  let at = HEAD;
  for (const [, tenant, bytes] of batch) {
    frame.writeUInt32BE(tenant, at);
    frame.writeUInt32BE(bytes.length, at + 4);
    frame.set(bytes, at + ENTRY);
    at += ENTRY + bytes.length;
  }
  return frame;
}

function readBytes<M>(buffer: Buffer, start: number): readonly M[] {
  const batch: BytesMessage[] = [];
  let at = start + HEAD;
  for (let count = buffer.readUInt32BE(start + 6); count > 0; count--) {
    const end = at + ENTRY + buffer.readUInt32BE(at + 4);
    batch.push(['bytes', buffer.readUInt32BE(at), buffer.subarray(at + ENTRY, end)]);
    at = end;
  }
  return batch as unknown as readonly M[];
}

function anyFrame(envelope: Envelope<ToWorker | FromWorker>): Buffer {
  const payload = serialize(envelope);
  const frame = Buffer.allocUnsafe(5 + payload.length);
  frame.writeUInt32BE(1 + payload.length, 0);
  frame[4] = ANYTHING;
  frame.set(payload, 5);
  return frame;
}
