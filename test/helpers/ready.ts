// When is a mail server there? When it greets.

import { connectSmtp } from './smtp.js';
import { until } from './until.js';

/**
 * Resolves once the server on `port` greets with `name` in its greeting: ours, not another that took the port. Waits no
 * longer when it isn't alive any more.
 */
export async function awaitGreeting(port: number, name: string, alive = (): boolean => true): Promise<void> {
  await until(`a greeting from ${name}`, async () => {
    if (!alive()) throw new Error(`${name} ended`);
    const client = await connectSmtp(port).catch(() => undefined);
    await client?.end();
    return client?.greeting.text.includes(name);
  });
}
