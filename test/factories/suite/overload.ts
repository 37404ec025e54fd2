// More connections than maxConnections: they wait, are refused for now, or are closed.
import type { Test } from 'tap';
import type { FactoryOptions } from '../../../lib/index.js';
import type { Dialled } from '../../helpers/dial.js';
import { connections } from '../../helpers/dial.js';
import { say } from '../../helpers/mta.js';
import type { Variant } from '../../helpers/variants.js';
import { playing, type Part, type Puppets } from './puppets.js';

const LATER = { type: 'replyCode', text: /^421 4\.3\.2 / };

/** A factory that serves one connection at once, which it has. */
async function full(
  t: Test,
  variant: Variant,
  overload: NonNullable<FactoryOptions['overload']>,
): Promise<{ play: Puppets; first: Dialled }> {
  const play = await playing(t, variant, { mailFrom: [] }, { maxConnections: 1, overload });
  return { play, first: await play.agreed() };
}

export const overload: Part = (t, variant) => {
  t.test("P144 connections above maxConnections wait for their turn: overload 'queue'", async (t) => {
    const { play, first } = await full(t, variant, 'queue');
    const second = await play.dial();
    const third = await play.dial();
    const asked = [second.mta.negotiate(), third.mta.negotiate()] as const;
    t.equal((await first.mta.ask(say.mail())).type, 'continue');
    t.equal(play.factory.connections, 1);
    first.mta.end();
    t.equal((await asked[0]).type, 'negotiate');
    t.equal(play.factory.connections, 1);
    t.strictSame(third.mta.replies, []);
    second.mta.end();
    t.equal((await asked[1]).type, 'negotiate', 'in their order');
    t.strictSame(play.calls(), ['mailFrom', 'abort true', 'close', 'close']);
  });

  t.test("P144 they are refused for now: overload 'tempfail'", async (t) => {
    const { play, first } = await full(t, variant, 'tempfail');
    const second = await play.agreed();
    t.match(await second.mta.ask(say.connect()), LATER);
    t.match(await second.mta.ask(say.mail()), LATER);
    second.mta.send(say.quit());
    await second.mta.closed;
    await connections(play.factory, 1);
    t.equal((await first.mta.ask(say.mail())).type, 'continue');
    t.strictSame(play.calls(), ['mailFrom'], 'no milter is made for it');
    first.mta.end();
    await play.alone();
    const third = await play.agreed();
    t.equal((await third.mta.ask(say.mail())).type, 'continue');
  });

  t.test("P144 they are closed: overload 'close'", async (t) => {
    const { play, first } = await full(t, variant, 'close');
    const second = await play.dial();
    await second.mta.closed;
    t.strictSame(second.mta.replies, []);
    t.equal((await first.mta.ask(say.mail())).type, 'continue');
  });

  t.test('P144 a client that breaks off while it waits for its turn harms nobody', async (t) => {
    const { play, first } = await full(t, variant, 'queue');
    const second = await play.dial();
    const third = await play.dial();
    t.equal((await first.mta.ask(say.mail())).type, 'continue');
    second.socket.resetAndDestroy();
    t.equal((await first.mta.ask(say.rcpt())).type, 'continue');
    const asked = third.mta.negotiate();
    first.mta.end();
    t.equal((await asked).type, 'negotiate');
    t.strictSame(play.errors, []);
  });

  t.test('P144 a connection that breaks makes room for one other, not for two', async (t) => {
    const { play, first } = await full(t, variant, 'queue');
    const second = await play.dial();
    const third = await play.dial();
    t.equal((await first.mta.ask(say.mail())).type, 'continue');
    first.socket.resetAndDestroy();
    const asked = third.mta.negotiate();
    await second.mta.negotiate();
    t.equal((await second.mta.ask(say.mail())).type, 'continue');
    t.equal(play.factory.connections, 1);
    t.strictSame(third.mta.replies, []);
    second.mta.end();
    await asked;
  });

  t.test('P142 P144 those that still wait when the factory closes are refused for now', async (t) => {
    const { play, first } = await full(t, variant, 'queue');
    const second = await play.dial();
    const asked = second.mta.negotiate();
    await first.mta.ask(say.mail()); // by now the second one has come as well
    const closing = play.factory.close();
    t.equal((await asked).type, 'negotiate');
    t.match(await second.mta.ask(say.connect()), LATER);
    first.mta.end();
    second.mta.end();
    await closing;
  });
};
