/** Much mail through real workers: neither a slow milter nor a slow mail server fills the factory's memory. */
import { join } from 'node:path';
import { readFileSync } from 'node:fs';
import t from 'tap';
import { SMFIF_ADDHDRS, SMFIF_CHGBODY } from '../../lib/index.js';
import { outcome } from '../helpers/eob.js';
import { shortFolder } from '../helpers/folder.js';
import { memoryInUse } from '../helpers/memory.js';
import { Mortal, touch } from '../helpers/mortal.js';
import { message, say } from '../helpers/mta.js';
import { allClosed, openFiles, skip } from '../helpers/open-files.js';
import { dialled, KINDS, run } from '../helpers/pooled.js';
import { bytesOf } from '../helpers/relay.js';
import { answers, meet } from '../helpers/scenes.js';
import { until } from '../helpers/until.js';

const MiB = 1_048_576;
const smfifOptions = SMFIF_ADDHDRS | SMFIF_CHGBODY;

for (const kind of KINDS) {
  t.test(`P15 ${kind}: a slow milter: the factory stops reading`, async (t) => {
    const folder = shortFolder(t);
    const trace = join(folder, 'trace');
    touch(trace);
    const options = { workers: 1, smfifOptions, smfipOptions: 0x80000, context: { trace }, callbackDeadline: 100_000 };
    const { factory, errors } = await run(t, kind, Mortal, options);
    const { mta, socket } = await dialled(t, factory);
    await mta.negotiate({ protocol: 0x80000 });
    await answers(mta, message().slice(0, -2));
    const file = join(folder, 'go');
    mta.send(say.macros('B', { do: 'later', with: file }), say.body());
    await until('the milter', () => readFileSync(trace, 'utf8') !== '');
    const before = await memoryInUse();
    const chunk = bytesOf(...Array.from({ length: 16 }, () => say.body('x'.repeat(65_531)))); // 1 MiB
    for (let i = 0; i < 100; i++) socket.write(chunk);
    let left = 0;
    await until('it to be full', () => {
      const same = left === socket.writableLength;
      left = socket.writableLength;
      return same;
    });
    t.ok(left > 80 * MiB, 'most of it has not left the mail server');
    const grown = (await memoryInUse()) - before;
    t.ok(grown < 4 * MiB, `the factory has ${grown} bytes more`);
    touch(file);
    mta.send(say.eob());
    const heard = ((await outcome(mta)).at(-3) as unknown as { value: string }).value;
    t.equal(heard.split('; ').filter((word) => word === 'body').length, 1601);
    t.strictSame(errors, []);
  });

  t.test(`${kind}: a large new body, a slow mail server: it is held in a file`, { skip }, async (t) => {
    const trace = join(shortFolder(t), 'trace');
    touch(trace);
    const { factory, errors } = await run(t, kind, Mortal, { workers: 1, smfifOptions, context: { trace } });
    const { mta, socket } = await meet(t, { factory, errors });
    await answers(mta, message().slice(0, -1));
    const before = await memoryInUse();
    socket.pause();
    mta.send(say.macros('E', { do: 'flood' }), say.eob());
    await until('the file', () => openFiles('milter-stream-').length === 1);
    t.ok((await memoryInUse()) - before < 10 * MiB);
    socket.resume();
    const replies = (await outcome(mta)).filter(({ type }) => type !== 'progress') as unknown as Array<{
      type: string;
      chunk?: Buffer;
    }>;
    const body = replies.filter(({ type }) => type === 'replBody');
    t.equal(
      body.reduce((sum, { chunk }) => sum + (chunk as Buffer).length, 0),
      50_000_000,
    );
    t.strictSame(
      replies.slice(body.length).map(({ type }) => type),
      ['addHeader', 'addHeader', 'continue'],
    );
    await allClosed(t, 'milter-stream-');
  });
}
