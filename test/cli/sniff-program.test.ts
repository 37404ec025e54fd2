// sniff as a program, in a process of its own, as it is built: signals, and a reader who has gone.
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import t, { type Test } from 'tap';
import { MilterClient } from '../../lib/client/index.js';
import type { MilterProtocol } from '../../lib/index.js';
import { demandBuild, root } from '../helpers/built.js';
import { gate } from '../helpers/milter.js';
import { MAIL } from '../helpers/recorded.js';
import { serving } from './milters.js';

demandBuild();

function start(...argv: string[]): ChildProcessWithoutNullStreams {
  const env = { PATH: process.env['PATH'] };
  const child = spawn(process.execPath, [join(root, 'dist/cli/main.js'), ...argv], { stdio: 'pipe', env });
  child.stdin.end();
  return child;
}

/** Collects what a program prints, and tells when it has printed something. */
function reading(child: ChildProcessWithoutNullStreams): {
  text: () => string;
  printed: (what: RegExp) => Promise<RegExpExecArray>;
} {
  let all = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (all += chunk));
  return {
    text: () => all,
    async printed(what) {
      for (;;) {
        const found = what.exec(all);
        if (found !== null) return found;
        await once(child.stdout, 'data');
      }
    },
  };
}

async function stuck(t: Test): Promise<{
  child: ChildProcessWithoutNullStreams;
  out: ReturnType<typeof reading>;
  sent: Promise<string>;
  go: () => void;
}> {
  const { promise, open: go } = gate();
  const begun = gate();
  const milter = await serving(t, {
    async eob(this: MilterProtocol) {
      begun.open();
      await promise;
    },
  });
  t.teardown(() => go());
  const child = start('sniff', '--listen', 'inet:0', '--upstream', milter);
  t.teardown(() => child.kill('SIGKILL'));
  const out = reading(child);
  const [, address] = (await out.printed(/listening on (\S+),/)) as unknown as [string, string];
  const client = new MilterClient(address);
  await client.connect();
  const sent = client.send(MAIL).then(
    async ({ verdict }) => {
      await client.quit();
      return verdict;
    },
    () => 'lost',
  );
  await begun.promise;
  return { child, out, sent, go };
}

t.test('the first SIGINT lets the messages in progress come to their end', async (t) => {
  const { child, out, sent, go } = await stuck(t);
  child.kill('SIGINT');
  go();
  const [err, [code]] = await Promise.all([text(child.stderr), once(child, 'close')]);
  t.strictSame([await sent, code, err], ['accept', 0, '']);
  t.match(out.text(), /1 session, 1 message\n {2}1 accept\n/);
});

t.test('a second one ends them at once', async (t) => {
  const { child, out, sent } = await stuck(t);
  await out.printed(/→ eob/);
  child.kill('SIGINT');
  const again = setInterval(() => child.kill('SIGTERM'), 100);
  await once(child, 'close');
  clearInterval(again);
  t.equal(await sent, 'lost');
  t.match(out.text(), /1 session, 1 message\n {2}1 aborted\n/);
});

t.test('a reader who has gone is no failure: mail passes all the same', async (t) => {
  const child = start('sniff', '--listen', 'inet:0', '--upstream', await serving(t, {}));
  t.teardown(() => child.kill('SIGKILL'));
  const [, address] = (await reading(child).printed(/listening on (\S+),/)) as unknown as [string, string];
  child.stdout.destroy();
  for (let i = 0; i < 3; i++) {
    const client = new MilterClient(address);
    await client.connect();
    t.equal((await client.send(MAIL)).verdict, 'accept');
    await client.quit();
  }
  child.kill('SIGINT');
  const [err, [code]] = await Promise.all([text(child.stderr), once(child, 'close')]);
  t.strictSame([err, code], ['', 0]);
});
