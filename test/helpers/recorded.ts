/** What a mail server and a milter say to each other, recorded by a proxy between them. */
import type { Test } from 'tap';
import type { CaptureEvent } from '../../lib/capture/index.js';
import { MilterClient, type ClientMessage, type ClientOptions } from '../../lib/client/index.js';
import { formatAddress } from '../../lib/index.js';
import { createProxy } from '../../lib/proxy/index.js';

export const MAIL: ClientMessage = {
  from: '<a@example.org>',
  to: ['<b@example.com>'],
  message: 'Subject: hi\nFrom: a@example.org\n\nbody\n',
};

/** The events of sessions, one for each list of messages, with the milter at an address. */
export async function recorded(
  t: Test,
  milter: string,
  sessions: ReadonlyArray<ReadonlyArray<Partial<ClientMessage>>> = [[{}]],
  options: ClientOptions = {},
): Promise<CaptureEvent[]> {
  const proxy = createProxy(milter);
  t.teardown(() => proxy.destroy());
  const events: CaptureEvent[] = [];
  proxy.on('event', (event) => events.push(event));
  const address = formatAddress(await proxy.listen('inet:0'));
  for (const mails of sessions) {
    const client = new MilterClient(address, options);
    await client.connect();
    for (const mail of mails) await client.send({ ...MAIL, ...mail });
    await client.quit();
  }
  await proxy.close();
  return events;
}
