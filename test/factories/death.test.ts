/**
 * "When a worker dies": a worker dies of itself, or is killed, while sessions wait on it at every stage. Each gets the
 * reply of the table, once; the next message on its connection goes through another worker, which knows the beginning of
 * the conversation; and the sessions of the other worker notice nothing.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { SMFIF_ADDHDRS, type Command } from '../../lib/index.js';
import { shortFolder } from '../helpers/folder.js';
import { Mortal, touch } from '../helpers/mortal.js';
import { say } from '../helpers/mta.js';
import { KINDS, run, strike } from '../helpers/pooled.js';
import { aftermath, begin, company, SCENES, undisturbed, type Session } from '../helpers/scenes.js';
import { until } from '../helpers/until.js';

for (const kind of KINDS) {
  t.test(`${kind}: a worker that dies of itself`, async (t) => {
    const trace = join(shortFolder(t), 'trace');
    touch(trace);
    const running = await run(t, kind, Mortal, {
      workers: 2,
      smfifOptions: SMFIF_ADDHDRS,
      context: { trace },
      resourceLimits: { maxOldGenerationSizeMb: 64 },
      callbackDeadline: 100_000,
    });
    running.factory.on('sessionError', () => {
      throw new Error('a listener that fails harms nobody');
    });
    let deeds = 0;
    const begun = (): number => readFileSync(trace, 'utf8').split('\n').length - 1;
    const ways: Array<[way: string, killer: string, error: RegExp]> = [
      ['throw', 'rcpt', /died: it ended with exit code \d+: thrown outside of a callback/],
      ['reject', 'eob', /died: it ended with exit code \d+: rejected, and nobody looks/],
      ['exit', 'mailFrom', /died: it ended with exit code 3$/],
      [
        'fill',
        'header',
        kind === 'ThreadFactory' ? /exit code 1: Worker terminated due to .*memory/ : /was ended by SIGABRT/,
      ],
      ['wait', '', kind === 'ThreadFactory' ? /exit code 1$/ : /was ended by SIGKILL$/],
    ];
    for (const [way, killer, error] of ways) {
      await t.test(way === 'wait' ? 'from outside' : way, async (t) => {
        running.errors.length = 0;
        const { doomed, others } = await company(t, running);
        for (const session of [...doomed, ...others]) await begin(session);
        const waiting = doomed.filter(({ scene }) => scene.at !== undefined && scene.stage !== killer);
        for (const { scene, mta } of waiting) mta.send(say.macros(scene.letter, { do: 'wait' }), scene.at as Command);
        deeds += waiting.length;
        await until('all to wait', () => begun() === deeds);
        const last = doomed.find(({ scene }) => scene.stage === killer);
        if (last === undefined) {
          strike((doomed[0] as Session).where, 'SIGKILL');
        } else {
          last.mta.send(say.macros(last.scene.letter, { do: way }), last.scene.at as Command);
          deeds++;
        }
        for (const session of doomed) await aftermath(t, session);
        for (const session of others) await undisturbed(t, session);
        const [died, ...sessions] = running.errors;
        t.match(died, { code: 'ERR_MILTER_WORKER', message: error }, 'one error says what it died of');
        t.equal(sessions.length, SCENES.length - 1, 'and one for each session what that costs');
        for (const { code, stage, message } of sessions) {
          t.equal(code, 'ERR_MILTER_WORKER');
          t.equal(message, `A worker died at ${stage}: the message is refused for now`);
        }
        for (const { mta } of [...doomed, ...others]) mta.end();
        await until('them to leave', () => running.factory.connections === 0);
      });
    }
  });
}
