// The page as text: the data in it comes out as it went in and ends no element, its policy names its own script and style
// alone, and its script is checked by the compiler as the rest of the library is.
import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import * as fc from 'fast-check';
import t from 'tap';
import ts from 'typescript';
import { decodeConversation, type ConversationRecord } from '../../lib/capture/index.js';
import { htmlReport, type ReportOptions } from '../../lib/web/index.js';
import { Itemizer, type Item } from '../../lib/web/model.js';
import { json, page, SCRIPT } from '../../lib/web/page.js';
import { collect, collectUntilError } from '../helpers/capture.js';
import { hostile, ordinary } from './scenes.js';

async function report(records: readonly ConversationRecord[], options?: ReportOptions): Promise<string> {
  return (await collect(htmlReport(records, options))).join('');
}

/** What the browser takes for the elements with items. */
function itemsIn(html: string): Item[] {
  const blocks = html.matchAll(/<script type="application\/json" class="items">(.*?)<\/script/gs);
  return [...blocks].flatMap(([, text]) => JSON.parse(text as string) as Item[]);
}

function hashOf(text: string): string {
  return `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
}

const text = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc
    .array(
      fc.constantFrom(
        '<',
        '</script',
        '<!--',
        '<script>',
        '-->',
        ']]>',
        '\u2028',
        '\u2029',
        '&lt;',
        '"',
        "'",
        '\udc80',
      ),
    )
    .map((parts) => parts.join('')),
);

const record: fc.Arbitrary<ConversationRecord> = fc.oneof(
  fc.record({
    type: fc.constantFrom('open' as const, 'close', 'garbage', 'problem'),
    session: text,
    time: fc.double(),
    text,
    bytes: fc.uint8Array().map((bytes) => Buffer.from(bytes)),
  }),
  fc.tuple(text, text, text).map(([session, name, value]): ConversationRecord => ({
    type: 'packet',
    session,
    time: 1,
    from: 'mta',
    number: 1,
    offset: 0,
    packet: { type: 'header', name, value },
    raw: Buffer.from(`\0\0\0\0L${value}`),
    problem: name,
  })),
);

t.test('whatever was said: the page has it as it is, and it ends no element', async (t) => {
  const empty = await report([]);
  const tags = (html: string): number => html.split('<').length;
  await fc.assert(
    fc.asyncProperty(fc.array(record), async (records) => {
      const html = await report(records);
      const itemizer = new Itemizer();
      t.strictSame(itemsIn(html), JSON.parse(JSON.stringify(records.map((each) => itemizer.item(each)))));
      t.equal(tags(html), tags(empty), 'no < besides those of the page');
      t.notMatch(html, /[\u2028\u2029]/);
    }),
  );
  fc.assert(
    fc.property(
      fc.jsonValue(),
      (value) => !/[<>&\u2028\u2029]/.test(json(value)) && Boolean(JSON.parse(json([value]))),
    ),
  );
});

t.test('what the hostile scene says is in the page, and runs into nothing', async (t) => {
  const records = await collect(decodeConversation(hostile()));
  const html = await report(records);
  t.equal(itemsIn(html).length, records.length);
  t.equal(html.match(/<script/g)!.length, html.match(/<\/script>/g)!.length);
  t.ok(html.length < 1_000_000, 'though a header has 1 MB');
});

t.test('the title is text', async (t) => {
  const html = await report([], { title: `</title><script>alert("1" + '&')</script>\u202e` });
  const shown = '&#60;/title&#62;&#60;script&#62;alert(&#34;1&#34; + &#39;&#38;&#39;)&#60;/script&#62;\\u{202e}';
  t.match(html, `<title>${shown} - milter-stream</title>`);
  t.match(html, `<h1><bdi>${shown}</bdi></h1>`);
  t.match(await report([]), '<title>milter-stream</title>');
});

t.test('the policy lets run what is the page’s own, and nothing be fetched', async (t) => {
  for (const html of [await report([]), page({})]) {
    const [, policy = ''] = /<meta http-equiv="Content-Security-Policy" content="([^"]*)">/.exec(html) ?? [];
    const [, style = ''] = /<style>(.*?)<\/style>/s.exec(html) ?? [];
    const [, script = ''] = /<script>(.*?)<\/script>/s.exec(html) ?? [];
    t.equal(script, SCRIPT);
    t.strictSame(
      policy.split('; ').filter((rule) => !rule.startsWith('connect-src')),
      [
        "default-src 'none'",
        `script-src ${hashOf(script)}`,
        `style-src ${hashOf(style)}`,
        'img-src data:',
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
      ],
    );
    t.equal(policy.includes("connect-src 'self'"), html.includes('"live":true'));
    t.notMatch(html.replace(SCRIPT, ''), /\son\w+=|(?:src|href)="(?!data:|#)/, 'nothing from elsewhere');
  }
});

t.test('a large capture comes in pieces', async (t) => {
  const bytes = Buffer.alloc(4096);
  const records = Array.from({ length: 200 }, (): ConversationRecord => ({
    type: 'garbage',
    session: '1',
    time: 1,
    text: '',
    bytes,
  }));
  const pieces = await collect(htmlReport(records));
  t.equal(pieces.length, 7);
  t.equal(itemsIn(pieces.join('')).length, 200);
});

t.test('where the capture is broken the page is whole, and the error comes behind it', async (t) => {
  for (const thrown of [new Error('cut at <line> 3'), 'cut at <line> 3']) {
    const broken = async function* (): AsyncGenerator<ConversationRecord> {
      yield* decodeConversation(ordinary());
      throw thrown;
    };
    const { all, error } = await collectUntilError(htmlReport(broken()));
    t.equal(error, thrown);
    const html = all.join('');
    t.ok(html.endsWith('</html>\n'));
    t.match(itemsIn(html).at(-1), {
      kind: 'problem',
      session: '',
      text: "The capture can't be read any further: cut at <line> 3",
    });
  }
});

t.test('options are checked', async (t) => {
  for (const options of [{ slow: 0 }, { slow: NaN }, { limit: 0 }]) {
    await t.rejects(collect(htmlReport([], options)), { code: 'ERR_MILTER_OPTION' });
  }
  t.match(page({ slow: 20 }), '<script type="application/json" id="config">{"live":true,"slow":20}</script>');
});

t.test('the page’s script passes the compiler, as strictly as the library does', async (t) => {
  const name = fileURLToPath(new URL('../../lib/web/script-of-the-page.js', import.meta.url));
  const options: ts.CompilerOptions = {
    target: ts.ScriptTarget.ES2022,
    lib: ['lib.es2024.d.ts', 'lib.dom.d.ts', 'lib.dom.iterable.d.ts'],
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    types: ['node'],
    allowJs: true,
    checkJs: true,
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    noImplicitReturns: true,
    noFallthroughCasesInSwitch: true,
    noUnusedLocals: true,
    noUnusedParameters: true,
    skipLibCheck: true,
    noEmit: true,
  };
  const host = ts.createCompilerHost(options);
  const sources = ts.createCompilerHost(options);
  host.fileExists = (path) => path === name || sources.fileExists(path);
  host.getSourceFile = (path, ...rest) =>
    path === name ? ts.createSourceFile(path, SCRIPT, rest[0]) : sources.getSourceFile(path, ...rest);
  const program = ts.createProgram([name], options, host);
  const found = ts.getPreEmitDiagnostics(program).filter(({ file }) => file === undefined || file.fileName === name);
  t.equal(ts.formatDiagnostics(found, { ...host, getCanonicalFileName: (path) => path }), '');
});
