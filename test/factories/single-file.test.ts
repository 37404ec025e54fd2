// A program in a single file that defines a milter and runs a factory, as its users write it: run for real, in each
// factory, as JavaScript that tsc made, under tap's loader and under tsx.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import ts from 'typescript';
import { MilterClient } from '../../lib/client/index.js';
import { formatAddress, SMFIF_ADDHDRS, type SocketAddress } from '../../lib/index.js';
import { demandBuild, root } from '../helpers/built.js';
import { runProgram, type Running } from '../helpers/example.js';
import { shortFolder } from '../helpers/folder.js';
import { forkVariant, threadVariant } from '../helpers/variants.js';
import { EobOnly } from '../integration/milters.js';

demandBuild();

const BODY = `extends MilterProtocol {
  static module = import.meta.url;

  override eob(): void {
    this.addHeader('X-Where', \`\${process.pid}/\${threadId}\`);
  }
}`;

/** The ways to define a milter, and what the factory is given. */
const DEFINITIONS: Readonly<Record<string, readonly [definition: string, given: string]>> = {
  'an export': [`export class Greeter ${BODY}`, 'Greeter'],
  'the default export': [`export default class Greeter ${BODY}`, 'Greeter'],
  'an export of another name': [`class Greeter ${BODY}\nexport { Greeter as Milter };`, 'Greeter'],
  'a class that is not exported': [
    `class Other ${BODY}\nnew Factory('inet:0', Other);\nclass Greeter ${BODY}`,
    'Greeter',
  ],
  'a class expression': ['', `class ${BODY}`],
};

/** It takes its arguments from the command line, in workers as well, and prints where it has come to. */
const program = ([definition, given]: readonly [string, string]): string => `
import { threadId } from 'node:worker_threads';
import { AsyncFactory, ForkFactory, isMilterWorker, MilterProtocol, SMFIF_ADDHDRS, ThreadFactory } from 'milter-stream';

const [name, socket] = process.argv.slice(2) as [string, string];
const Factory = { AsyncFactory, ForkFactory, ThreadFactory }[name] as typeof AsyncFactory;
${definition}
const where: string = isMilterWorker() ? 'in a worker' : 'in the program';
console.log(\`loaded \${where}\`);
if (!isMilterWorker()) console.log(\`pid \${process.pid}\`);
const factory = new Factory(socket, ${given}, { smfifOptions: SMFIF_ADDHDRS, workers: 1 });
process.once('SIGTERM', () => void factory.close());
factory.once('listening', () => console.log(\`listens \${where}\`));
try {
  await factory.run();
  console.log(\`run() is over \${where}, \${factory.address === undefined ? 'serving nobody' : 'serving'}\`);
} catch (error) {
  console.log(\`run() failed \${where}: \${(error as { code: string }).code} \${(error as Error).message}\`);
}
`;

type Way = (file: string, args: readonly string[]) => Running;

/** Under the loader that this test is run with. */
const underTap: Way = (file, args) => {
  const own = Object.entries(process.env).filter(([name]) => name.startsWith('TS_NODE'));
  const env = Object.fromEntries(own) as Record<string, string>;
  const flags = process.execArgv.filter((flag) => !flag.includes('processinfo')); // that one counts what it runs
  return runProgram(process.execPath, [...flags, file, ...args], env);
};

const underTsx: Way = (file, args) => runProgram(join(root, 'node_modules/.bin/tsx'), [file, ...args]);

const afterBuild: Way = (file, args) => runProgram(process.execPath, [file.replace(/\.mts$/, '.mjs'), ...args]);

/** Writes a program, and what tsc makes of it; inside of this package, whose name it imports. */
function written(t: Test, source: string): string {
  const file = join(t.testdir(), 'program.mts');
  const { outputText } = ts.transpileModule(source, {
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ES2022 },
  });
  writeFileSync(file, source);
  writeFileSync(file.replace(/\.mts$/, '.mjs'), outputText);
  return file;
}

const count = (text: string, what: string): number => text.split(what).length - 1;

/** Runs it, sends a message through it, ends it. */
async function serves(t: Test, way: Way, file: string, factory: string): Promise<void> {
  const path = `${shortFolder(t)}/s`;
  const running = way(file, [factory, path]);
  t.teardown(() => running.kill('SIGKILL'));
  await running.printed('run() is over in the program, serving\n');
  const client = new MilterClient(path);
  await client.connect();
  const result = await client.send({ from: '', to: ['b'], message: 'A: b\n\n' });
  await client.quit();
  // tsx starts another process, and is not quick enough to hand every signal on.
  process.kill(Number(/^pid (\d+)$/m.exec(running.out())?.[1]), 'SIGTERM');
  t.equal(await running.ended, 0, `${running.err()}${running.out()}`);
  t.equal(running.err(), '');
  t.match(result, { verdict: 'accept' });
  const where = result.modifications.flatMap((each) => (each.type === 'addHeader' ? [each.value] : [])).join();
  t.match(where, factory === 'ThreadFactory' ? /^\d+\/[1-9]\d*$/ : /^\d+\/0$/);
  const workers = factory === 'AsyncFactory' ? 0 : 1;
  const out = running.out();
  t.equal(count(out, 'listens in the program\n'), 1);
  t.equal(count(out, 'listens'), 1, 'and nowhere else');
  t.equal(count(out, 'loaded in a worker\n'), workers);
  t.equal(count(out, 'run() is over in a worker, serving nobody\n'), workers, 'it resolves there, too');
}

t.jobs = 2;

t.test('a single file with AsyncFactory', { buffered: true }, async (t) => {
  const file = written(t, program(DEFINITIONS['an export'] as [string, string]));
  for (const [how, way] of Object.entries({ afterBuild, underTap, underTsx })) {
    await t.test(how, (t) => serves(t, way, file, 'AsyncFactory'));
  }
});

for (const [kind, definition] of Object.entries(DEFINITIONS)) {
  t.test(`a single file with ${kind}, whose workers load it again`, { buffered: true }, async (t) => {
    const file = written(t, program(definition));
    await t.test('ThreadFactory, built', (t) => serves(t, afterBuild, file, 'ThreadFactory'));
    await t.test('ForkFactory, built', (t) => serves(t, afterBuild, file, 'ForkFactory'));
    await t.test("ThreadFactory under tap's loader", (t) => serves(t, underTap, file, 'ThreadFactory'));
    await t.test("ForkFactory under tap's loader", (t) => serves(t, underTap, file, 'ForkFactory'));
    await t.test('ForkFactory under tsx', (t) => serves(t, underTsx, file, 'ForkFactory'));
  });
}

t.test('under tsx ThreadFactory says why it cannot, and what can', { buffered: true }, async (t) => {
  const file = written(t, program(DEFINITIONS['an export'] as [string, string]));
  const running = underTsx(file, ['ThreadFactory', `${shortFolder(t)}/s`]);
  t.equal(await running.ended, 0, running.err());
  t.match(running.out(), /^run\(\) failed in the program: ERR_MILTER_WORKER /m);
  t.match(
    running.out(),
    /tsx does not reach into worker threads: run the JavaScript that tsc makes, or use AsyncFactory or ForkFactory$/m,
  );
});

for (const variant of [threadVariant, forkVariant]) {
  t.test(`${variant.name}: workers load TypeScript as the program does`, { buffered: true }, async (t) => {
    const report = `${shortFolder(t)}/report`;
    writeFileSync(report, '');
    const options = { smfifOptions: SMFIF_ADDHDRS, context: { report }, execArgv: undefined };
    const factory = variant.make('inet:0', EobOnly, options);
    t.teardown(() => Promise.all([factory.close(), factory.close()]));
    await factory.run();
    const client = new MilterClient(formatAddress(factory.address as SocketAddress));
    await client.connect();
    const result = await client.send({ from: '', to: ['b'], message: 'A: b\n\n' });
    await client.quit();
    t.match(result, { verdict: 'accept', modifications: [{ type: 'addHeader', name: 'X-Message' }] });
    await factory.close();
  });
}
