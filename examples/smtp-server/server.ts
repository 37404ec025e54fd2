/**
 * A mail server with milters, which prints what it gets. Ctrl-C stops it.
 *
 *   npx tsx examples/smtp-server/server.ts --listen 2525 --milter inet:5000@127.0.0.1 [--milter ...]
 */
import type { AddressInfo } from 'node:net';
import { parseArgs } from 'node:util';
import { SMTPServer } from 'smtp-server';
import { milterHooks } from './adapter.js';

const { values } = parseArgs({
  options: { listen: { type: 'string', default: '2525' }, milter: { type: 'string', multiple: true, default: [] } },
});

const hooks = milterHooks(values.milter, {
  deliver({ envelope, message, quarantined }) {
    console.log(`\nfrom ${envelope.from} for ${envelope.to.join(', ')}`);
    if (quarantined !== undefined) console.log(`on hold: ${quarantined}`);
    process.stdout.write(message);
  },
  onError: (error) => console.error(error),
});

const server = new SMTPServer({ disabledCommands: ['AUTH', 'STARTTLS'], size: 10_000_000, ...hooks });
server.on('error', (error) => console.error(error.message));
server.listen(Number(values.listen), '127.0.0.1', () => {
  const { port } = server.server.address() as AddressInfo;
  console.log(`SMTP on port ${port} of 127.0.0.1, past ${values.milter.join(', ')}`);
});
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => server.close());
