// Our files in tshark, also with the dissector of examples/; and what tcpdump captures of a real conversation.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { MilterClient } from '../../lib/client/index.js';
import { commandParser, replyParser, type Command, type OddPacket, type Reply } from '../../lib/codec/index.js';
import { AsyncFactory, MilterProtocol, REJECT, SMFIF_ALLOPTS } from '../../lib/index.js';
import {
  decodeConversation,
  readCapture,
  writeCapture,
  type CaptureEvent,
  type ConversationRecord,
  type PacketRecord,
  type Side,
} from '../../lib/capture/index.js';
import { root } from '../helpers/built.js';
import { hex, packet, u32 } from '../helpers/bytes.js';
import { answer, collect, collectUntilError, data, lines, OFFER, said } from '../helpers/capture.js';
import { shortFolder } from '../helpers/folder.js';
import { commands, fixtures, replies } from '../helpers/packets.js';
import { needs } from '../helpers/real.js';
import { run } from '../helpers/run.js';
import { until } from '../helpers/until.js';

const DISSECTOR = ['-X', `lua_script:${root}examples/wireshark/milter.lua`];
const unix = { mta: { address: '', port: 0 }, milter: { address: '/run/m.sock', port: 0 } };
const tcp = (port: number) => ({
  mta: { address: '192.0.2.1', port: 40_000 },
  milter: { address: '192.0.2.2', port },
});

/** A packet of every kind, and one that needs many segments. */
const TALK: CaptureEvent[] = [
  ...fixtures.map((each) => data(each.direction === 'command' ? 'mta' : 'milter', hex(each.hex), 1000)),
  data('mta', Buffer.concat([packet('B', Buffer.alloc(60_000, 0x61)), packet('Q')]), 2000),
  data('milter', packet('b', Buffer.alloc(200_000, 0x62)), 2000),
];

async function pcapng(t: Test, events: readonly CaptureEvent[], open: object = unix): Promise<string> {
  const file = join(shortFolder(t), 'x.pcapng');
  const all: CaptureEvent[] = [
    { type: 'open', session: 's', time: 1000, ...open },
    ...events,
    { type: 'close', session: 's', time: 3000, from: 'mta' },
  ];
  writeFileSync(file, Buffer.concat(await collect(writeCapture(all, 'pcapng'))));
  return file;
}

const tshark = (file: string, ...args: string[]): Promise<string> => run('/usr/bin/tshark', ['-r', file, ...args]);

t.test('tshark follows what is written here as one TCP stream, byte for byte', needs('tshark'), async (t) => {
  for (const ends of [
    unix,
    tcp(8891),
    { mta: { address: '2001:db8::1', port: 40_000 }, milter: { address: '::1', port: 1 } },
  ]) {
    const file = await pcapng(t, TALK, ends);
    const followed = await tshark(file, '-q', '-z', 'follow,tcp,raw,0');
    const hexLines = followed.split('\n').filter((line) => /^\t?[\da-f]+$/.test(line));
    const of = (pattern: RegExp): Buffer =>
      hex(
        hexLines
          .filter((line) => pattern.test(line))
          .join('')
          .replaceAll('\t', ''),
      );
    t.ok(of(/^[\da-f]/).equals(said(TALK, 'mta')), 'what the mail server said');
    t.ok(of(/^\t/).equals(said(TALK, 'milter')), 'what the milter said');
    const checks = ['-o', 'tcp.check_checksum:TRUE', '-o', 'ip.check_checksum:TRUE'];
    const bad = 'tcp.checksum.status != 1 || (ip && ip.checksum.status != 1) || tcp.analysis.flags || _ws.malformed';
    t.equal(await tshark(file, ...checks, '-Y', bad), '', 'with nothing to complain of');
    t.match(await tshark(file, '-q', '-z', 'conv,tcp'), /<->/);
  }
  const comments = await tshark(await pcapng(t, TALK), '-T', 'fields', '-e', 'frame.comment');
  t.match(comments, /"session":"s".*"address":"\/run\/m.sock"/, 'the path of a Unix socket is in a comment');
});

// ---- the dissector -------------------------------------------------------------------------------------------------

const fields = async (file: string, names: readonly string[], ...args: string[]): Promise<string[][]> => {
  const wanted = names.flatMap((name) => ['-e', name]);
  const text = await tshark(file, ...DISSECTOR, ...args, '-T', 'fields', ...wanted);
  return text
    .replace(/\n$/, '')
    .split('\n')
    .map((line) => line.split('\t'));
};

t.test('the dissector knows every packet, also one of many segments', needs('tshark'), async (t) => {
  const file = await pcapng(t, TALK);
  const found = await fields(file, ['milter.command', 'milter.reply', 'milter.malformed'], '-Y', 'milter');
  const names = (column: number): string[] => found.flatMap((row) => (row[column] ? row[column].split(',') : []));
  t.strictSame(names(0), [...commands.map((each) => each.packet.type), 'body', 'quit']);
  t.strictSame(names(1), [...replies.map((each) => each.packet.type), 'replBody']);
  t.strictSame(names(2), [], 'none is malformed');
});

t.test('the dissector shows the fields', needs('tshark'), async (t) => {
  const file = await pcapng(t, TALK);
  const of = async (filter: string, ...names: string[]): Promise<string[] | undefined> =>
    (await fields(file, names, '-Y', filter))[0];
  t.strictSame(
    await of('milter.command == "connect"', 'milter.hostname', 'milter.family', 'milter.port', 'milter.client_address'),
    ['mx.a.org', '4', '25000', '192.0.2.1'],
  );
  t.strictSame(await of('milter.command == "macro"', 'milter.macro.stage', 'milter.macro.name', 'milter.macro.value'), [
    'C',
    'j,{daemon_name}',
    'mx.b.org,d1',
  ]);
  t.strictSame(await of('milter.reply == "negotiate"', 'milter.version', 'milter.actions', 'milter.protocol'), [
    '6',
    '0x00000011',
    '0x00100400',
  ]);
  t.strictSame(
    await of('milter.reply == "negotiate"', 'milter.actions.addhdrs', 'milter.actions.chgbody', 'milter.protocol.skip'),
    ['1', '0', '1'],
  );
  t.strictSame(await of('milter.macro_list.names', 'milter.macro_list.stage', 'milter.macro_list.names'), [
    '0,5',
    'j {daemon_name},i',
  ]);
  t.strictSame(
    await of('milter.reply == "chgHeader"', 'milter.header.index', 'milter.header.name', 'milter.header.value'),
    ['1', 'Subject', 'new'],
  );
  t.strictSame(await of('milter.command == "mailFrom"', 'milter.address', 'milter.args'), ['<a@a.org>', 'SIZE=100']);
  t.strictSame(await of('milter.reply == "replyCode"', 'milter.text'), ['550 5.7.1 No']);
  t.strictSame(await of('milter.reply == "quarantine"', 'milter.reason'), ['spam']);
  t.strictSame(await of('milter.command == "helo"', 'milter.helo'), ['mx.a.org']);
  t.strictSame(await of('milter.command == "unknown"', 'milter.line'), ['FOO bar']);
  t.strictSame(await of('milter.command == "body"', 'milter.body', 'milter.length'), ['48690d0a', '5']);
  const summary = await tshark(file, ...DISSECTOR, '-Y', 'milter');
  t.match(summary, / > header Subject: {2}hi {2}you/, 'a folded header in one line');
  t.match(summary, / < negotiate version 6/);
});

t.test('the dissector shows what is wrong, and goes on behind it', needs('tshark'), async (t) => {
  const odd = [
    packet('Z', 'x'),
    packet('H', Buffer.from('x')),
    u32(0),
    packet('C', 'a'),
    packet('R'),
    packet('O', u32(6)),
    packet('A', 'x'),
    packet('T'),
  ];
  const file = await pcapng(t, [data('mta', OFFER, 1000), ...odd.map((bytes) => data('mta', bytes, 1001))]);
  const found = await fields(
    file,
    ['milter.code', 'milter.command', 'milter.unknown_letter', '_ws.expert.message'],
    '-Y',
    'milter',
  );
  t.match(found, [
    ['O', 'negotiate'],
    ['Z', '', /./, 'Unknown letter'],
    ['H', 'helo', '', 'Malformed packet: a text without its NUL'],
    ['', '', '', 'Malformed packet: it has no letter'],
    ['C', 'connect', '', 'Malformed packet: a letter is missing'],
    ['R', 'rcpt', '', 'Malformed packet: a text is missing'],
    ['O', 'negotiate', '', 'Malformed packet: a number that is not complete'],
    ['A', 'abort', '', 'Malformed packet: it is longer than its fields'],
    ['T', 'data'],
  ]);
  const garbage = await pcapng(t, [data('mta', Buffer.from('EHLO x\r\n'), 1000)]);
  t.equal(await tshark(garbage, ...DISSECTOR, '-Y', 'milter'), '', 'what is no packet is left alone');
});

t.test(
  'the dissector is used on its ports, on connections that begin with an offer, and where told',
  needs('tshark'),
  async (t) => {
    const talk = [
      data('mta', OFFER, 1000),
      data('milter', answer(), 1001),
      data('mta', packet('H', 'x'), 1002),
      data('milter', packet('c'), 1003),
    ];
    const count = async (events: readonly CaptureEvent[], port: number, ...args: string[]): Promise<string> => {
      const file = await pcapng(t, events, tcp(port));
      return (await fields(file, ['milter.command', 'milter.reply'], '-Y', 'milter', ...args))
        .map((row) => row.join(':'))
        .join(' ');
    };
    const all = 'negotiate: :negotiate helo: :continue';
    t.equal(await count(talk, 8891), all);
    t.equal(await count(talk, 9999), all, 'by the offer');
    const middle = talk.slice(2);
    t.equal(await count(middle, 9999), '', 'else not');
    t.equal(await count(middle, 8891), 'helo: :continue', 'by the port');
    t.equal(await count([data('milter', answer(), 1001)], 8891), ':negotiate', 'which says who is who');
    t.equal(await count(middle, 9999, '-o', 'milter.port:9998-9999'), 'helo: :continue', 'by the preference');
    t.equal(await count(middle, 9999, '-d', 'tcp.port==9999,milter'), 'helo: :continue', 'by Decode As');
  },
);

// ---- tcpdump -------------------------------------------------------------------------------------------------------

class Busy extends MilterProtocol {
  override rcpt(address: string) {
    return address.includes('no-') ? this.setReply(550, '5.7.1', ['no', 'never']) : undefined;
  }
  override header() {}
  override body() {}
  override eob() {
    this.addHeader('X-Seen', 'yes');
    this.replBody(Buffer.alloc(150_000, 0x62));
  }
  override unknown() {
    return REJECT;
  }
}

/** What passes through a socket, as it does. */
function overhear(socket: Socket): Record<Side, Buffer[]> {
  const heard: Record<Side, Buffer[]> = { mta: [], milter: [] };
  const note = (side: Side, chunk: unknown): void => {
    if (Buffer.isBuffer(chunk)) heard[side].push(Buffer.from(chunk));
  };
  const over = (name: 'write' | 'end' | 'push', side: Side): void => {
    const original = socket[name].bind(socket) as (...args: unknown[]) => never;
    Object.assign(socket, {
      [name]: (...args: unknown[]) => {
        note(side, args[0]);
        return original(...args);
      },
    });
  };
  over('write', 'mta');
  over('end', 'mta');
  over('push', 'milter');
  return heard;
}

function decoded({ mta, milter }: Record<Side, Buffer[]>): { mta: unknown[]; milter: unknown[] } {
  const found = { mta: [] as unknown[], milter: [] as unknown[] };
  const [spoken, answered] = [commandParser({ lenient: true }), replyParser({ lenient: true })];
  for (const bytes of mta) spoken.parse(bytes, { packet: (each: Command | OddPacket) => void found.mta.push(each) });
  for (const bytes of milter)
    answered.parse(bytes, { packet: (each: Reply | OddPacket) => void found.milter.push(each) });
  return found;
}

for (const device of ['lo', 'any']) {
  t.test(`what tcpdump captures on ${device} is what the decoder saw`, needs('tcpdump'), async (t) => {
    const factory = new AsyncFactory('inet:0@127.0.0.1', Busy, SMFIF_ALLOPTS);
    await factory.run();
    t.teardown(() => factory.close());
    const port = (factory.address as { port: number }).port;
    const file = join(shortFolder(t), 'x.pcap');
    // As root, else it hands the file to its own user; with room for everything (32 MiB), else it drops packets.
    const args = ['-i', device, '-Z', 'root', '-U', '-B', '32768', '-s', '0', '-w', file, `tcp port ${port}`];
    const tcpdump = spawn('/usr/bin/tcpdump', args, { stdio: ['ignore', 'ignore', 'pipe'] });
    const ended = once(tcpdump, 'exit');
    let complaints = '';
    tcpdump.stderr.setEncoding('utf8').on('data', (text: string) => void (complaints += text));
    t.teardown(() => tcpdump.kill('SIGKILL'));
    await until('tcpdump to listen', () => {
      if (tcpdump.exitCode !== null) throw new Error(complaints);
      return complaints.includes('listening on');
    });

    const heard: Array<Record<Side, Buffer[]>> = [];
    for (let i = 0; i < 2; i++) {
      const socket = connect(port, '127.0.0.1');
      heard.push(overhear(socket));
      const client = new MilterClient(socket);
      t.equal((await client.connect({ hostname: 'mx.a.org', address: '192.0.2.1' })).outcome, 'continue');
      t.equal((await client.unknown('FOO')).outcome, 'reject');
      const message = `Subject: hi\r\n\r\n${`${'x'.repeat(70)}\r\n`.repeat(3000)}`;
      const mail = { from: '<a@a.org>', to: ['<no-b@b.org>', '<b@b.org>'], message };
      t.equal((await client.send(mail)).verdict, 'accept');
      await client.quit();
    }
    const recorded = async (): Promise<ConversationRecord[] | undefined> => {
      const { all } = await collectUntilError(decodeConversation(readCapture(file)));
      return all.filter(
        ({ type, text }: { type: string; text?: string }) => type === 'close' && !text?.includes('still open'),
      ).length === 2
        ? all
        : undefined;
    };
    const all = await until('both ends of both connections', recorded);
    tcpdump.kill('SIGINT');
    await ended;

    t.strictSame(
      lines(all).filter((line) => /not sync|missing|problem/i.test(line)),
      [],
    );
    for (const [i, each] of heard.entries()) {
      const its = all.filter(
        (record): record is PacketRecord => record.session === String(i + 1) && record.type === 'packet',
      );
      const expected = decoded(each);
      for (const side of ['mta', 'milter'] as const) {
        const packets = its.filter(({ from }) => from === side);
        t.strictSame(
          packets.map(({ packet: one }) => one),
          expected[side],
          `session ${i + 1}: ${side}`,
        );
        t.ok(Buffer.concat(packets.map(({ raw }) => raw)).equals(Buffer.concat(each[side])));
      }
      t.strictSame(
        its.filter(({ problem }) => problem !== undefined),
        [],
        'nothing against the rules',
      );
      const answered = its.filter(({ answers }) => answers !== undefined);
      t.ok(answered.length > 5 && answered.every(({ answers }) => (answers?.ms ?? -1) >= 0));
    }
    const onlyOurs = await collect(readCapture(file, { port: port === 1 ? 2 : 1 }));
    t.strictSame(onlyOurs, []);
  });
}
