// What the callbacks are given, and what an object finds around it.
import t from 'tap';
import { bareAddress, ForkMixin, MilterProtocol, ThreadMixin, type MacroDict } from '../../lib/index.js';
import { packet, u16 } from '../helpers/bytes.js';
import { milter, STAGES, type Script } from '../helpers/milter.js';
import { inMemory, message, say, type Mta } from '../helpers/mta.js';

/** A milter that notes what its callbacks are given, past the negotiation. */
async function listening(): Promise<{ mta: Mta; heard: unknown[] }> {
  const heard: unknown[] = [];
  const script: Script = {};
  for (const stage of STAGES) {
    script[stage] = (...args: unknown[]): void => {
      heard.push([stage, ...args.map((arg) => (Buffer.isBuffer(arg) ? arg.toString() : arg))]);
    };
  }
  const { mta } = inMemory(milter(script).MyMilter);
  await mta.negotiate();
  return { mta, heard };
}

const NONE = Object.create(null) as MacroDict;

t.test('arguments', async (t) => {
  await t.test('each callback gets what the documentation says, in its order', async (t) => {
    const { mta, heard } = await listening();
    const mail = say.mail('<a@example.org>', 'SIZE=100', 'BODY=8BITMIME');
    await mta.play(say.connect('mx.a.org', '192.0.2.7'), say.helo('mx.a.org'), mail);
    await mta.play(say.rcpt('<b@example.com>', 'NOTIFY=NEVER'), say.data(), say.header('Subject', 'hi\n\tyou'));
    await mta.play(say.eoh(), say.body('Hi\r\n'), say.eob(), say.unknown('FOO bar'));
    t.same(heard, [
      ['connect', 'mx.a.org', '4', '192.0.2.7', 25000, NONE],
      ['helo', 'mx.a.org', NONE],
      ['mailFrom', '<a@example.org>', NONE, ['SIZE=100', 'BODY=8BITMIME']],
      ['rcpt', '<b@example.com>', NONE, ['NOTIFY=NEVER']],
      ['data', NONE],
      ['header', 'Subject', 'hi\n\tyou', NONE],
      ['eoh', NONE],
      ['body', 'Hi\r\n', NONE],
      ['eob', NONE],
      ['unknown', 'FOO bar', NONE],
    ]);
  });

  for (const [what, bytes, family, ip, port] of [
    ['IPv4', packet('C', 'h', Buffer.from('4'), u16(25), '192.0.2.1'), '4', '192.0.2.1', 25],
    ['IPv6 from Postfix', packet('C', 'h', Buffer.from('6'), u16(25), '2001:db8::1'), '6', '2001:db8::1', 25],
    ['IPv6 from Sendmail', packet('C', 'h', Buffer.from('6'), u16(25), 'IPv6:2001:db8::1'), '6', '2001:db8::1', 25],
    ['a Unix socket', packet('C', 'h', Buffer.from('L'), u16(0), '/run/x'), 'L', '/run/x', 0],
    ['nothing known', packet('C', 'h', Buffer.from('U')), 'U', '', 0],
    ['a family nobody knows', packet('C', 'h', Buffer.from('x'), u16(25), '192.0.2.1'), 'U', '', 0],
  ] as const) {
    await t.test(`connect() and ${what}`, async (t) => {
      const { mta, heard } = await listening();
      mta.bytes(bytes);
      t.match(await mta.reply(), { type: 'continue' });
      t.same(heard, [['connect', 'h', family, ip, port, NONE]]);
    });
  }

  await t.test('P78 ESMTP arguments come apart, also where a client has joined them with spaces', async (t) => {
    const { mta, heard } = await listening();
    mta.bytes(packet('M', '<>', 'SIZE=1  BODY=7BIT ', 'RET=HDRS'));
    mta.bytes(packet('R', '<b@b.org>', 'NOTIFY=NEVER ORCPT=rfc822;b@b.org'));
    mta.bytes(packet('R', '<c d@b.org>'));
    await mta.play(say.rcpt());
    t.match(heard, [
      ['mailFrom', '<>', {}, ['SIZE=1', 'BODY=7BIT', 'RET=HDRS']],
      ['rcpt', '<b@b.org>', {}, ['NOTIFY=NEVER', 'ORCPT=rfc822;b@b.org']],
      ['rcpt', '<c d@b.org>', {}, []],
      ['rcpt', '<b@example.com>', {}, []],
    ]);
  });

  await t.test('addresses keep their brackets, and bareAddress() takes them off', async (t) => {
    const { mta, heard } = await listening();
    await mta.play(say.mail('<a@example.org>'), say.rcpt('b@example.com'));
    t.same(
      heard.map((args) => bareAddress((args as [string, string])[1])),
      ['a@example.org', 'b@example.com'],
    );
  });

  await t.test(
    'the callbacks of the base class do nothing: super may be called, and what is not there is',
    async (t) => {
      class Polite extends MilterProtocol {
        override connect(...args: Parameters<MilterProtocol['connect']>) {
          return super.connect(...args);
        }
        override helo(...args: Parameters<MilterProtocol['helo']>) {
          return super.helo(...args);
        }
        override mailFrom(...args: Parameters<MilterProtocol['mailFrom']>) {
          return super.mailFrom(...args);
        }
        override rcpt(...args: Parameters<MilterProtocol['rcpt']>) {
          return super.rcpt(...args);
        }
        override data(...args: Parameters<MilterProtocol['data']>) {
          return super.data(...args);
        }
        override header(...args: Parameters<MilterProtocol['header']>) {
          return super.header(...args);
        }
        override eoh(...args: Parameters<MilterProtocol['eoh']>) {
          return super.eoh(...args);
        }
        override body(...args: Parameters<MilterProtocol['body']>) {
          return super.body(...args);
        }
        override eob(...args: Parameters<MilterProtocol['eob']>) {
          return super.eob(...args);
        }
        override unknown(...args: Parameters<MilterProtocol['unknown']>) {
          return super.unknown(...args);
        }
      }
      const { mta, errors } = inMemory(Polite);
      t.match(await mta.negotiate(), { protocol: 0 });
      t.same(
        await mta.play(say.connect(), say.helo(), ...message(), say.unknown()),
        Array.from({ length: 10 }, () => 'continue'),
      );
      mta.send(say.mail(), say.abort(), say.quit());
      t.equal(await mta.closed, undefined);
      t.same(errors, []);
    },
  );
});

t.test('what an object finds', async (t) => {
  await t.test('context, and what setup() returned, from the constructor on', async (t) => {
    const seen: unknown[] = [];
    class Curious extends MilterProtocol<{ name: string }, Map<string, number>> {
      readonly fromTheStart = [this.context.name, this.shared.get('a')];
      override eob(): void {
        seen.push(this.fromTheStart, this.context.name, this.shared.get('a'), this.bodySkipped);
      }
    }
    const { mta } = inMemory(Curious, { context: { name: 'c' }, shared: new Map([['a', 1]]) });
    await mta.negotiate();
    await mta.play(say.eob());
    t.same(seen, [['c', 1], 'c', 1, false]);
  });

  await t.test('a callback may be a field of the object', async (t) => {
    const seen: string[] = [];
    class Arrow extends MilterProtocol {
      override header = (key: string): void => void seen.push(key);
    }
    const { mta } = inMemory(Arrow);
    t.match(await mta.negotiate({ protocol: 0x60 }), { protocol: 0x40 });
    await mta.play(say.mail(), say.header('Subject'));
    t.same(seen, ['Subject']);
  });

  await t.test('the mixins, which the documentation requires, are needless: they return the class', async (t) => {
    t.equal(ThreadMixin(MilterProtocol), MilterProtocol);
    t.equal(ForkMixin(MilterProtocol), MilterProtocol);
    class Mixed extends ThreadMixin(ForkMixin(MilterProtocol)) {
      override eob(): 'reject' {
        return 'reject';
      }
    }
    const { mta } = inMemory(Mixed);
    await mta.negotiate();
    t.same(await mta.play(say.eob()), ['reject']);
  });
});
