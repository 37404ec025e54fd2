// The milter that the benches put under load: `node server.mjs FACTORY SOCKET 'OPTIONS'`, plain JavaScript because worker
// threads load it. Every callback adds up the lengths of all that it is given, so that nothing is saved by not decoding.
import { AsyncFactory, ForkFactory, formatAddress, isMilterWorker, MilterProtocol, ThreadFactory } from 'milter-stream';

const FACTORIES = { async: AsyncFactory, thread: ThreadFactory, fork: ForkFactory };

export class Counter extends MilterProtocol {
  static module = import.meta.url;

  sum = 0;

  connect(hostname, family, ip) {
    this.sum += hostname.length + family.length + ip.length;
  }
  helo(name) {
    this.sum += name.length;
  }
  mailFrom(address, macros, args) {
    this.sum += address.length + (macros.i?.length ?? 0);
    for (const arg of args) this.sum += arg.length;
  }
  rcpt(address) {
    this.sum += address.length;
  }
  data() {}
  header(name, value) {
    this.sum += name.length + value.length;
  }
  eoh() {}
  body(chunk) {
    this.sum += chunk.length;
  }
  eob() {
    const { burn } = this.context;
    if (burn > 0) for (const until = performance.now() + burn; performance.now() < until;) this.sum++;
  }
}

if (!isMilterWorker()) {
  const [kind, socket, options] = process.argv.slice(2);
  const factory = new FACTORIES[kind](socket, Counter, JSON.parse(options));
  factory.on('sessionError', (error) => console.error(String(error)));
  await factory.run();
  console.log(formatAddress(factory.address));
  process.stdin.resume().on('end', () => factory.close());
}
