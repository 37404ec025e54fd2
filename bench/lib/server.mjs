// The milter that the benches put under load, in a process of its own: `node server.mjs FACTORY VARIANT SOCKET 'OPTIONS'`,
// where VARIANT is full or noreply. Prints where it listens, and ends when its standard input does.
import { AsyncFactory, ForkFactory, formatAddress, isMilterWorker, ThreadFactory } from 'milter-stream';
import { Counter, QuietCounter } from './counter.mjs';

const FACTORIES = { async: AsyncFactory, thread: ThreadFactory, fork: ForkFactory };
const VARIANTS = { full: Counter, noreply: QuietCounter };

if (!isMilterWorker()) {
  const [kind, variant, socket, options] = process.argv.slice(2);
  const factory = new FACTORIES[kind](socket, VARIANTS[variant], JSON.parse(options));
  factory.on('sessionError', (error) => console.error(String(error)));
  await factory.run();
  console.log(formatAddress(factory.address));
  process.stdin.resume().on('end', () => factory.close());
}
