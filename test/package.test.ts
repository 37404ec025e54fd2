// The package as it is published: packed, unpacked into a folder with its dependencies beside it, and used from there.
import {
  mkdirSync,
  mkdtempSync,
  cpSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { demandBuild, root } from './helpers/built.js';
import { run } from './helpers/run.js';

demandBuild();

interface Packed {
  readonly filename: string;
  readonly files: ReadonlyArray<{ readonly path: string }>;
}

interface Manifest {
  readonly exports: Readonly<Record<string, string | Readonly<Record<string, string>>>>;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly types: string;
  readonly sideEffects: boolean;
  readonly scripts: Readonly<Record<string, string>>;
}

const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest;

const folder = mkdtempSync(join(tmpdir(), 'milter-'));
t.teardown(() => rmSync(folder, { recursive: true }));
const modules = join(folder, 'node_modules');
const installed = join(modules, 'milter-stream');

// Not `prepare`, which would build once more under the feet of other tests.
const [packed] = JSON.parse(
  await run('npm', ['pack', '--json', '--ignore-scripts', '--prefix', root, '--pack-destination', folder, root]),
) as [Packed];
mkdirSync(installed, { recursive: true });
await run('tar', ['-xzf', join(folder, packed.filename), '-C', installed, '--strip-components=1']);
for (const name of [...Object.keys(manifest.dependencies), '@types'])
  symlinkSync(join(root, 'node_modules', name), join(modules, name));

/** Runs a program of a user's, which prints JSON. */
async function use(kind: 'module' | 'commonjs', program: string): Promise<unknown> {
  const file = join(folder, kind === 'module' ? 'program.mjs' : 'program.cjs');
  writeFileSync(file, program);
  // Nothing of the environment goes in: tap's loader is in there.
  return JSON.parse(await run('env', ['-i', process.execPath, file]));
}

const ENTRIES = Object.keys(manifest.exports).filter((entry) => entry !== './package.json');
const specifier = (entry: string): string => `milter-stream${entry.slice(1)}`;

t.test('the package holds what is built from lib/, the texts, and nothing else', async (t) => {
  const files = packed.files.map(({ path }) => path);
  const built = readdirSync(join(root, 'lib'), { recursive: true, encoding: 'utf8' })
    .flatMap((file) => (file.endsWith('.ts') ? [file.replace(/ts$/, 'js'), file.replace(/ts$/, 'd.ts')] : []))
    .map((file) => `dist/${file}`);
  t.strictSame(
    files.toSorted(),
    ['CHANGELOG.md', 'LICENSE', 'README.md', ...built, 'dist/milter-stream.1', 'package.json'].toSorted(),
  );
  t.notOk(files.some((file) => /\.map$|(^|\/)(test|examples?)\/|\.eml$/.test(file)));
});

t.test('every entry of exports is there, with its types, and can be imported and required', async (t) => {
  t.strictSame(ENTRIES, ['.', './codec', './client', './testing', './proxy', './capture', './replay', './web']);
  for (const entry of ENTRIES) {
    const { types, default: code, ...more } = manifest.exports[entry] as Record<string, string>;
    t.strictSame(more, {}, 'one form for everybody');
    t.strictSame(Object.keys(manifest.exports[entry] as object)[0], 'types', 'types come first');
    for (const file of [types!, code!]) t.ok(existsSync(join(installed, file)), file);
    t.equal(types!.replace(/\.d\.ts$/, ''), code!.replace(/\.js$/, ''));
    const name = specifier(entry);
    const imported = await use('module', `console.log(JSON.stringify(Object.keys(await import('${name}'))))`);
    // A module with a top-level await could not be required.
    const required = await use('commonjs', `console.log(JSON.stringify(Object.keys(require('${name}'))))`);
    t.strictSame(required, imported, `require('${name}')`);
    const one = `console.log(JSON.stringify(require('${name}').MilterError === require('milter-stream').MilterError))`;
    t.equal(await use('commonjs', one), true, 'one MilterError, however it is reached');
  }
  t.equal(manifest.types, (manifest.exports['.'] as Record<string, string>)['types']);
  t.equal(
    await use('commonjs', `console.log(JSON.stringify(require('milter-stream/package.json').name))`),
    'milter-stream',
  );
  await t.rejects(use('commonjs', `require('milter-stream/dist/index.js')`), /ERR_PACKAGE_PATH_NOT_EXPORTED/);
});

t.test('a milter runs from CommonJS', async (t) => {
  const program = `
    const { AsyncFactory, MilterProtocol, formatAddress, SMFIF_ADDHDRS } = require('milter-stream');
    const { MilterClient } = require('milter-stream/client');
    class Tagging extends MilterProtocol {
      eob() {
        this.addHeader('X-Tag', 'yes');
      }
    }
    (async () => {
      const factory = new AsyncFactory('inet:0', Tagging, SMFIF_ADDHDRS);
      await factory.run();
      const client = new MilterClient(formatAddress(factory.address));
      await client.connect();
      const { message } = await client.send({ from: '', to: ['b'], message: 'A: b\\n\\n' });
      await client.quit();
      await factory.close();
      console.log(JSON.stringify(message.toString()));
    })();`;
  t.equal(await use('commonjs', program), 'A: b\r\nX-Tag: yes\r\n\r\n');
});

t.test(
  'importing does nothing: no output, no globals, no listeners, nothing that keeps the process alive',
  async (t) => {
    t.equal(manifest.sideEffects, false);
    const program = `
    import { createRequire } from 'node:module';
    const debug = createRequire('${root}')('debug'); // reads the environment when it is loaded: that is not ours
    const emitters = { process, stdout: process.stdout, stderr: process.stderr };
    const snapshot = () => ({
      globals: Reflect.ownKeys(globalThis).map(String).sort(),
      builtins: [Object, Function, Array, String, Number, Promise, Error, Buffer, Map, Set, Symbol, JSON].map((each) =>
        [each, each.prototype].filter(Boolean).map((each) => Reflect.ownKeys(each).map(String).sort()),
      ),
      listeners: Object.entries(emitters).map(([name, emitter]) =>
        emitter.eventNames().map((event) => [name, String(event), emitter.listenerCount(event)]),
      ),
      resources: process.getActiveResourcesInfo(),
      environment: { ...process.env },
      folder: process.cwd(),
      mask: process.umask(),
      stack: [Error.stackTraceLimit, typeof Error.prepareStackTrace],
    });
    const before = snapshot();
    for (const name of ${JSON.stringify(ENTRIES.map(specifier))}) await import(name);
    const after = snapshot();
    console.log(JSON.stringify({ before, after }));`;
    const { before, after } = (await use('module', program)) as Record<string, unknown>;
    t.strictSame(after, before);
  },
);

t.test('the names that the package exports are those that were reviewed', async (t) => {
  const declarations = ENTRIES.map((entry) =>
    join(installed, (manifest.exports[entry] as Record<string, string>)['types']!),
  );
  const program = `
    import { createRequire } from 'node:module';
    const ts = createRequire('${root}')('typescript');
    const { NodeNext } = ts.ModuleKind;
    const files = ${JSON.stringify(declarations)};
    const program = ts.createProgram(files, { module: NodeNext, skipLibCheck: true, types: [] });
    const checker = program.getTypeChecker();
    const symbols = files.map((file) => checker.getSymbolAtLocation(program.getSourceFile(file)));
    console.log(JSON.stringify(symbols.map((each) => checker.getExportsOfModule(each).map(({ name }) => name))));`;
  const declared = (await use('module', program)) as string[][];
  for (const [i, entry] of ENTRIES.entries()) {
    const names = declared[i]!;
    const values = (await use(
      'module',
      `console.log(JSON.stringify(Object.keys(await import('${specifier(entry)}'))))`,
    )) as string[];
    const types = names.filter((name) => !values.includes(name));
    t.strictSame(values.toSorted(), REVIEWED[entry]!.values.toSorted(), `values of ${specifier(entry)}`);
    t.strictSame(types.toSorted(), REVIEWED[entry]!.types.toSorted(), `types of ${specifier(entry)}`);
    t.strictSame(
      values.filter((name) => !names.includes(name)),
      [],
      'what is there has a type',
    );
  }
});

t.test('a user’s TypeScript compiles against what is published, under the strictest options', async (t) => {
  cpSync(join(root, 'test/fixtures/user'), folder, { recursive: true });
  const compilerOptions = {
    target: 'es2022',
    lib: ['es2024', 'esnext.disposable'],
    module: 'nodenext',
    types: ['node'],
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    noImplicitOverride: true,
    noPropertyAccessFromIndexSignature: true,
    erasableSyntaxOnly: false,
    skipLibCheck: false, // the package's own declarations are looked at as well
    noEmit: true,
  };
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ type: 'module' }));
  writeFileSync(
    join(folder, 'tsconfig.json'),
    JSON.stringify({ compilerOptions, files: ['milter.ts', 'required.cts'] }),
  );
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  t.equal(await run('env', ['-i', process.execPath, tsc, '--project', folder]), '');
});

t.test('npm start is the program that is tested', async (t) => {
  t.equal(manifest.scripts['start'], 'tsx examples/start.ts');
});

const words = (text: string): string[] => text.trim().split(/\s+/);

/** Of commands and replies; the two codecs come as types alone, with the interfaces beside them. */
const PACKETS = words(`
  commandCodec replyCodec
  AbortCommand AcceptReply AddHeaderReply AddRcptParReply AddRcptReply BodyCommand ChgFromReply ChgHeaderReply Command
  ConnFailReply ConnectCommand ContinueReply DataCommand DelRcptReply DiscardReply EobCommand EohCommand HeaderCommand
  HeloCommand InsHeaderReply MacroCommand MailFromCommand MalformedPacket NegotiateCommand NegotiateReply OddPacket
  ProgressReply QuarantineReply QuitCommand QuitNewConnectionCommand RcptCommand RejectReply ReplBodyReply Reply
  ReplyCodeReply SetSymListReply ShutdownReply SkipReply TempFailReply UnknownCommand UnrecognizedPacket`);

/** What may be in the package. A name that is added here is a promise; one that is taken away breaks somebody's program. */
const REVIEWED: Readonly<Record<string, { readonly values: string[]; readonly types: string[] }>> = {
  '.': {
    values: words(`
      ACCEPT ALLOPTS ALLPROTOS AsyncFactory CONN_FAIL CONTINUE DISCARD ForkFactory ForkMixin MILTER_CHUNK_SIZE
      MILTER_MDS_1M MILTER_MDS_256K MILTER_MDS_64K MilterError MilterProtocol REJECT SHUTDOWN SKIP TEMPFAIL ThreadFactory
      ThreadMixin actionNames bareAddress callInThread createCommandEncoder createDecoder createEncoder createReplyDecoder
      createSession formatAddress formatForPostfix isMilterWorker noCallback noReply parseAddress protocolNames runFilter
      toBytes toText
      SMFIA_INET SMFIA_INET6 SMFIA_UNIX SMFIA_UNKNOWN
      SMFIC_ABORT SMFIC_BODY SMFIC_BODYEOB SMFIC_CONNECT SMFIC_DATA SMFIC_EOH SMFIC_HEADER SMFIC_HELO SMFIC_MACRO
      SMFIC_MAIL SMFIC_OPTNEG SMFIC_QUIT SMFIC_QUIT_NC SMFIC_RCPT SMFIC_UNKNOWN
      SMFIF_ADDHDRS SMFIF_ADDRCPT SMFIF_ADDRCPT_PAR SMFIF_ALLOPTS SMFIF_ALLOPTS_V1 SMFIF_ALLOPTS_V2 SMFIF_ALLOPTS_V6
      SMFIF_CHGBODY SMFIF_CHGFROM SMFIF_CHGHDRS SMFIF_DELRCPT SMFIF_MODBODY SMFIF_QUARANTINE SMFIF_SETSYMLIST
      SMFIM_CONNECT SMFIM_DATA SMFIM_ENVFROM SMFIM_ENVRCPT SMFIM_EOH SMFIM_EOM SMFIM_HELO
      SMFIP_ALLPROTOS SMFIP_ALLPROTOS_V1 SMFIP_ALLPROTOS_V2 SMFIP_ALLPROTOS_V6 SMFIP_HDR_LEADSPC SMFIP_MDS_1M
      SMFIP_MDS_256K SMFIP_NOBODY SMFIP_NOCONNECT SMFIP_NODATA SMFIP_NOEOH SMFIP_NOHDRS SMFIP_NOHELO SMFIP_NOHREPL
      SMFIP_NOMAIL SMFIP_NORCPT SMFIP_NOUNKNOWN SMFIP_NR_BODY SMFIP_NR_CONN SMFIP_NR_DATA SMFIP_NR_EOH SMFIP_NR_HDR
      SMFIP_NR_HELO SMFIP_NR_MAIL SMFIP_NR_RCPT SMFIP_NR_UNKN SMFIP_RCPT_REJ SMFIP_SKIP
      SMFIR_ACCEPT SMFIR_ADDHEADER SMFIR_ADDRCPT SMFIR_ADDRCPT_PAR SMFIR_CHGFROM SMFIR_CHGHEADER SMFIR_CONN_FAIL
      SMFIR_CONTINUE SMFIR_DELRCPT SMFIR_DISCARD SMFIR_INSHEADER SMFIR_OPTNEG SMFIR_PROGRESS SMFIR_QUARANTINE
      SMFIR_REJECT SMFIR_REPLBODY SMFIR_REPLYCODE SMFIR_SETSYMLIST SMFIR_SHUTDOWN SMFIR_SKIP SMFIR_TEMPFAIL
      SMFI_VERSION SMFI_VERSION_MIN`),
    types: [
      ...PACKETS,
      ...words(`
        BodyOptions BodySource ByteStream DecoderOptions EncoderOptions ErrorPolicy FactoryEvents FactoryOptions Family
        InheritedSocket Lines ListenAddress Logger MacroDict MacroRequest MilterErrorCode MilterErrorDetails ObjectDecoder ObjectEncoder
        ObjectReadable ObjectWritable ProtocolClass Result RunFilterOptions RunnableFactory SessionOptions SessionStream
        SocketAddress Stage Verdict`),
    ],
  },
  './codec': {
    values: words(`
      Framer MilterError commandParser decodeCommand decodeReply encodeCommand encodeReply formatSmtpReply
      parseSmtpReply plainAddress replyParser toBytes toText`),
    types: [
      ...PACKETS,
      ...words('FrameSink MacroPair MilterErrorCode PacketSink Parser ParserOptions SmtpReply SymbolList'),
    ],
  },
  './client': {
    values: words('MailSession Message MilterChain MilterClient MilterError smtpReply'),
    types: words(`
      Body ChainedMilter ClientMacros ClientMessage ClientOptions ClientPeer Envelope MessageExtras MessageHeader MessageResult
      MessageSource MilterErrorCode Modification Outcome SmtpReply StageExtras StageResult Step`),
  },
  './testing': {
    values: words('MilterError testMilter testSession'),
    types: words('LogLine MilterErrorCode TestMessageOptions TestOptions TestResult TestSession'),
  },
  './proxy': {
    values: words('MilterError Proxy createProxy'),
    types: words(`
      CaptureEvent ChainOptions CloseEvent DataEvent Endpoint MilterErrorCode OpenEvent OwnAnswer ProxyContext ProxyEvents
      ProxyHooks ProxyListenOptions ProxyOptions Side Upstream`),
  },
  './capture': {
    values: words(`
      Conversation MilterError captureWriter decodeConversation nameOf packetToJson readCapture redactCapture showEndpoint
      writeCapture`),
    types: words(`
      CaptureEvent CaptureFormat CaptureWriter CloseEvent ConversationOptions ConversationRecord DataEvent Endpoint GapEvent
      MilterErrorCode NoteRecord OpenEvent PacketRecord ProblemEvent ReadCaptureOptions RedactOptions Side Source`),
  },
  './replay': {
    values: words('MilterError replayCapture'),
    types: words(
      'MessageOutcome MilterErrorCode ReplayOptions ReplayStep ReplayTarget ReplayedMessage ReplayedSession',
    ),
  },
  './web': {
    values: words('Ladder MilterError createLadder htmlReport parseWebPlace'),
    types: words('LadderOptions LadderPlace MilterErrorCode PageOptions ReportOptions WebPlace'),
  },
};
