// Marks on callbacks: the decorators, and the static forms for plain JavaScript; and what counts as a callback at all.
import t from 'tap';
import * as c from '../../lib/constants.js';
import {
  MilterProtocol,
  noCallback,
  noReply,
  protocolNames,
  REJECT,
  type Logger,
  type ProtocolClass,
} from '../../lib/index.js';
import type { NegotiateReply } from '../../lib/codec/index.js';
import { thrown } from '../helpers/eob.js';
import { inMemory, message, say } from '../helpers/mta.js';
import { settled } from '../helpers/streams.js';

/** Every callback that can be marked, with its bits. */
const BITS: Readonly<Record<string, readonly [no: number, nr: number]>> = {
  connect: [c.SMFIP_NOCONNECT, c.SMFIP_NR_CONN],
  helo: [c.SMFIP_NOHELO, c.SMFIP_NR_HELO],
  mailFrom: [c.SMFIP_NOMAIL, c.SMFIP_NR_MAIL],
  rcpt: [c.SMFIP_NORCPT, c.SMFIP_NR_RCPT],
  data: [c.SMFIP_NODATA, c.SMFIP_NR_DATA],
  header: [c.SMFIP_NOHDRS, c.SMFIP_NR_HDR],
  eoh: [c.SMFIP_NOEOH, c.SMFIP_NR_EOH],
  body: [c.SMFIP_NOBODY, c.SMFIP_NR_BODY],
  unknown: [c.SMFIP_NOUNKNOWN, c.SMFIP_NR_UNKN],
};
const ALL_NO = Object.values(BITS).reduce((sum, [no]) => sum | no, 0);

/** The bits a class asks for, by name, when everything is offered. */
async function steps(Milter: ProtocolClass): Promise<string[]> {
  const { mta } = inMemory(Milter);
  return protocolNames(((await mta.negotiate()) as NegotiateReply).protocol);
}

/** What a class asks for that has these callbacks and these marks. */
const names = (callbacks: string[], noReplies: string[] = []): string[] => {
  const no = callbacks.reduce((sum, callback) => sum & ~(BITS[callback]?.[0] ?? 0), ALL_NO);
  return protocolNames(noReplies.reduce((sum, callback) => sum | (BITS[callback]?.[1] ?? 0), no));
};

class Plain extends MilterProtocol {
  override header() {}
  override body() {}
}

class Marked extends MilterProtocol {
  @noReply
  override header() {}
  @noCallback
  override body() {}
  override rcpt() {}
}

t.test('P22 exactly the callbacks that are not there are not asked for', async (t) => {
  t.strictSame(await steps(MilterProtocol), names([]));
  for (const callback of Object.keys(BITS)) {
    class One extends MilterProtocol {}
    Object.defineProperty(One.prototype, callback, { value: () => {} });
    t.strictSame(await steps(One), names([callback]), callback);
  }
  class All extends MilterProtocol {
    override connect() {}
    override helo() {}
    override mailFrom() {}
    override rcpt() {}
    override data() {}
    override header() {}
    override eoh() {}
    override body() {}
    override unknown() {}
  }
  t.strictSame(await steps(All), []);
  class Ends extends MilterProtocol {
    override eob() {}
    override abort() {}
    override close() {}
  }
  t.strictSame(await steps(Ends), names([]));
});

t.test('P22 a callback that is an arrow function, or set in the constructor, is there as well', async (t) => {
  const seen: string[] = [];
  class Arrows extends MilterProtocol {
    override header = (key: string) => void seen.push(key);
    constructor() {
      super();
      this.rcpt = (recip) => void seen.push(recip);
    }
  }
  t.strictSame(await steps(Arrows), names(['header', 'rcpt']));
  const { mta } = inMemory(Arrows);
  await mta.negotiate();
  await mta.play(say.rcpt(), say.header(), say.eob());
  t.strictSame(seen, ['<b@example.com>', 'Subject']);
});

t.test('@noReply asks for no answer, @noCallback for no command; what is not marked is as it was', async (t) => {
  t.strictSame(await steps(Marked), names(['header', 'rcpt'], ['header']));
});

t.test('every callback that has bits can be marked, in either form', async (t) => {
  for (const callback of Object.keys(BITS)) {
    const context = { kind: 'method', name: callback } as ClassMethodDecoratorContext;
    for (const [mark, decorate, expected] of [
      ['noReply', noReply, names([callback], [callback])],
      ['noCallback', noCallback, names([])],
    ] as const) {
      class Decorated extends MilterProtocol {}
      const method = (): void => {};
      t.equal(decorate(method, context), undefined, 'the function stays what it is');
      Object.defineProperty(Decorated.prototype, callback, { value: method });
      t.strictSame(await steps(Decorated), expected, `@${mark} ${callback}`);
      class Static extends MilterProtocol {
        static readonly [mark] = [callback];
      }
      Object.defineProperty(Static.prototype, callback, { value: () => {} });
      t.strictSame(await steps(Static), expected, `static ${mark} ${callback}`);
    }
  }
});

t.test('marks can be stacked, in either order', async (t) => {
  class Stacked extends MilterProtocol {
    @noReply
    @noCallback
    override header() {}
    @noCallback
    @noReply
    override body() {}
  }
  const both = protocolNames(ALL_NO | c.SMFIP_NR_HDR | c.SMFIP_NR_BODY);
  t.strictSame(await steps(Stacked), both);
});

t.test('an inherited method keeps its marks, an override without the decorator has none', async (t) => {
  class Inheriting extends Marked {}
  t.strictSame(await steps(Inheriting), names(['header', 'rcpt'], ['header']));
  class Overriding extends Marked {
    override header() {}
    override body() {}
  }
  t.strictSame(await steps(Overriding), names(['header', 'body', 'rcpt']));
  class Calling extends Marked {
    @noReply
    override header() {
      super.header();
    }
  }
  t.strictSame(await steps(Calling), names(['header', 'rcpt'], ['header']));
});

t.test('the static forms are inherited, and hold for overrides, until a class says something else', async (t) => {
  class Base extends Plain {
    static readonly noReply: readonly string[] = ['header'];
    static readonly noCallback: readonly string[] = ['body'];
  }
  class Overriding extends Base {
    override header() {}
    override body() {}
  }
  t.strictSame(await steps(Overriding), names(['header'], ['header']));
  class Saying extends Base {
    static override readonly noReply = [];
    static override readonly noCallback = [];
  }
  t.strictSame(await steps(Saying), names(['header', 'body']));
});

t.test(
  'static noReply and an arrow function go together; for a callback that is not there it asks for nothing',
  async (t) => {
    class Arrows extends MilterProtocol {
      static readonly noReply = ['header', 'eoh'];
      override header = () => {};
    }
    t.strictSame(await steps(Arrows), names(['header'], ['header']));
  },
);

t.test('a decorator on anything else throws when the class is defined', async (t) => {
  const definitions: Record<string, () => unknown> = {
    eob: () =>
      class extends MilterProtocol {
        @noReply
        override eob() {}
      },
    abort: () =>
      class extends MilterProtocol {
        @noCallback
        override abort() {}
      },
    close: () =>
      class extends MilterProtocol {
        @noReply
        override close() {}
      },
    helper: () =>
      class extends MilterProtocol {
        @noCallback
        helper() {}
      },
    'Symbol(secret)': () => {
      const secret = Symbol('secret');
      return class extends MilterProtocol {
        @noReply
        [secret]() {}
      };
    },
  };
  for (const [name, define] of Object.entries(definitions)) {
    const error = thrown(define);
    t.equal(error.code, 'ERR_MILTER_OPTION');
    const known = Object.keys(BITS).join(', ');
    t.match(error.message, new RegExp(`^no(Reply|Callback) works on the callbacks ${known}; it cannot be used on `));
    t.ok(error.message.endsWith(` ${name}`), name);
  }
});

t.test('P25 a callback without a reply is called, a callback that is marked away is not', async (t) => {
  const seen: string[] = [];
  class Noting extends MilterProtocol {
    @noReply
    override header(key: string) {
      seen.push(key);
    }
    @noCallback
    override body() {
      seen.push('body');
    }
  }
  const { mta } = inMemory(Noting);
  await mta.negotiate();
  mta.send(say.header('One'), say.header('Two'));
  t.equal((await mta.ask(say.eob())).type, 'continue');
  await settled();
  t.strictSame([seen, mta.replies], [['One', 'Two'], []]);
});

t.test('P24 where the mail server cannot do without, both are made up for', async (t) => {
  const seen: string[] = [];
  class Noting extends MilterProtocol {
    @noReply
    override header(key: string) {
      seen.push(key);
    }
    @noCallback
    override rcpt() {
      seen.push('rcpt');
      return REJECT;
    }
    override eob() {}
  }
  const { mta } = inMemory(Noting);
  t.match(await mta.negotiate({ protocol: c.SMFIP_NODATA }), { protocol: c.SMFIP_NODATA });
  t.strictSame(
    await mta.play(say.connect(), say.helo(), ...message()),
    Array.from({ length: 9 }, () => 'continue'),
  );
  t.strictSame(seen, ['Subject']);
});

t.test('a verdict of a marked callback is no error: it is kept', async (t) => {
  const log: Logger = { info() {}, warn: () => t.fail('warned'), error: () => t.fail('failed') };
  class Judging extends MilterProtocol {
    @noReply
    override header() {
      return REJECT;
    }
    override eob() {
      t.fail('the message is judged already');
    }
  }
  const { mta } = inMemory(Judging, { log });
  await mta.negotiate();
  t.equal((await mta.ask(say.header(), say.eob())).type, 'reject');
});
