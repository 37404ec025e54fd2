/**
 * `npm start`: runs the example milter, sends a message past it with the built-in client, shows what happened, and stays.
 *
 *   npm start                          listens on inet:5000@127.0.0.1
 *   npm start -- unix:/tmp/test.sock   listens there
 *   npm start -- --once                ends after the demonstration
 *
 * It imports milter-stream as yours would: from the package, which `npm ci` has built.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { ForkFactory, formatAddress, MilterError, type SocketAddress } from 'milter-stream';
import { MilterClient, type MessageResult } from 'milter-stream/client';
import { hints } from './hints.js';
import { printable, REFUSED, TEST_ACTIONS, TestMilter } from './testmilter.js';

const color = process.stdout.isTTY && !process.env['NO_COLOR'];
const paint = (code: number) => (text: string) => (color ? `\x1b[${code}m${text}\x1b[0m` : text);
const [bold, red, green, yellow, dim] = [paint(1), paint(31), paint(32), paint(33), paint(2)];

function title(text: string): void {
  console.log(`\n${bold(`── ${text} ${'─'.repeat(Math.max(0, 74 - text.length))}`)}`);
}

function linesOf(message: Buffer): string[] {
  return message.toString('utf8').replaceAll('\r\n', '\n').trimEnd().split('\n').map(printable);
}

/** The lines of two texts side by side: what is only in the first is marked `-`, what is only in the second `+`. */
function difference(before: string[], after: string[]): string[] {
  const out: string[] = [];
  const [gone, come] = [new Set(before), new Set(after)];
  let i = 0;
  for (const line of after) {
    while (i < before.length && !come.has(before[i] as string)) out.push(red(`- ${before[i++]}`));
    if (gone.has(line)) {
      out.push(dim(`  ${line}`));
      i++;
    } else {
      out.push(green(`+ ${line}`));
    }
  }
  return [...out, ...before.slice(i).map((line) => red(`- ${line}`))];
}

function showVerdict(result: MessageResult): void {
  const paintOf = result.verdict === 'accept' ? green : red;
  console.log(`${bold(paintOf(result.verdict.toUpperCase()))} at ${result.stage}`);
  for (const { address, outcome, reply } of result.recipients) {
    const why = reply ? ` ${reply.code} ${reply.enhanced} ${reply.lines.join(' / ')}` : '';
    console.log(`  ${address}: ${outcome === 'continue' ? green('accepted') : red(outcome)}${why}`);
  }
  for (const { type, ...fields } of result.modifications) console.log(`  ${yellow(type)} ${JSON.stringify(fields)}`);
}

async function demonstrate(target: string): Promise<void> {
  const before = readFileSync(new URL('sample.eml', import.meta.url));
  title('what the milter hears');
  const client = new MilterClient(target);
  await client.connect({ hostname: 'laptop.example.org', address: '192.0.2.7' });
  const result = await client.send({
    from: '<alice@example.org>',
    fromArgs: ['SIZE=612', 'BODY=8BITMIME'],
    to: ['<bob@example.com>', `<${REFUSED}>`],
    message: before,
  });
  await client.quit();
  title('its verdict');
  showVerdict(result);
  title('the message, before (-) and after (+)');
  for (const line of difference(linesOf(before), linesOf(result.message))) console.log(line);
}

/** Says how to reach the milter, and stays until Ctrl-C. */
function stay(factory: ForkFactory, address: SocketAddress): void {
  title('now yours');
  console.log(`Listening on ${bold(formatAddress(address))}. Tell your mail server:\n`);
  for (const line of hints(address)) console.log(line);
  console.log('\nWhat it sends will be shown here. Ctrl-C stops.');
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      console.log('\nStopping: messages in progress are finished. Again: at once.');
      process.once(signal, () => void factory.close());
      void factory.close().then(() => console.log('Stopped.'));
    });
  }
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({ options: { once: { type: 'boolean' } }, allowPositionals: true });
  // AsyncFactory or ThreadFactory would do as well: the milter does not notice.
  const factory = new ForkFactory(positionals[0] ?? 'inet:5000@127.0.0.1', TestMilter, TEST_ACTIONS);
  factory.on('sessionError', (error) => console.error(red(`${error.code}: ${error.message}`)));
  await factory.run();
  const address = factory.address!;
  try {
    await demonstrate(formatAddress(address));
  } catch (error) {
    await factory.close();
    throw error;
  }
  if (values.once) await factory.close();
  else stay(factory, address);
}

try {
  await main();
} catch (error) {
  const { code, message } = error as NodeJS.ErrnoException;
  const expected = error instanceof MilterError || code?.startsWith('ERR_PARSE_ARGS') === true;
  if (!expected) throw error;
  console.error(red(message));
  console.error(
    'Usage: npm start -- [--once] [SOCKET]   with a SOCKET like inet:5001@127.0.0.1 or unix:/tmp/test.sock',
  );
  process.exitCode = 1;
}
