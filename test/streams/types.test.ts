// What the compiler must accept and refuse: proved by `npm run typecheck`, since tap runs tests without looking at types.
// The functions up to the test at the end are never called.
import type { Socket } from 'node:net';
import { Duplex, finished, pipeline as pipelineBack, Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import t from 'tap';
import type { Command, OddPacket, Reply } from '../../lib/codec/index.js';
import { createDecoder, createReplyDecoder } from '../../lib/streams/decoder.js';
import { createCommandEncoder, createEncoder } from '../../lib/streams/encoder.js';
import type { ObjectReadable, ObjectWritable } from '../../lib/streams/types.js';

/** Compiles for one type only: neither `any` nor a wider or narrower one. */
function exactly<Wanted>(): <Got>(value: Got, ...same: Same<Got, Wanted> extends true ? [] : [never]) => void {
  return () => {};
}
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;

/** A function of the user's that takes a command. */
declare function handle(command: Command): Reply;

export async function iteration(socket: Socket): Promise<void> {
  for await (const command of createDecoder()) {
    handle(command);
    exactly<Command['type']>()(command.type);
    if (command.type === 'header') exactly<string>()(command.value);
    if (command.type === 'body') exactly<Buffer>()(command.chunk);
    // @ts-expect-error -- not every command has a value
    command.value satisfies string;
    // @ts-expect-error -- replies are no commands
    if (command.type === 'accept') return;
    // @ts-expect-error -- packets are readonly
    if (command.type === 'helo') command.name = 'other';
  }
  for await (const command of socket.pipe(createDecoder())) {
    switch (command.type) {
      case 'helo':
        exactly<string>()(command.name);
        break;
      case 'rcpt':
        exactly<readonly string[]>()(command.args);
        break;
      default:
        exactly<Buffer | undefined>()(command.raw);
    }
  }
  for await (const reply of createReplyDecoder()) {
    if (reply.type === 'chgHeader') exactly<number>()(reply.index);
  }
  for await (const packet of createDecoder({ lenient: true })) {
    packet satisfies Command | OddPacket;
    if (packet.type === 'unrecognized') exactly<Buffer>()(packet.payload);
    if (packet.type === 'malformed') exactly<string>()(packet.error.message);
  }
  for await (const command of createDecoder().iterator({ destroyOnReturn: false })) exactly<Command>()(command);
}

export function listeners(): void {
  createDecoder()
    .on('data', (command) => exactly<Command>()(command))
    .once('data', (command) => exactly<Command>()(command))
    .prependListener('data', (command) => exactly<Command>()(command))
    .pause()
    .resume()
    .addListener('data', (command) => exactly<Command>()(command))
    .off('data', (command) => exactly<Command>()(command))
    .removeListener('data', (command) => exactly<Command>()(command))
    .on('error', (error: Error) => error)
    .on('end', () => {});
  createReplyDecoder({ lenient: true }).on('data', (packet) => exactly<Reply | OddPacket>()(packet));
  exactly<Command | null>()(createDecoder().read());
  exactly<Promise<Reply[]>>()(createReplyDecoder().toArray());
}

export async function pipelines(socket: Socket): Promise<void> {
  await pipeline(
    socket,
    createDecoder(),
    async function* (commands): AsyncGenerator<Reply> {
      for await (const command of commands) {
        if (command.type === 'helo') exactly<string>()(command.name);
        yield handle(command);
      }
    },
    createEncoder(),
    socket,
  );
  await pipeline(socket, createDecoder(), async (commands) => {
    for await (const command of commands) if (command.type === 'helo') exactly<string>()(command.name);
  });
  await pipeline(socket, createDecoder(), createCommandEncoder(), socket);
  pipelineBack(socket, createReplyDecoder(), createEncoder(), socket, () => {});
}

export function piping(socket: Socket, commands: ObjectWritable<Command>, replies: ObjectReadable<Reply>): void {
  socket.pipe(createDecoder()).pipe(commands);
  replies.pipe(createEncoder()).pipe(socket);
  pipelineBack(socket, createDecoder(), commands, () => {});
  pipelineBack(replies, createEncoder(), socket, () => {});
  socket.pipe(createDecoder()).pipe(createCommandEncoder()).pipe(socket);
  createDecoder().pipe(new Writable({ objectMode: true }));
  Readable.from([{ type: 'continue' } satisfies Reply]).pipe(createEncoder());
  Duplex.from({ readable: createDecoder(), writable: createEncoder() });
  Duplex.toWeb(createDecoder());
  Readable.toWeb(createEncoder());
  Readable.from(createDecoder());
  finished(createDecoder(), () => {});
}

export function writing(commands: ObjectWritable<Command>): void {
  const encoder = createEncoder();
  encoder.write({ type: 'continue' });
  encoder.write({ type: 'continue' }, (error) => error);
  encoder.write({ type: 'chgFrom', address: '<>' }, undefined, () => {});
  encoder.end({ type: 'accept' }, () => {});
  encoder.end(() => {});
  commands.write({ type: 'mailFrom', address: '<>', args: [] });
  // @ts-expect-error -- a command is no reply
  encoder.write({ type: 'helo', name: '' });
  // @ts-expect-error -- a field is missing
  encoder.write({ type: 'addRcpt' });
  // @ts-expect-error -- bytes go into a decoder
  encoder.write(Buffer.alloc(0));
  // @ts-expect-error -- nor do they end one
  encoder.end('text');
  // @ts-expect-error -- a reply is no command
  createCommandEncoder().end({ type: 'continue' });
  // @ts-expect-error -- an option that there is not
  createEncoder({ lenient: true });
}

t.test('what the types say about reading and writing is what the streams do', async (t) => {
  const decoder = createDecoder();
  t.equal(decoder.read(), null);
  t.equal(
    decoder.on('data', () => {}),
    decoder,
  );
  t.equal(decoder.pause(), decoder);
  t.equal(decoder.resume(), decoder);
  const encoder = createEncoder();
  t.type(encoder.write({ type: 'continue' }), 'boolean');
  t.equal(encoder.end(), encoder);
  t.strictSame(encoder.read(), Buffer.of(0, 0, 0, 1, 0x63));
});
