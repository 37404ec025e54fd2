// A server that waits no longer than a few seconds, so that the end of its patience can be seen.
import type { Test } from 'tap';
import { SMFIF_ADDHDRS } from '../../../lib/index.js';
import { Patient } from '../milters.js';
import type { Rig } from '../rig.js';
import { headerOf, send } from './letters.js';

/** The server must be told to wait for no reply longer than this, in seconds. */
export const PATIENCE = 2;

export function patience(t: Test, rig: Rig): void {
  t.test(
    'P126 eob() may take longer than the server waits: it is told that there is progress',
    rig.needs,
    async (t) => {
      const context = { ms: PATIENCE * 1500 };
      const options = { smfifOptions: SMFIF_ADDHDRS, progressAfter: 200, progressEvery: 200, context };
      const calls = await rig.milter(Patient, options, async () => {
        t.equal((await send(await rig.client())).code, 250);
        t.equal(headerOf(await rig.arrived(), 'X-Patient'), 'yes');
      });
      t.strictSame(calls, [['eob', 'wanted']]);
    },
  );

  t.test('Reading while busy: a server that gives up aborts the signal', rig.needs, async (t) => {
    rig.provokes(rig.on({ postfix: /milter .*: can't read SMFIC_BODYEOB reply/, sendmail: /: timeout.*where=eom/ }));
    const calls = await rig.milter(Patient, { smfifOptions: SMFIF_ADDHDRS, progressAfter: 100_000 }, async () => {
      t.equal((await send(await rig.client())).code, 451);
    });
    t.strictSame(calls, [['eob', 'ERR_MILTER_CONNECTION']]);
  });
}
