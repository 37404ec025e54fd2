/** Conversations for the page, as events: ordinary ones, and those of somebody who wants to break it. */
import type { CaptureEvent, Side } from '../../lib/capture/index.js';
import { packet, u16, u32, u8 } from '../helpers/bytes.js';
import { answer, OFFER } from '../helpers/capture.js';

export const START = Date.UTC(2026, 2, 14, 9, 26, 53);

/** `>` what the mail server says, `<` what the milter does, each so many ms after the line before. */
export type Line = readonly [who: '>' | '<', ms: number, ...packets: Buffer[]];

export const c = packet('c');

export interface SceneOptions {
  readonly at?: number;
  /** No end. */
  readonly live?: boolean;
  readonly milter?: string;
}

/** A session: opened, the offer, what is given, closed by the mail server. */
export function scene(session: string, said: readonly Line[], options: SceneOptions = {}): CaptureEvent[] {
  const { at = 0, live = false, milter = '127.0.0.1' } = options;
  let time = START + at;
  const events: CaptureEvent[] = [
    {
      type: 'open',
      session,
      time,
      mta: { address: '127.0.0.1', port: 40_000 },
      milter: { address: milter, port: 8891 },
    },
  ];
  const lines: Line[] = [['>', 0.2, OFFER], ['<', 1.1, answer()], ...said];
  for (const [who, ms, ...packets] of lines) {
    time += ms;
    const from: Side = who === '>' ? 'mta' : 'milter';
    events.push({ type: 'data', session, time, from, bytes: Buffer.concat(packets) });
  }
  if (!live) events.push({ type: 'close', session, time: time + 1, from: 'mta' });
  return events;
}

export function macros(letter: string, ...pairs: string[]): Buffer {
  return packet('D', Buffer.from(letter), ...pairs);
}

export function connect(name = 'mail.example.org', address = '192.0.2.25'): Buffer {
  return packet('C', name, Buffer.from('4'), u16(25_000), address);
}

/** From the connection to the end of the headers. */
export function opening(id: string, from: string, to: readonly string[], headers: readonly string[][]): Line[] {
  return [
    ['>', 0.1, macros('C', 'j', 'mx.example.com', '{daemon_name}', 'smtpd', 'v', 'Postfix 3.7.11'), connect()],
    ['<', 0.4, c],
    ['>', 12, macros('H'), packet('H', 'mail.example.org')],
    ['<', 0.3, c],
    ['>', 14, macros('M', '{mail_addr}', from, '{mail_mailer}', 'smtp'), packet('M', `<${from}>`, 'SIZE=10240')],
    ['<', 3.2, c],
    ...to.flatMap((each): Line[] => [
      ['>', 9, macros('R', 'i', id, '{rcpt_addr}', each), packet('R', `<${each}>`)],
      ['<', 2.1, c],
    ]),
    ['>', 6, macros('T', 'i', id), packet('T')],
    ['<', 0.2, c],
    ...headers.flatMap(([name, value]): Line[] => [
      ['>', 0.3, packet('L', name as string, value as string)],
      ['<', 0.2, c],
    ]),
    ['>', 0.2, macros('N', 'i', id), packet('N')],
    ['<', 0.2, c],
  ];
}

export const HEADERS = [
  ['From', 'Anna <anna@example.org>'],
  ['To', 'Bert <bert@example.com>'],
  ['Subject', 'Zeitpläne für den 14. März\n\tund was daraus wird'],
  ['Message-ID', '<20260314092653.1234@mail.example.org>'],
];

export const TEXT = Buffer.from('Lieber Bert,\r\n\r\nhier sind die Zeitpläne.\r\n\r\nAnna\r\n');

/** What an evening at a mail server brings. */
export function ordinary(): CaptureEvent[] {
  const quit = packet('Q');
  return [
    scene('1', [
      ...opening('4Zf1Xk2bQ7z9', 'anna@example.org', ['bert@example.com', 'carla@example.com'], HEADERS),
      ['>', 0.3, packet('B', TEXT)],
      ['<', 4.4, c],
      ['>', 0.2, macros('E', 'i', '4Zf1Xk2bQ7z9'), packet('E')],
      ['<', 1400, packet('p')],
      ['<', 220, packet('h', 'X-Spam-Status', 'No, score=-1.2 required=5.0')],
      ['<', 0, packet('i', u32(1), 'Authentication-Results', 'mx.example.com; dkim=pass')],
      ['<', 0, packet('a')],
      ['>', 3, packet('A'), quit],
    ]),
    scene(
      '2',
      [
        ...opening('4Zf1Xm0cRTz9', 'sale@bulk.example.net', ['info@example.com'], [['Subject', 'You have won']]),
        ['>', 0.3, packet('B', Buffer.alloc(65_535, 'Buy now. '))],
        ['<', 160, c],
        ['>', 0.2, macros('E', 'i', '4Zf1Xm0cRTz9'), packet('E')],
        ['<', 310, packet('y', '554 5.7.1 Message rejected as spam, score 17.3 (100%% sure)')],
        ['>', 3, packet('A'), quit],
      ],
      { at: 9_000 },
    ),
    scene(
      '3',
      [
        ...opening('4Zf1Xn5dSVz9', 'Jürgen@müller.example', ['bert@example.com'], []).slice(0, 6),
        ['<', 0.2, packet('h', 'X-Too-Early', 'yes')],
        ['<', 2.4, c],
        ['>', 4_200, macros('R', 'i', '4Zf1Xn5dSVz9'), packet('R', '<nobody@example.com>')],
        ['<', 2_300, packet('t')],
        ['>', 7, packet('Z', Buffer.from([0, 1, 2, 0xff])), packet('A')],
        ['>', 2, Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')],
      ],
      { at: 21_000 },
    ),
    scene(
      '4',
      [
        ...opening('4Zf1Xp7fTWz9', '', ['postmaster@example.com'], [['Auto-Submitted', 'auto-replied']]),
        ['>', 0.2, packet('E')],
        ['<', 12, packet('q', 'held by policy'), packet('c')],
        ['>', 3, packet('A'), quit],
      ],
      { at: 64_000 },
    ),
  ].flat();
}

const SCRIPTS = [
  '<script>alert(1)</script>',
  '</script><script>alert(2)</script>',
  '"><img src=x onerror=alert(3)>',
  'javascript:alert(4)//\'"`${alert(5)}',
  '<svg/onload=alert(6)><iframe src=http://127.0.0.1:9/></iframe><!--',
  '<link rel=stylesheet href=//127.0.0.1:9/x.css><base href=//127.0.0.1:9/>',
  '{{constructor.constructor("alert(7)")()}}',
];
const ODD =
  '\u202eevil\u202c\u2066\u200f\u0007\u001b[31m\u0085\u2028\u2029\ufeff\u061c שלום مرحبا Z\u0335\u0321\u0321\u0321\u0300'.repeat(
    2,
  );

/** Whatever is said goes where anything can be said. */
export function hostile(): CaptureEvent[] {
  const odd = Buffer.concat([Buffer.from(ODD), Buffer.from([0x80, 0xff, 0xc3, 0x28])]);
  const name = '</script><script>document.title="broken"</script>';
  return [
    ...SCRIPTS.flatMap((text, i) =>
      scene(
        `${name}${i}`,
        [
          ['>', 1, macros('C', text, text, 'j', ODD), connect(text, text)],
          ['<', 1, c],
          ['>', 1, macros('M', 'i', text, text, ODD), packet('M', text, text)],
          ['<', 1, c],
          ['>', 1, packet('R', text)],
          ['<', 1, packet('y', `550 5.7.1 ${text}`)],
          ['>', 1, packet('R', text, ODD)],
          ['<', 1, c],
          ['>', 1, packet('L', text, odd)],
          ['<', 1, c],
          ['>', 1, packet('U', text)],
          ['<', 1, c],
          ['>', 1, packet('B', Buffer.from(text + ODD))],
          ['<', 1, c],
          ['>', 1, macros('E', 'i', text), packet('E')],
          ['<', 1, packet('h', text, text), packet('q', text), packet('e', text, text), packet('2', text, text)],
          ['<', 1, packet('\x07', Buffer.from(text)), packet('m', u32(1)), packet('c')],
          ['>', 1, packet('<', Buffer.from(text)), u8(0), Buffer.from(text.repeat(20))],
        ],
        { at: i * 1000, milter: text },
      ),
    ),
    ...scene('big', [
      ...opening('BIG', 'big@example.org', ['b@example.com'], [['X-Big', '<b>'.repeat(345_000)]]),
      ['>', 1, packet('L', 'a\u0335'.repeat(5_000), 'W'.repeat(3_000))],
      ['<', 1, c],
    ]),
    { type: 'problem', session: '', time: Infinity, text: SCRIPTS.join() },
  ];
}
