/**
 * One milter of several behind HAProxy: it says in each message which instance it was. See README.md.
 *
 *   npx tsx examples/scale-out/instance.ts inet:8891@127.0.0.1 m1
 *
 * SIGTERM, or Ctrl-C: messages in progress are finished, new ones come back to another instance. Again: at once.
 */
import { hostname } from 'node:os';
import { pathToFileURL } from 'node:url';
import { AsyncFactory, MilterProtocol, runFilter, SMFIF_ADDHDRS, SMFIF_CHGHDRS } from 'milter-stream';

const MARK = 'X-Milter-Instance';

/** Adds a header with the name of the instance, and takes away those that came with the message. */
export class InstanceMilter extends MilterProtocol<{ readonly name: string }> {
  static readonly module = import.meta.url;

  #forged = 0;

  // With mailFrom() the milter knows that a message is in progress, and close() lets it finish. One that has only eob()
  // hears of a message when it is complete, and has to send it back then.
  override mailFrom() {
    this.#forged = 0;
  }

  override header(key: string) {
    if (key.toLowerCase() === MARK.toLowerCase()) this.#forged++;
  }

  override eob() {
    // From the last one on: the numbers of the others stay what they are.
    for (let index = this.#forged; index > 0; index--) this.chgHeader(MARK, '', index);
    this.addHeader(MARK, this.context.name);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const [socket = 'inet:8891@127.0.0.1', name = hostname()] = process.argv.slice(2);
  const actions = SMFIF_ADDHDRS | SMFIF_CHGHDRS;
  const factory = new AsyncFactory(socket, InstanceMilter, actions, { context: { name } });
  factory.on('sessionError', (error) => console.error(`${error.code}: ${error.message}`));
  await runFilter(factory, { log: { ...console, info: (_details, message) => console.log(message) } });
}
