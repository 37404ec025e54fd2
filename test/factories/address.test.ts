// P139: socket strings of every dialect.
import t from 'tap';
import {
  formatAddress,
  formatForPostfix,
  parseAddress,
  type ListenAddress,
  type SocketAddress,
} from '../../lib/index.js';
import { thrown } from '../helpers/eob.js';

const inet = (host: string, port: number): SocketAddress => ({ kind: 'inet', host, port, ipv6Only: false });
const inet6 = (host: string, port: number): SocketAddress => ({ kind: 'inet', host, port, ipv6Only: true });
const unix = (path: string): SocketAddress => ({ kind: 'unix', path });

/** What each string means, and how it is written for Sendmail and for Postfix. */
const GOOD: ReadonlyArray<readonly [text: string, address: SocketAddress, sendmail: string, postfix: string]> = [
  ['inet:8891@127.0.0.1', inet('127.0.0.1', 8891), 'inet:8891@127.0.0.1', 'inet:127.0.0.1:8891'],
  ['inet:8891@mx.example.org', inet('mx.example.org', 8891), 'inet:8891@mx.example.org', 'inet:mx.example.org:8891'],
  ['inet:8891@[::1]', inet('::1', 8891), 'inet6:8891@::1', 'inet:[::1]:8891'],
  ['inet:8891@::1', inet('::1', 8891), 'inet6:8891@::1', 'inet:[::1]:8891'],
  ['inet:127.0.0.1:8891', inet('127.0.0.1', 8891), 'inet:8891@127.0.0.1', 'inet:127.0.0.1:8891'],
  ['inet:localhost:8891', inet('localhost', 8891), 'inet:8891@localhost', 'inet:localhost:8891'],
  ['inet:[2001:db8::1]:25', inet('2001:db8::1', 25), 'inet6:25@2001:db8::1', 'inet:[2001:db8::1]:25'],
  ['inet:8891', inet('127.0.0.1', 8891), 'inet:8891@127.0.0.1', 'inet:127.0.0.1:8891'],
  ['inet:8891@', inet('127.0.0.1', 8891), 'inet:8891@127.0.0.1', 'inet:127.0.0.1:8891'],
  ['inet::8891', inet('127.0.0.1', 8891), 'inet:8891@127.0.0.1', 'inet:127.0.0.1:8891'],
  ['inet:8891@0.0.0.0', inet('0.0.0.0', 8891), 'inet:8891@0.0.0.0', 'inet:0.0.0.0:8891'],
  ['INET:8891@127.0.0.1', inet('127.0.0.1', 8891), 'inet:8891@127.0.0.1', 'inet:127.0.0.1:8891'],
  ['inet:65535@h', inet('h', 65_535), 'inet:65535@h', 'inet:h:65535'],
  ['inet6:8891@::1', inet6('::1', 8891), 'inet6:8891@::1', 'inet:[::1]:8891'],
  ['inet6:8891@[2001:db8::1]', inet6('2001:db8::1', 8891), 'inet6:8891@2001:db8::1', 'inet:[2001:db8::1]:8891'],
  ['inet6:[::]:8891', inet6('::', 8891), 'inet6:8891@::', 'inet:[::]:8891'],
  ['inet6:8891', inet6('::1', 8891), 'inet6:8891@::1', 'inet:[::1]:8891'],
  ['inet6:8891@ip6-localhost', inet6('ip6-localhost', 8891), 'inet6:8891@ip6-localhost', 'inet:ip6-localhost:8891'],
  ['unix:/run/my.sock', unix('/run/my.sock'), 'unix:/run/my.sock', 'unix:/run/my.sock'],
  ['local:/run/my.sock', unix('/run/my.sock'), 'unix:/run/my.sock', 'unix:/run/my.sock'],
  ['Unix:my.sock', unix('my.sock'), 'unix:my.sock', 'unix:my.sock'],
  ['/run/my.sock', unix('/run/my.sock'), 'unix:/run/my.sock', 'unix:/run/my.sock'],
  [':/run/my.sock', unix('/run/my.sock'), 'unix:/run/my.sock', 'unix:/run/my.sock'],
  ['my.sock', unix('my.sock'), 'unix:my.sock', 'unix:my.sock'],
  ['/run/a:b', unix('/run/a:b'), 'unix:/run/a:b', 'unix:/run/a:b'],
  ['./inet:1', unix('./inet:1'), 'unix:./inet:1', 'unix:./inet:1'],
  ['unix:/run/a\nb', unix('/run/a\nb'), 'unix:/run/a\nb', 'unix:/run/a\nb'],
];

t.test('P139 every dialect is understood, and written for both mail servers', async (t) => {
  for (const [text, address, sendmail, postfix] of GOOD) {
    for (const purpose of ['listen', 'connect', undefined] as const) {
      t.strictSame(parseAddress(text, purpose), address, text);
    }
    t.equal(formatAddress(address), sendmail);
    t.equal(formatForPostfix(address), postfix);
    t.strictSame(
      parseAddress(sendmail),
      address.kind === 'inet' && sendmail.startsWith('inet6') ? { ...address, ipv6Only: true } : address,
    );
  }
});

t.test('an inherited socket is meant by its name or its descriptor, and is to be listened on alone', async (t) => {
  const longest = 'n'.repeat(255);
  const good: ReadonlyArray<readonly [text: string, address: ListenAddress, written?: string]> = [
    ['systemd', { kind: 'systemd', name: '' }],
    ['systemd:', { kind: 'systemd', name: '' }, 'systemd'],
    ['SystemD', { kind: 'systemd', name: '' }, 'systemd'],
    ['systemd:milter.socket', { kind: 'systemd', name: 'milter.socket' }],
    ['systemd:my milter', { kind: 'systemd', name: 'my milter' }],
    [`systemd:${longest}`, { kind: 'systemd', name: longest }],
    ['fd:3', { kind: 'fd', fd: 3 }],
    ['FD:0', { kind: 'fd', fd: 0 }, 'fd:0'],
    ['fd:2147483647', { kind: 'fd', fd: 2_147_483_647 }],
  ];
  for (const [text, address, written = text] of good) {
    t.strictSame(parseAddress(text, 'listen'), address);
    t.strictSame(parseAddress(text), address);
    t.equal(formatAddress(address), written);
    t.match(
      thrown(() => parseAddress(text, 'connect')),
      {
        code: 'ERR_MILTER_ADDRESS',
        message: /: an inherited socket is one to listen on, not to connect to$/,
      },
    );
  }
  for (const [text, what] of [
    ['systemd:a:b', '"a:b" is no name of a socket: up to 255 printable ASCII characters without a colon'],
    ['systemd:ä', '"ä" is no name of a socket'],
    ['systemd:a\nb', '"a\\nb" is no name of a socket'],
    [`systemd:${longest}n`, 'is no name of a socket'],
    ['fd:', '"" is no descriptor'],
    ['fd:-1', '"-1" is no descriptor'],
    ['fd:3a', '"3a" is no descriptor'],
    ['fd:2147483648', '"2147483648" is no descriptor'],
  ] as const) {
    const { code, message } = thrown(() => parseAddress(text));
    t.equal(code, 'ERR_MILTER_ADDRESS');
    t.ok(message.includes(what), message);
  }
  t.strictSame(parseAddress('./systemd'), unix('./systemd'), 'a Unix socket of this name');
  t.equal(formatAddress(unix('')), 'a Unix socket', 'where the system does not tell which');
});

t.test('P139 port 0 is any free port to listen on, and nothing to connect to', async (t) => {
  t.strictSame(parseAddress('inet:0@127.0.0.1', 'listen'), inet('127.0.0.1', 0));
  t.strictSame(parseAddress('inet:0'), inet('127.0.0.1', 0));
  t.equal(
    thrown(() => parseAddress('inet:0@127.0.0.1', 'connect')).message,
    'Bad socket address "inet:0@127.0.0.1": port 0 is nothing to connect to',
  );
});

t.test('P139 anything else is refused in words', async (t) => {
  const bad: ReadonlyArray<readonly [unknown, string]> = [
    ['', 'it must be a string like inet:8891@127.0.0.1 or unix:/path'],
    [undefined, 'it must be a string like inet:8891@127.0.0.1 or unix:/path'],
    [8891, 'it must be a string like inet:8891@127.0.0.1 or unix:/path'],
    ['tcp:8891@127.0.0.1', 'tcp is none of inet, inet6, unix, local, systemd, fd'],
    ['tcp://127.0.0.1:8891', 'tcp is none of inet, inet6, unix, local, systemd, fd'],
    ['localhost:8891', 'localhost is none of inet, inet6, unix, local, systemd, fd'],
    ['127.0.0.1:8891', '127.0.0.1 is none of inet, inet6, unix, local, systemd, fd'],
    ['[::1]:8891', '[ is none of inet, inet6, unix, local, systemd, fd'],
    ['inet:', '"" is no port number'],
    ['inet:@127.0.0.1', '"" is no port number'],
    ['inet:127.0.0.1:', '"" is no port number'],
    ['inet:milter@127.0.0.1', '"milter" is no port number'],
    ['inet:-1@127.0.0.1', '"-1" is no port number'],
    ['inet:0x10@127.0.0.1', '"0x10" is no port number'],
    ['inet: 8891@127.0.0.1', '" 8891" is no port number'],
    ['inet:65536@127.0.0.1', 'port 65536 is larger than 65535'],
    ['inet:70000@127.0.0.1', 'port 70000 is larger than 65535'],
    ['inet:99999999999999999999@h', 'port 99999999999999999999 is larger than 65535'],
    ['inet:::1:8891', 'an IPv6 address before a port needs brackets: inet:[::1]:8891'],
    ['inet:2001:db8::1:8891', 'an IPv6 address before a port needs brackets: inet:[2001:db8::1]:8891'],
    ['inet:8891@a b', '"a b" is no host'],
    ['inet:8891@a@b', '"a@b" is no host'],
    ['inet:8891@[::1', '"[::1" is no host'],
    ['inet:8891@/run/x', '"/run/x" is no host'],
    ['inet:8891@a\nb', '"a\\nb" is no host'],
    ['unix:', 'the path is empty'],
    [':', 'the path is empty'],
    ['unix:/run/a\0b', 'the path holds a NUL'],
  ];
  for (const [text, what] of bad) {
    const { code, message } = thrown(() => parseAddress(text as string));
    t.equal(code, 'ERR_MILTER_ADDRESS');
    const shown = typeof text === 'string' ? JSON.stringify(text) : String(text);
    t.equal(message, `Bad socket address ${shown}: ${what}`);
  }
});

t.test('P139 a path that no Unix socket can have is refused, counted in bytes', async (t) => {
  const most = process.platform === 'linux' ? 107 : 103;
  const longest = `/${'a'.repeat(most - 1)}`;
  t.strictSame(parseAddress(longest), unix(longest));
  for (const path of [`${longest}a`, `/${'ü'.repeat(54)}`]) {
    const { message } = thrown(() => parseAddress(`unix:${path}`));
    t.match(message, `: the path has ${Buffer.byteLength(path)} bytes; a Unix socket's may have ${most}`);
  }
});

t.test('P139 a port without inet: before it is no Unix socket', async (t) => {
  for (const text of ['8891', '8891@127.0.0.1']) {
    t.throws(() => parseAddress(text), { code: 'ERR_MILTER_ADDRESS', message: /a port needs inet: before it/ });
  }
  t.strictSame(parseAddress('./8891'), { kind: 'unix', path: './8891' });
});
