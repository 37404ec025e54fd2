// The suite: what is run on which server, with whichever factory.
import type { Test } from 'tap';
import type { FactoryUnderTest } from '../factories.js';
import { Rig, type RigOptions } from '../rig.js';
import { conversation } from './conversation.js';
import { corpus } from './corpus.js';
import { edits } from './edits.js';
import { PATIENCE, patience } from './patience.js';
import { postfix, startTls } from './postfix.js';
import { sendmail } from './sendmail.js';
import { sessions } from './sessions.js';
import { verdicts } from './verdicts.js';

type Part = (t: Test, rig: Rig) => void;

/**
 * The parts of the suite on a server of their own, and what they have left behind. Several groups run at the same time:
 * most of it is waiting.
 */
function group(t: Test, title: string, options: RigOptions, parts: readonly Part[]): void {
  t.jobs = 4;
  t.test(`${title}, ${options.factory.name}`, { buffered: true }, (t) => {
    const rig = new Rig(t, options);
    for (const part of parts) part(t, rig);
    rig.leavesNothing(t);
    t.end();
  });
}

export function onPostfix(t: Test, factory: FactoryUnderTest): void {
  const server = 'postfix';
  const parts: Part[] = [conversation, edits, sessions, postfix];
  group(t, 'Postfix over TCP', { factory, server, socket: 'inet' }, [...parts, verdicts]);
  group(t, 'Postfix over a Unix socket', { factory, server, socket: 'unix' }, parts);
  group(t, 'Postfix with TLS', { factory, server, socket: 'unix', postfix: { tls: true } }, [startTls]);
  const mainCf = { milter_content_timeout: `${PATIENCE}s` };
  group(t, 'Postfix in a hurry', { factory, server, socket: 'inet', postfix: { mainCf } }, [patience]);
  onCorpus(t, 'Postfix', { factory, server, socket: 'unix' });
}

/** What differs where Postfix speaks an older version of the protocol. */
export function onOlderPostfix(t: Test, factory: FactoryUnderTest): void {
  for (const version of ['2', '3', '4']) {
    const postfix = { mainCf: { milter_protocol: version } };
    const parts = version === '2' ? [conversation, edits, sessions] : [conversation, sessions];
    const title = `Postfix with protocol version ${version}`;
    group(t, title, { factory, server: 'postfix', socket: 'unix', postfix }, parts);
  }
}

export function onSendmail(t: Test, factory: FactoryUnderTest): void {
  const server = 'sendmail';
  const parts: Part[] = [conversation, edits, sessions, sendmail];
  group(t, 'Sendmail over TCP', { factory, server, socket: 'inet' }, [...parts, verdicts]);
  group(t, 'Sendmail over a Unix socket', { factory, server, socket: 'unix' }, parts);
  const timeouts = `T=S:10s;R:${PATIENCE}s;E:1m`;
  group(t, 'Sendmail in a hurry', { factory, server, socket: 'inet', sendmail: { timeouts } }, [patience]);
  onCorpus(t, 'Sendmail', { factory, server, socket: 'unix' });
}

/** MILTER_CORPUS names a folder of messages. */
function onCorpus(t: Test, title: string, options: RigOptions): void {
  const folder = process.env['MILTER_CORPUS'];
  if (folder === undefined || folder === '') return;
  const part: Part = (t, rig) => corpus(t, rig, new Rig(t, { ...options, socket: 'none' }), folder);
  group(t, `${title} and the corpus`, options, [part]);
}
