/** ThreadFactory and ForkFactory with real workers: how they start, change their code, and end. */
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { readFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { MilterProtocol, SMFIF_ADDHDRS, type ProtocolClass } from '../../lib/index.js';
import { childPids } from '../helpers/children.js';
import { outcome } from '../helpers/eob.js';
import { shortFolder } from '../helpers/folder.js';
import { writeModule } from '../helpers/modules.js';
import { Mortal, touch } from '../helpers/mortal.js';
import { say, type Mta } from '../helpers/mta.js';
import { skip } from '../helpers/open-files.js';
import { dialled, KINDS, make, run, threadCount } from '../helpers/pooled.js';
import { until } from '../helpers/until.js';

/** A class that says that it lives in a module. */
function claiming(module: string, name = 'Mine'): ProtocolClass {
  const Milter = class extends MilterProtocol {};
  return Object.defineProperties(Milter, { module: { value: module }, name: { value: name } });
}

const workers = (): number => threadCount() + childPids().length;

/** What the end of a message gets: the header that says who has seen it. */
async function seenBy(mta: Mta): Promise<string> {
  mta.send(say.mail(), say.eob());
  await mta.reply();
  const [header] = (await outcome(mta)) as Array<{ value: string }>;
  return (header as { value: string }).value;
}

async function talk(t: Test, factory: Parameters<typeof dialled>[1]): Promise<Mta> {
  const { mta } = await dialled(t, factory);
  await mta.negotiate({ protocol: 0x400 });
  return mta;
}

const marking = (value: string): string =>
  `export class Mine extends MilterProtocol {
     static module = import.meta.url;
     mailFrom() {}
     eob() { this.addHeader('X-Seen', ${value}); }
   }`;

const WORKER = { code: 'ERR_MILTER_WORKER' };

for (const kind of KINDS) {
  t.test(`${kind}: run() says what is wrong with the class, and leaves nothing`, { skip }, async (t) => {
    const folder = shortFolder(t);
    const it = 'extends MilterProtocol { static module = import.meta.url;';
    const cases: Array<[name: string, code: string, error: object]> = [
      ['boom', 'throw new Error("boom")', { ...WORKER, message: /boom\.mjs does not load in a worker: boom$/ }],
      [
        'exit',
        'process.exit(9)',
        { ...WORKER, message: /^Worker (thread|process) \d+ did not start: it ended with exit code 9$/ },
      ],
      [
        'none',
        'export class Mine {}',
        { ...WORKER, message: /it exports no class that extends MilterProtocol \(Mine\)/ },
      ],
      [
        'setup',
        `export class Mine ${it} static setup() { throw new TypeError('no'); } }`,
        { code: 'ERR_MILTER_CALLBACK', message: 'Mine.setup() failed: no', cause: { name: 'TypeError' } },
      ],
      [
        'never',
        `export class Mine ${it} static setup() { return new Promise(() => {}); } }`,
        { ...WORKER, message: /^Worker \w+ \d+ did not start: it did not get ready within 3000 ms$/ },
      ],
      ['loop', 'for (;;);', { ...WORKER, message: /did not get ready within 3000 ms$/ }],
      [
        'option',
        `export class Mine ${it} static errorPolicy = 'maybe' }`,
        { code: 'ERR_MILTER_OPTION', message: /errorPolicy/ },
      ],
    ];
    for (const [name, code, error] of cases) {
      const module = writeModule(folder, `${name}.mjs`, code);
      const factory = make(kind, claiming(module), {
        workers: 2,
        startTimeout: ['never', 'loop'].includes(name) ? 3000 : 60_000,
      });
      await t.rejects(factory.run(), error as Error, name);
      t.equal(workers(), 0);
      await factory.close();
    }
  });

  t.test(`${kind}: a port that is taken leaves nothing`, { skip }, async (t) => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    t.teardown(() => server.close());
    const where = `inet:${(server.address() as AddressInfo).port}@127.0.0.1`;
    await t.rejects(make(kind, Mortal, { workers: 1 }, where).run(), { code: 'ERR_MILTER_LISTEN' });
    t.equal(workers(), 0);
  });

  t.test(`${kind}: what can be known is said when it is made`, (t) => {
    const rejects = (options: object, message: string | RegExp, Milter: ProtocolClass = Mortal): void =>
      void t.throws(() => make(kind, Milter, options), { code: 'ERR_MILTER_OPTION', message });
    rejects({ workers: 0 }, 'workers must be a whole number from 1 to 1024, got 0');
    rejects(
      { context: { call() {} } },
      new RegExp(`^context cannot be cloned, as the workers of ${kind} need it: call`),
    );
    rejects(
      { errorPolicy: () => 'accept' },
      `errorPolicy cannot be a function under ${kind}: make it \`static errorPolicy\` of the class, got function errorPolicy`,
    );
    rejects(
      {},
      `static module is needed by ${kind}, whose workers load it: add \`static module = import.meta.url;\` to MilterProtocol, got undefined`,
      MilterProtocol,
    );
    if (kind === 'ThreadFactory')
      rejects({ socket: 'child' }, 'socket must be that of the parent: Node cannot move one to a thread, got "child"');
    else rejects({ context: new Blob([]) }, /^context cannot be cloned, as the workers of ForkFactory need it: /);
    t.end();
  });

  t.test(`${kind}: reload() has new code serve new connections, the old code finish the others`, async (t) => {
    const folder = shortFolder(t);
    const module = writeModule(folder, 'mine.mjs', marking('"old"'));
    const factory = make(kind, claiming(module), { workers: 2, smfifOptions: SMFIF_ADDHDRS });
    const errors: unknown[] = [];
    factory.on('sessionError', (error) => errors.push(error));
    t.teardown(() => Promise.all([factory.close(), factory.close()]));
    await t.rejects(factory.reload(), { code: 'ERR_MILTER_CLOSING', message: 'The factory is not running' });
    await factory.run();
    const old = [await talk(t, factory), await talk(t, factory)] as const;
    t.equal((await old[0].ask(say.mail())).type, 'continue');
    writeModule(folder, 'mine.mjs', marking('"new"'));
    await factory.reload();
    const fresh = await talk(t, factory);
    t.equal(await seenBy(fresh), 'new');
    old[0].send(say.eob());
    t.match(await outcome(old[0]), [{ value: 'old' }, { type: 'continue' }], 'in progress');
    t.equal(await seenBy(old[0]), 'old', 'as long as the connection lasts');
    t.equal(await seenBy(old[1]), 'old');
    t.equal(workers(), 4);
    for (const mta of old) mta.send(say.quit());
    await until('the old ones to end', () => workers() === 2);

    writeModule(folder, 'mine.mjs', 'throw new Error("half written")');
    await t.rejects(factory.reload(), { ...WORKER, message: /half written$/ });
    t.equal(workers(), 2, 'a module that does not load leaves everything as it was');
    t.equal(await seenBy(fresh), 'new');
    t.equal(await seenBy(await talk(t, factory)), 'new');

    writeModule(folder, 'mine.mjs', marking('"newest"'));
    const [reloaded] = await Promise.allSettled([factory.reload(), factory.close(), factory.close()]);
    t.match(reloaded, { status: 'rejected', reason: { code: 'ERR_MILTER_CLOSING' } }, 'closed meanwhile');
    t.equal(workers(), 0);
    await t.rejects(factory.reload(), { code: 'ERR_MILTER_CLOSING' });
    t.strictSame(errors, []);
  });

  t.test(`${kind}: setup() and teardown() run in each worker, with the context; what fails is told`, async (t) => {
    const trace = join(shortFolder(t), 'trace');
    touch(trace);
    const module = writeModule(
      shortFolder(t),
      'mine.mjs',
      `import { appendFileSync } from 'node:fs';
       export class Mine extends MilterProtocol {
         static module = import.meta.url;
         static setup({ trace }) { appendFileSync(trace, 's'); return { trace, n: 7 }; }
         static teardown({ trace }) { appendFileSync(trace, 't'); throw new Error('stuck'); }
         mailFrom() {}
         eob() { this.addHeader('X-Seen', String(this.shared.n)); }
       }`,
    );
    const { factory, errors } = await run(t, kind, claiming(module), {
      workers: 3,
      context: { trace },
      smfifOptions: SMFIF_ADDHDRS,
    });
    t.equal(readFileSync(trace, 'utf8'), 'sss');
    t.equal(await seenBy(await talk(t, factory)), '7');
    await Promise.all([factory.close(), factory.close()]);
    t.equal(readFileSync(trace, 'utf8'), 'sssttt');
    t.match(
      errors,
      [1, 2, 3].map(() => ({ code: 'ERR_MILTER_CALLBACK', message: 'Mine.teardown() failed: stuck' })),
    );
  });

  t.test(`${kind}: a worker that will not stop is killed after closeTimeout`, { skip }, async (t) => {
    for (const code of ['static teardown() { return new Promise(() => {}); }', 'static teardown() { for (;;); }']) {
      const module = writeModule(
        shortFolder(t),
        'mine.mjs',
        `export class Mine extends MilterProtocol { static module = import.meta.url; ${code} }`,
      );
      const { factory, errors } = await run(t, kind, claiming(module), { workers: 1, closeTimeout: 50 });
      await factory.close();
      t.equal(workers(), 0);
      t.match(errors, [{ ...WORKER, message: /^Worker \w+ \d+ died: it did not stop within 50 ms$/ }]);
    }
  });

  t.test(`${kind}: perSession: a worker for each connection, and one in reserve`, { skip }, async (t) => {
    const trace = join(shortFolder(t), 'trace');
    touch(trace);
    const options = { perSession: true, smfifOptions: SMFIF_ADDHDRS, context: { trace } };
    const { factory, errors } = await run(t, kind, Mortal, options);
    t.equal(workers(), 1);
    const wheres: string[] = [];
    const mtas: Mta[] = [];
    for (let i = 0; i < 3; i++) {
      const mta = await talk(t, factory);
      mtas.push(mta);
      await mta.ask(say.mail());
      mta.send(say.eob());
      wheres.push(((await outcome(mta)) as Array<{ value: string }>)[1]!.value);
    }
    t.equal(new Set(wheres).size, 3);
    t.equal(workers(), 4);
    mtas[0]!.send(say.macros('M', { do: 'exit' }), say.mail());
    t.equal((await mtas[0]!.reply()).type, 'tempFail');
    await until('it to end', () => workers() === 3);
    t.equal((await mtas[0]!.ask(say.mail())).type, 'continue', 'the one in reserve goes on');
    t.equal(workers(), 4);
    for (const mta of mtas) mta.send(say.quit());
    await until('them to end', () => workers() === 1);
    t.equal(errors.length, 2);
  });

  t.test(`${kind}: while there is no worker, new connections are refused for now`, async (t) => {
    const module = writeModule(
      shortFolder(t),
      'mine.mjs',
      'export class Mine extends MilterProtocol { static module = import.meta.url; mailFrom() { process.exit(1); } }',
    );
    const { factory, errors } = await run(t, kind, claiming(module), { workers: 1 });
    await until('no worker to be left', async () => {
      const { mta, socket } = await dialled(t, factory);
      const types = [await mta.negotiate(), await mta.ask(say.connect()), await mta.ask(say.mail())];
      socket.destroy();
      return types.map(({ type }) => type).join() === 'negotiate,replyCode,replyCode';
    });
    t.ok(errors.some(({ message }) => /^Workers keep dying: the next one is started in \d+ ms$/.test(message)));
  });
}
