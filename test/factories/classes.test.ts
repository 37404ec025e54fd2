/** How workers come by the milter's class: `static module`, setup() and teardown(), and what else they are told. */
import { fileURLToPath } from 'node:url';
import { serialize } from 'node:v8';
import t from 'tap';
import type { MilterError, MilterErrorCode } from '../../lib/errors.js';
import { findClass } from '../../lib/factories/find-class.js';
import { checkCloneable, moduleOf, workerStart } from '../../lib/factories/module-of.js';
import { setUp, tearDown } from '../../lib/factories/runtime.js';
import { MilterProtocol, type ProtocolClass } from '../../lib/index.js';
import { MilterClass } from '../../lib/session/milter-class.js';
import { checkOptions } from '../../lib/session/options.js';
import { shortFolder } from '../helpers/folder.js';
import { writeModule } from '../helpers/modules.js';
import { Mortal } from '../helpers/mortal.js';

t.test('setup() and teardown(): whatever they throw', async (t) => {
  const Bad = Object.assign(class Bad extends MilterProtocol {}, {
    setup: () => Promise.reject(Object.create(null) as Error),
    teardown() {
      throw new Error('still open');
    },
  }) as unknown as ProtocolClass;
  await t.rejects(setUp(Bad, 1), { code: 'ERR_MILTER_CALLBACK', message: 'Bad.setup() failed: an object' });
  const errors: MilterError[] = [];
  await tearDown(Bad, undefined, (error) => errors.push(error));
  t.match(errors, [{ code: 'ERR_MILTER_CALLBACK', message: 'Bad.teardown() failed: still open' }]);
  t.equal(await setUp(MilterProtocol, 1), undefined);
  await tearDown(MilterProtocol, undefined, () => t.fail());
});

const option: MilterErrorCode = 'ERR_MILTER_OPTION';

t.test('static module: what is wrong with it, and the line to add', (t) => {
  const withModule = (module: unknown): ProtocolClass =>
    Object.assign(class Mine extends MilterProtocol {}, { module }) as unknown as ProtocolClass;
  const rejects = (Milter: ProtocolClass, wrong: string, name: string, got: string): void => {
    const line = `add \`static module = import.meta.url;\` to ${name}`;
    try {
      moduleOf(Milter, 'ThreadFactory');
      t.fail(wrong);
    } catch (error) {
      const { code, message } = error as MilterError;
      t.equal(code, 'ERR_MILTER_OPTION');
      t.ok(message.startsWith(`static module ${wrong}: ${line}`) && message.endsWith(`, got ${got}`), message);
    }
  };
  const needed = 'is needed by ThreadFactory, whose workers load it';
  rejects(withModule(undefined), needed, 'Mine', 'undefined');
  rejects(withModule(5), 'must be a URL', 'Mine', '5');
  rejects(withModule('mine.js'), 'must be a URL', 'Mine', '"mine.js"');
  for (const url of ['file:///no/mine.js', 'file://host/mine.js']) {
    rejects(withModule(url), 'must be that of a file that is there', 'Mine', JSON.stringify(url));
  }
  class Heir extends Mortal {}
  rejects(Heir, needed, 'Heir', 'undefined');
  rejects(class extends MilterProtocol {}, needed, 'the class', 'undefined');
  t.equal(moduleOf(withModule(fileURLToPath(import.meta.url)), ''), import.meta.url, 'a path will do');
  t.equal(moduleOf(withModule(`${import.meta.url}?v=1`), ''), `${import.meta.url}?v=1`);
  t.equal(moduleOf(withModule('data:text/javascript,'), ''), 'data:text/javascript,');
  t.end();
});

t.test('what workers are told first: nothing that is a function', (t) => {
  const start = (options: object, socket: 'child' | 'parent' = 'parent'): ReturnType<typeof workerStart> =>
    workerStart(new MilterClass(Mortal, checkOptions(options)), 'x', { socket, sharedReads: true });
  t.match(start({ errorPolicy: () => 'reject' }), {
    className: 'Mortal',
    options: { errorPolicy: undefined, log: undefined },
  });
  t.match(start({ errorPolicy: 'reject', progressAfter: 5 }), {
    options: { errorPolicy: 'reject', progressAfter: 0x7fff_ffff },
  });
  t.match(start({ progressAfter: 5 }, 'child'), { options: { progressAfter: 5 } });
  structuredClone(start({ context: { a: 1 } }));
  t.end();
});

t.test('a context that cannot be cloned', (t) => {
  checkCloneable({ a: [1] }, 'ThreadFactory');
  t.throws(() => checkCloneable({ a() {} }, 'ThreadFactory'), {
    code: option,
    message: /^context cannot be cloned, as the workers of ThreadFactory need it: a\(\)/,
  });
  checkCloneable(new Blob([]), 'ThreadFactory');
  t.throws(() => checkCloneable(new Blob([]), 'ForkFactory', serialize), { code: option });
  t.end();
});

t.test('the class is found by its name, among the exports or with a factory; and only where it lives', async (t) => {
  const folder = shortFolder(t);
  const it = 'extends MilterProtocol { static module = import.meta.url; }';
  const find = (file: string, code: string, wanted = 'Mine'): Promise<ProtocolClass> =>
    findClass(writeModule(folder, file, code), wanted);
  const missing = (file: string, code: string, message: RegExp, wanted = 'Mine'): Promise<unknown> =>
    t.rejects(find(file, code, wanted), { code: 'ERR_MILTER_WORKER', message });

  await missing('nothing.mjs', '', /has no class Mine: it exports no class that extends MilterProtocol \(nothing\)/);
  await missing(
    'value.mjs',
    'export const a = 1; export class Mine { static module = import.meta.url; }',
    /\(Mine, a\)\./,
  );
  await missing(
    'heir.mjs',
    `class Base ${it}\nexport class Mine extends Base {}`,
    /it exports Mine, which say another module or none/,
  );
  await missing('odd.mjs', 'export class Mine extends MilterProtocol { static module = 5; }', /it exports Mine, which/);
  await missing('boom.mjs', 'throw new Error("boom")', /boom\.mjs does not load in a worker: boom$/);
  await missing('null.mjs', 'throw null', /null\.mjs does not load in a worker: null$/);
  await missing('syntax.mjs', 'export {', /does not load in a worker, in it or in a module that it imports: /);
  const strange = Object.assign(new Error('Unknown file extension ".ts"'), { code: 'ERR_UNKNOWN_FILE_EXTENSION' });
  Object.assign(globalThis, { strange });
  await missing(
    'tsx.mjs',
    'throw globalThis.strange',
    /tsx does not reach into worker threads: run the JavaScript that tsc makes, or use AsyncFactory or ForkFactory$/,
  );

  t.equal((await find('named.mjs', `export class Other ${it}\nexport class Mine ${it}`)).name, 'Mine');
  t.equal((await find('renamed.mjs', `class Mine ${it}\nexport { Mine as Yours, Mine as Theirs }`)).name, 'Mine');
  t.equal(
    (await find('default.mjs', `export class Other ${it}\nexport default class ${it}`, 'default')).name,
    'default',
  );
  const path =
    "import { fileURLToPath } from 'node:url';\nexport class Mine extends MilterProtocol { static module = fileURLToPath(import.meta.url); }";
  t.equal((await find('file.mjs', path)).name, 'Mine');
  const handed = "for (const C of [Other, Mine]) new ThreadFactory('inet:0', C)";
  t.equal((await find('single.mjs', `class Other ${it}\nclass Mine ${it}\n${handed}`)).name, 'Mine');
  t.equal((await find('nameless.mjs', `new ForkFactory('inet:0', class ${it})`, '')).name, '');

  const two = `export const make = () => class Mine ${it};\nexport const [a, b] = [make(), make()];`;
  await missing('two.mjs', two, /two\.mjs has 2 classes called Mine, and mail must go through the right one/);
  const nameless = `for (let i = 0; i < 2; i++) new ForkFactory('inet:0', class ${it});`;
  await missing('many.mjs', nameless, /many\.mjs has 2 classes without a name, and/, '');
  await missing('none.mjs', '', /none\.mjs has no class without a name: .*`export class MyMilter`/, '');
  await missing('late.mjs', 'throw new Error("boom")', /: boom \(what stands behind run\(\) runs in workers as well/);
});
