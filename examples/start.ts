/**
 * `npm start`: runs the example milter, sends a message past it with the command `milter-stream`, shows what happened, has
 * the milter examined, and stays.
 *
 *   npm start                          listens on inet:5000@127.0.0.1
 *   npm start -- unix:/tmp/test.sock   listens there
 *   npm start -- --once                ends after the demonstration
 *
 * It imports milter-stream as yours would: from the package, which `npm ci` has built.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { ForkFactory, formatAddress, MilterError } from 'milter-stream';
import { REFUSED, TEST_ACTIONS, TestMilter } from './testmilter.js';

const color = process.stdout.isTTY && !process.env['NO_COLOR'];
const paint = (code: number) => (text: string) => (color ? `\x1b[${code}m${text}\x1b[0m` : text);
const [bold, red] = [paint(1), paint(31)];

function title(text: string): void {
  console.log(`\n${bold(`── ${text} ${'─'.repeat(Math.max(0, 74 - text.length))}`)}`);
}

/** Runs `milter-stream`, whose output goes here; gives its exit status. */
async function milterStream(...args: string[]): Promise<number | null> {
  const program = fileURLToPath(new URL('dist/cli/main.js', import.meta.resolve('milter-stream/package.json')));
  const child = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'inherit', 'inherit'] });
  const [status] = (await once(child, 'close')) as [number | null];
  return status;
}

async function demonstrate(address: string): Promise<void> {
  const sample = fileURLToPath(new URL('sample.eml', import.meta.url));
  const client = ['--hostname', 'laptop.example.org', '--address', '192.0.2.7'];
  const from = ['--from', '<alice@example.org> SIZE=612 BODY=8BITMIME'];
  title('milter-stream send: what the milter hears, and what comes of it');
  await milterStream(
    'send',
    sample,
    '--to',
    address,
    ...client,
    ...from,
    '--rcpt',
    'bob@example.com',
    '--rcpt',
    REFUSED,
  );
}

/** Says how to reach the milter, and stays until Ctrl-C. */
async function stay(factory: ForkFactory, address: string): Promise<void> {
  title('milter-stream doctor: who is there, and how to reach it');
  await milterStream('doctor', address, '--negotiate');
  title('now yours');
  console.log(`Listening on ${bold(address)}. What your mail server sends will be shown here. Ctrl-C stops.`);
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
  const address = formatAddress(factory.address!);
  try {
    await demonstrate(address);
    if (values.once) await factory.close();
    else await stay(factory, address);
  } catch (error) {
    await factory.close();
    throw error;
  }
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
