// What only Sendmail has: its own quarantine, and mail that comes by SMTP from a pipe.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Test } from 'tap';
import { SMFIF_ALLOPTS } from '../../../lib/index.js';
import { until } from '../../helpers/until.js';
import { Editor, Recorder, type Edit } from '../milters.js';
import type { Rig } from '../rig.js';
import { HEAD, letter, queueId, send } from './letters.js';

export function sendmail(t: Test, rig: Rig): void {
  t.test('P125 quarantine() keeps the message in the queue, with the reason', rig.needs, async (t) => {
    const cases: Edit[][] = [
      [
        ['quarantine', 'smells of spam'],
        ['addHeader', 'X-New', 'v'],
      ],
      [['quarantine']],
    ];
    await rig.milter(Editor, { smfifOptions: SMFIF_ALLOPTS, context: { cases } }, async () => {
      const client = await rig.client();
      for (const [i, reason] of ['smells of spam', 'quarantined by a milter'].entries()) {
        const id = queueId(await send(client, letter([...HEAD, `X-Case: ${i}`])));
        // A file of a quarantined message's envelope is called hf, not qf.
        const queue = join(rig.mta.dir, 'queue');
        await until(`${id} to be quarantined`, async () => (await readdir(queue)).includes(`hf${id}`));
        t.match((await readFile(join(queue, `hf${id}`), 'latin1')).split('\n'), new Set([`q${reason}`]));
      }
    });
  });

  t.test('P42 a client on a Unix socket has a family and no address', rig.needs, async (t) => {
    const calls = await rig.milter(Recorder, {}, async () => {
      // What a process of ours gets for its standard input is one.
      await rig.mta.sendmail(['-bs'], Buffer.from('QUIT\r\n'));
    });
    t.match(calls[0], ['connect', 'localhost', 'L', '', 0, { j: 'sendmail.example.test' }]);
    t.strictSame(calls.slice(1), [['close']]);
  });
}
