// The arguments of a factory: the documentation's five, or options in their place; checked when it is made.
import { EventEmitter } from 'node:events';
import { lstat } from 'node:fs/promises';
import { Server } from 'node:net';
import t from 'tap';
import { AsyncFactory, MilterProtocol, type FactoryOptions } from '../../lib/index.js';
import type { NegotiateReply } from '../../lib/codec/index.js';
import { dial } from '../helpers/dial.js';
import { thrown } from '../helpers/eob.js';
import { shortFolder } from '../helpers/folder.js';

type Arguments = readonly [third?: unknown, fourth?: unknown, fifth?: unknown];

/** A factory made with any arguments, as plain JavaScript could. */
const make = (where: string, Milter: unknown, ...rest: Arguments): AsyncFactory =>
  new (AsyncFactory as new (...args: unknown[]) => AsyncFactory)(where, Milter, ...rest);

const refusal = (...rest: Arguments): string => {
  const { code, message } = thrown(() => make('inet:0', MilterProtocol, ...rest));
  return code === 'ERR_MILTER_OPTION' ? message : `${code}: ${message}`;
};

t.test('the documented arguments, and options in the third or fourth place, mean the same', async (t) => {
  const forms: ReadonlyArray<readonly [Arguments, actions: number, mode: number]> = [
    [[], 0, 0o666],
    [[undefined, undefined, undefined], 0, 0o666],
    [[0x01], 0x01, 0o666],
    [[0x11, 50], 0x11, 0o666],
    [[0x1ff, 128, 0o600], 0x1ff, 0o600],
    [[undefined, undefined, 0o660], 0, 0o660],
    [[{}], 0, 0o666],
    [[{ smfifOptions: 0x03, backlog: 5, sockChmod: 0o640 }], 0x03, 0o640],
    [[{ smfifOptions: undefined, backlog: undefined, sockChmod: undefined }], 0, 0o666],
    [[0x01, {}], 0x01, 0o666],
    [[0x01, { smfifOptions: 0x02, sockChmod: 0o600 }], 0x03, 0o600],
    [[undefined, { smfifOptions: 0x02 }], 0x02, 0o666],
    [[0x01, { sockChmod: 0o600 }, undefined], 0x01, 0o600],
  ];
  const folder = shortFolder(t);
  for (const [rest, actions, mode] of forms) {
    const factory = make(`${folder}/a.sock`, MilterProtocol, ...rest);
    await factory.run();
    t.equal((await lstat(`${folder}/a.sock`)).mode & 0o777, mode, JSON.stringify(rest));
    const { mta } = await dial(t, factory);
    t.equal(((await mta.negotiate()) as NegotiateReply).actions, actions);
    mta.end();
    await factory.close();
  }
});

t.test('how many connections may wait is what the system is told', async (t) => {
  const backlogs: unknown[] = [];
  const listen = Reflect.get(Server.prototype, 'listen') as (...args: unknown[]) => Server;
  t.intercept(Server.prototype, 'listen', {
    value(this: Server, options: { backlog: number }, done: () => void) {
      backlogs.push(options.backlog);
      return listen.call(this, options, done);
    },
  });
  for (const rest of [[], [0, 7], [{ backlog: 8 }], [0, { backlog: 9 }]] as const) {
    const factory = make('inet:0', MilterProtocol, ...rest);
    await factory.run();
    await factory.close();
  }
  t.strictSame(backlogs, [50, 7, 8, 9]);
});

t.test('a bad argument is refused with its name and what it got', async (t) => {
  const many = 0x7fff_ffff;
  const cases: ReadonlyArray<readonly [Arguments, string]> = [
    [['1'], 'smfifOptions must be SMFIF_ bits, up to 0x1ff, or options, got "1"'],
    [[null], 'smfifOptions must be SMFIF_ bits, up to 0x1ff, or options, got null'],
    [['1', {}], 'smfifOptions must be SMFIF_ bits, up to 0x1ff, or options, got "1"'],
    [[0x200], 'smfifOptions must be SMFIF_ bits, got 512'],
    [[0.5, {}], 'smfifOptions must be SMFIF_ bits, got 0.5'],
    [[0x01, { smfifOptions: '2' }], 'smfifOptions must be SMFIF_ bits, got "2"'],
    [[0x01, { smfifOptions: 0x200 }], 'smfifOptions must be SMFIF_ bits, got 512'],
    [[0, '50'], 'tcpListenQueue must be a number, got "50"'],
    [[0, null], 'tcpListenQueue must be a number, got null'],
    [[0, 50, '0666'], 'sockChmod must be a number, got "0666"'],
    [[0, 0], `backlog must be a whole number from 1 to ${many}, got 0`],
    [[0, 50, 0o1000], 'sockChmod must be a whole number from 0 to 511, got 512'],
    [[0, {}, 0o600], 'the argument after the options must not be there, got 384'],
    [[{}, 50], 'the argument after the options must not be there, got 50'],
    [[{}, null], 'the argument after the options must not be there, got null'],
    [[{}, undefined, 0o600], 'the argument after the options must not be there, got 384'],
    [[{ backlog: '50' }], `backlog must be a whole number from 1 to ${many}, got "50"`],
    [[{ sockChmod: -1 }], 'sockChmod must be a whole number from 0 to 511, got -1'],
    [[{ sockOwner: '' }], 'sockOwner must be a name or a number, got ""'],
    [[{ sockOwner: -1 }], 'sockOwner must be a name or a number, got -1'],
    [[{ sockGroup: 1.5 }], 'sockGroup must be a name or a number, got 1.5'],
    [[{ sockGroup: null }], 'sockGroup must be a name or a number, got null'],
    [[{ maxConnections: 0 }], `maxConnections must be a whole number from 1 to ${many}, got 0`],
    [[{ maxConnections: '5' }], `maxConnections must be a whole number from 1 to ${many}, got "5"`],
    [[{ overload: 'drop' }], "overload must be 'queue', 'tempfail' or 'close', got \"drop\""],
    [[{ closeTimeout: -1 }], `closeTimeout must be a whole number from 0 to ${many}, got -1`],
    [[{ workers: 0 }], 'workers must be a whole number from 1 to 1024, got 0'],
    [[{ perSession: 1 }], 'perSession must be true or false, got 1'],
    [[{ sharedReads: 'no' }], 'sharedReads must be true or false, got "no"'],
    [[{ perSession: true, workers: 2 }], 'workers means nothing with perSession, got 2'],
    [[{ startTimeout: 0 }], `startTimeout must be a whole number from 1 to ${many}, got 0`],
    [[{ resourceLimits: 64 }], 'resourceLimits must be an object, got 64'],
    [[{ resourceLimits: { heap: 64 } }], 'resourceLimits.heap is no limit, got 64'],
    [[{ resourceLimits: { stackSizeMb: -1 } }], 'resourceLimits.stackSizeMb must be a number of MiB, got -1'],
    [[{ execArgv: '--import=x' }], 'execArgv must be an array of strings, got "--import=x"'],
    [[{ execArgv: [1] }], 'execArgv must be an array of strings, got an array of 1'],
    [[{ socket: 'both' }], "socket must be 'parent' or 'child', got \"both\""],
    [[{ socket: 'child' }], 'socket must be that of the parent: AsyncFactory has no children, got "child"'],
    [[{ signal: {} }], 'signal must be an AbortSignal, got an object (Object)'],
    [[{ signal: null }], 'signal must be an AbortSignal, got null'],
    [[{ tcpListenQueue: 50 }], 'tcpListenQueue is no option, got 50'],
    [[{ dryRun: 'yes' }], 'dryRun must be true or false, got "yes"'],
  ];
  for (const [rest, expected] of cases) t.equal(refusal(...rest), expected);
});

t.test('every good option is taken', async (t) => {
  const options: Required<FactoryOptions>[] = [
    {
      backlog: 1,
      sockChmod: 0,
      sockOwner: 0,
      sockGroup: 'mail',
      maxConnections: Infinity,
      overload: 'close',
      closeTimeout: 0,
      workers: 1024,
      perSession: false,
      startTimeout: 1,
      resourceLimits: {
        maxOldGenerationSizeMb: 64,
        maxYoungGenerationSizeMb: 16,
        codeRangeSizeMb: 8,
        stackSizeMb: 0.5,
      },
      execArgv: [],
      socket: 'parent',
      sharedReads: false,
      signal: new AbortController().signal,
      smfifOptions: 0,
      smfipOptions: 0,
      required: 0,
      context: {},
      maxPayload: 65_535,
      idleTimeout: 1000,
      negotiationTimeout: 1000,
      callbackDeadline: 1000,
      eobDeadline: 1000,
      progressAfter: 1000,
      progressEvery: 1000,
      maxModifications: 1000,
      spoolMemory: 1000,
      errorPolicy: 'accept',
      dryRun: false,
      bareReplies: false,
      log: console,
      logMessages: false,
    },
  ];
  for (const option of options) t.ok(new AsyncFactory('inet:0', MilterProtocol, option));
  for (const overload of ['queue', 'tempfail', 'close'] as const) {
    t.ok(new AsyncFactory('inet:0', MilterProtocol, { overload, maxConnections: 1, sockOwner: 'mail', sockGroup: 0 }));
  }
});

t.test('a bad address, and a class that is none, are refused at once', async (t) => {
  t.equal(thrown(() => make('tcp:1@h', MilterProtocol)).code, 'ERR_MILTER_ADDRESS');
  t.match(
    thrown(() => make('inet:0', EventEmitter)),
    { code: 'ERR_MILTER_OPTION', message: /^MyMilter must be a class/ },
  );
  t.match(
    thrown(() => make('inet:0', undefined)),
    { code: 'ERR_MILTER_OPTION' },
  );
});
