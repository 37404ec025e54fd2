// To which message a packet belongs, and what an answer says of it.
import t from 'tap';
import { Conversation } from '../../lib/capture/index.js';
import { Reading, type Seen, type SeenMessage } from '../../lib/cli/reading.js';
import { packet } from '../helpers/bytes.js';
import { answer, data, OFFER } from '../helpers/capture.js';
import { macros } from '../web/scenes.js';

const c = packet('c');
const mail = (from: string): Buffer => packet('M', from);

/** What is seen of what is said: `>` by the mail server, `<` by the milter; and the messages that are over. */
function read(...said: ReadonlyArray<readonly ['>' | '<', ...Buffer[]]>): { seen: Seen[]; over: SeenMessage[] } {
  const conversation = new Conversation('s');
  const over: SeenMessage[] = [];
  const reading = new Reading((message) => over.push({ ...message }));
  const seen = [['>', OFFER] as const, ['<', answer()] as const, ...said].flatMap(([who, ...packets]) =>
    conversation
      .take(data(who === '>' ? 'mta' : 'milter', Buffer.concat(packets)))
      .map((record) => reading.take(record)),
  );
  for (const record of conversation.take({ type: 'close', session: 's', time: 1 })) reading.take(record);
  return { seen, over };
}

t.test('a message that follows another without ABORT and macros has its own verdict', async (t) => {
  const { over, seen } = read(
    ['>', mail('<a>')],
    ['<', c],
    ['>', packet('E')],
    ['<', packet('a')],
    ['>', mail('<b>')],
    ['<', packet('r')],
  );
  t.match(over, [
    { sender: 'a', verdict: 'accept' },
    { sender: 'b', verdict: 'reject' },
  ]);
  t.equal(seen.at(-1)!.stage, 'mailFrom');
});

t.test('an answer to what came before a message is not about it', async (t) => {
  const { over } = read(['>', mail('<a>'), packet('A'), macros('M', 'i', 'Q2'), mail('<b>')], ['<', packet('r'), c]);
  t.match(over, [
    { sender: 'a', verdict: 'aborted' },
    { sender: 'b', queueId: 'Q2', verdict: 'aborted' },
  ]);
  t.match(read(['>', packet('H', 'x'), mail('<a>')], ['<', packet('t'), c]).over, [{ verdict: 'aborted' }]);
});

t.test('each answer is the verdict that it is', async (t) => {
  for (const [reply, verdict] of [
    [packet('a'), 'accept'],
    [packet('r'), 'reject'],
    [packet('t'), 'tempfail'],
    [packet('4'), 'tempfail'],
    [packet('f'), 'tempfail'],
    [packet('d'), 'discard'],
    [packet('y', '450 4.7.1 x'), 'tempfail'],
    [packet('y', '550 5.7.1 x'), 'reject'],
    [c, 'aborted'],
  ] as const) {
    t.match(read(['>', mail('<a>')], ['<', reply]).over, [{ verdict }]);
  }
  const rcpt = packet('R', '<b>');
  t.match(read(['>', mail('<a>'), rcpt], ['<', c, packet('r')], ['>', packet('E')], ['<', c]).over, [
    { verdict: 'accept' },
  ]);
  t.match(read(['>', mail('<a>'), rcpt], ['<', c, packet('d')]).over, [{ verdict: 'discard' }]);
  t.match(read(['>', mail('<a>'), packet('U', 'x')], ['<', c, packet('r')]).over, [{ verdict: 'aborted' }]);
});
