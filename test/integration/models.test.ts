// What the client says would be delivered is what a real Postfix and a real Sendmail do deliver: the same milters make
// the same edits in the same messages, and bytes, envelope, and what each milter has heard are compared.
import { chmodSync } from 'node:fs';
import { Readable } from 'node:stream';
import t, { type Test } from 'tap';
import { MilterChain, type MessageResult } from '../../lib/client/index.js';
import type { MailServerName } from '../../lib/client/models.js';
import {
  AsyncFactory,
  bareAddress,
  createSession,
  MilterProtocol,
  SMFIF_ALLOPTS,
  SMFIP_HDR_LEADSPC,
} from '../../lib/index.js';
import { testMilter } from '../../lib/testing/index.js';
import { shortFolder } from '../helpers/folder.js';
import { startPostfix } from '../helpers/postfix.js';
import { needs } from '../helpers/real.js';
import { startSendmail } from '../helpers/sendmail.js';
import { startSink, type Sink, type SinkMessage } from '../helpers/sink.js';
import { connectSmtp } from '../helpers/smtp.js';
import type { Edit } from './milters.js';
import { isOwn, longBody, letter, send } from './suite/letters.js';
import { CHAINS, CHANGES, ODD, PARTICULAR, USUAL, type ModelCase } from './suite/models.js';

/** Says which case a message belongs to. */
const CASE = 'X-Case';

const FROM = '<anna@example.org>';
const TO = ['<berta@example.net>', '<cleo@example.net>'];

/** What a milter has heard of a message: its headers and its body. */
interface Heard {
  headers: Array<readonly [name: string, value: string]>;
  body: string;
}

interface Playing {
  readonly cases: readonly ModelCase[];
  /** Which of the two milters it is. */
  readonly turn: 'edits' | 'second';
  /** By case. */
  readonly heard: Map<number, Heard>;
}

/** Makes the edits of a case, and notes what it has heard. */
class Editor extends MilterProtocol<Playing> {
  #headers: Heard['headers'] = [];
  #body = '';

  override mailFrom() {
    this.#headers = [];
    this.#body = '';
  }
  override header(name: string, value: string) {
    this.#headers.push([name, value]);
  }
  override body(chunk: Buffer) {
    this.#body += chunk.toString('latin1');
  }
  override eob() {
    const { cases, turn, heard } = this.context;
    const number = Number(this.#headers.find(([name]) => name === CASE)?.[1]);
    heard.set(number, { headers: this.#headers, body: this.#body });
    for (const [method, ...args] of cases[number]?.[turn] ?? []) this.#edit(method, args);
  }

  #edit(method: Edit[0], args: readonly unknown[]): void {
    const [first] = args;
    if (method === 'stream') this.replBody(Readable.from([longBody(first as number)]));
    else if (method === 'replBody' && typeof first === 'number') this.replBody(longBody(first));
    else (this[method] as (...args: unknown[]) => void)(...args);
  }
}

const messageOf = ({ head = USUAL.head, body = USUAL.body }: ModelCase, number: number): Buffer =>
  letter([...head, `${CASE}: ${number}`], body);

interface Delivered {
  message: string;
  from: string;
  to: string[];
  /** What the milters have heard. */
  edits: Heard | undefined;
  second: Heard | undefined;
}

/** A mail server with two milters, which take turns in a folder. */
interface Server {
  readonly name: MailServerName;
  readonly folder: string;
  readonly port: number;
  readonly sink: Sink;
}

async function start(t: Test, name: MailServerName): Promise<Server> {
  const folder = shortFolder(t);
  chmodSync(folder, 0o755);
  const [first, second] = [`unix:${folder}/edits`, `unix:${folder}/second`] as const;
  const sink = await startSink();
  t.teardown(() => sink.close());
  const mc = [`INPUT_MAIL_FILTER(\`second', \`S=${second}, F=T, T=S:10s;R:10s;E:1m')dnl`];
  const server =
    name === 'postfix'
      ? await startPostfix({ milters: [first, second], sinkPort: sink.port })
      : await startSendmail({ milter: first, sinkPort: sink.port, mc });
  t.teardown(() => server.stop());
  return { name, folder, port: server.port, sink };
}

/** What arrives behind the server. */
async function real(server: Server, cases: readonly ModelCase[], smfipOptions: number): Promise<Delivered[]> {
  const notes = { edits: new Map<number, Heard>(), second: new Map<number, Heard>() };
  const factories = (['edits', 'second'] as const).map((turn) => {
    const context = { cases, turn, heard: notes[turn] };
    return new AsyncFactory(`unix:${server.folder}/${turn}`, Editor, {
      smfifOptions: SMFIF_ALLOPTS,
      smfipOptions,
      context,
    });
  });
  const arrived = new Map<number, SinkMessage>();
  await Promise.all(factories.map((factory) => factory.run()));
  const client = await connectSmtp(server.port);
  try {
    await client.command('EHLO client.example.org');
    for (let number = 0; number < cases.length; number++) {
      const each = cases[number] as ModelCase;
      const { code, text } = await send(client, messageOf(each, number), { from: FROM, to: TO });
      if (code !== 250) throw new Error(`${each.title}: ${code} ${text}`);
      // Many are on their way at once, and come in any order; not so many that the server would slow down.
      while (number + 1 - arrived.size > (number + 1 < cases.length ? 20 : 0)) {
        const message = await server.sink.next();
        arrived.set(caseOf(message), message);
      }
    }
  } finally {
    await client.end();
    await Promise.all(factories.map((factory) => factory.close()));
  }
  return cases.map((_, number) =>
    delivered(arrived.get(number) as SinkMessage, notes.edits.get(number), notes.second.get(number)),
  );
}

function caseOf({ data }: SinkMessage): number {
  return Number(new RegExp(`^${CASE}: (\\d+)\r$`, 'm').exec(data.toString('latin1'))?.[1]);
}

function delivered(
  { data, mailFrom, rcptTo }: SinkMessage,
  edits: Heard | undefined,
  second: Heard | undefined,
): Delivered {
  return { message: data.toString('latin1'), from: mailFrom, to: rcptTo.toSorted(), edits, second };
}

/** What the client makes of the same. */
async function modelled(
  like: MailServerName,
  cases: readonly ModelCase[],
  number: number,
  ownHeaders: string,
  smfipOptions: number,
): Promise<Delivered> {
  const notes = { edits: new Map<number, Heard>(), second: new Map<number, Heard>() };
  const each = cases[number] as ModelCase;
  const mail = { from: FROM, to: TO };
  const options = (turn: 'edits' | 'second') => ({
    smfifOptions: SMFIF_ALLOPTS,
    smfipOptions,
    context: { cases, turn, heard: notes[turn] },
  });
  let result: MessageResult;
  if (each.second === undefined) {
    result = await testMilter(Editor, messageOf(each, number), { ...mail, ...options('edits'), like, ownHeaders });
  } else {
    const chain = new MilterChain([createSession(Editor, options('edits')), createSession(Editor, options('second'))], {
      like,
      ownHeaders,
      defaultAction: 'throw',
    });
    await chain.connect();
    result = await chain.send({ ...mail, message: messageOf(each, number) });
    await chain.quit();
  }
  const { message, envelope } = result;
  return {
    message: message.toString('latin1'),
    from: bareAddress(envelope.from),
    to: envelope.to.map(bareAddress).toSorted(),
    edits: notes.edits.get(number),
    second: each.second && notes.second.get(number),
  };
}

/** What Sendmail fills in where it is missing. */
const FILLED_IN =
  /^((Resent-)?Date: \w{3}, \d\d? \w{3} 20[2-9]|(Resent-)?From: anna@example\.org\r\n|(Resent-)?Message-Id: <\d{12}\.\w+@sendmail\.example\.test>)/;

/** The header lines that the server has put into a message itself: different ones each time. */
function ownHeaders({ message }: Delivered, server: MailServerName): string {
  const lines = message.slice(0, message.indexOf('\r\n\r\n') + 2).split(/(?<=\r\n)(?![ \t])/);
  return lines.filter((line) => isOwn(line) || (server === 'sendmail' && FILLED_IN.test(line))).join('');
}

async function compare(t: Test, server: Server, cases: readonly ModelCase[], smfipOptions: number): Promise<void> {
  const arrived = await real(server, cases, smfipOptions);
  for (const [number, wanted] of arrived.entries()) {
    const { title, second } = cases[number] as ModelCase;
    if (second === undefined) wanted.second = undefined;
    const found = await modelled(server.name, cases, number, ownHeaders(wanted, server.name), smfipOptions);
    t.strictSame(found, wanted, title);
  }
}

t.jobs = 2;
for (const name of ['postfix', 'sendmail'] as const) {
  t.test(
    `what the client makes of edits is what ${name} makes of them`,
    { ...needs(name), buffered: true },
    async (t) => {
      const server = await start(t, name);
      t.test('P118 P128 edits', (t) => compare(t, server, [...CHANGES, ...PARTICULAR], 0));
      t.test('P116 edits with SMFIP_HDR_LEADSPC', (t) => compare(t, server, CHANGES, SMFIP_HDR_LEADSPC));
      t.test('messages that are written oddly', (t) => compare(t, server, ODD, 0));
      t.test('P87 and with SMFIP_HDR_LEADSPC', (t) => compare(t, server, ODD, SMFIP_HDR_LEADSPC));
      t.test('two milters, the second of which hears what the first has left', (t) => compare(t, server, CHAINS, 0));
      t.test('and with SMFIP_HDR_LEADSPC', (t) => compare(t, server, CHAINS, SMFIP_HDR_LEADSPC));
    },
  );
}
