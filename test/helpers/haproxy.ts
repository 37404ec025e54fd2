// A private HAProxy with the configuration of examples/scale-out, in front of milters on an address of their own.

import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';

import { runProgram } from './example.js';
import { demand } from './real.js';
import { until } from './until.js';

export interface Haproxy {
  /** Where mail servers find the milters, as in smtpd_milters. */
  readonly milter: string;
  /** Where the three servers of the configuration have to listen, as a factory wants it. */
  readonly sockets: Readonly<Record<ServerName, string>>;
  /** What it knows of one of them. */
  show(server: ServerName): Promise<ServerState>;
  /** Resolves when it hands connections to a server that has passed its check. */
  up(server: ServerName): Promise<unknown>;
  /** Resolves when it has found out that a server does not answer. */
  down(server: ServerName): Promise<unknown>;
  /** Says something on the socket of its administrator, and returns the answer. */
  say(command: string): Promise<string>;
  /** What it has logged so far. */
  log(): string;
  stop(): Promise<void>;
}

/** The names in the configuration. */
export const SERVERS = ['m1', 'm2', 'm3'] as const;
export type ServerName = (typeof SERVERS)[number];

export interface ServerState {
  /** UP, DOWN, DRAIN and others, with details behind: `UP 1/2`. */
  readonly status: string;
  /** How its last check ended: L7OK, L4CON, L7RSP, L7TOUT and others. */
  readonly check: string;
  /** How many connections it has; checks do not count. */
  readonly connections: number;
}

export async function startHaproxy(): Promise<Haproxy> {
  demand('haproxy');
  const dir = await mkdtemp(join(tmpdir(), 'milter-haproxy-'));
  const admin = join(dir, 'admin');
  const host = ownHost();
  const [front, ...ports] = await freePorts(host, 1 + SERVERS.length);
  const program = runProgram('/usr/sbin/haproxy', ['-db', '-dW', '-f', 'examples/scale-out/haproxy.cfg'], {
    MILTERS_ADMIN: admin,
    MILTERS_LOG: 'stderr',
    MILTERS_LISTEN: `${host}:${front}`,
    ...Object.fromEntries(ports.map((port, i) => [`MILTERS_${i + 1}`, `${host}:${port}`])),
  });
  let over = false;
  void program.ended.then(() => (over = true));
  const say = async (command: string): Promise<string> => {
    const socket = connect(admin);
    socket.end(`${command}\n`);
    return text(socket);
  };
  const show = async (server: ServerName): Promise<ServerState> => {
    const [head = '', ...lines] = (await say('show stat')).split('\n');
    const names = head.replace('# ', '').split(',');
    const fields = lines.map((line) => line.split(',')).find((each) => each[1] === server) ?? [];
    const field = (name: string): string => fields[names.indexOf(name)] ?? '';
    return { status: field('status'), check: field('check_status'), connections: Number(field('scur')) };
  };
  const stop = async (): Promise<void> => {
    program.kill('SIGTERM');
    await program.ended;
    await rm(dir, { recursive: true, force: true });
  };
  try {
    await until('HAProxy to start', () => {
      if (over) throw new Error('it ended');
      return say('show info').catch(() => '');
    });
  } catch (error) {
    await stop();
    throw new Error(`HAProxy did not start: ${String(error)}\n${program.err()}`, { cause: error });
  }
  return {
    milter: `inet:${host}:${front}`,
    sockets: Object.fromEntries(SERVERS.map((name, i) => [name, `inet:${ports[i]}@${host}`])) as Haproxy['sockets'],
    show,
    up: (server) =>
      until(`${server} to be up`, async () => {
        const { status, check } = await show(server);
        return status === 'UP' && check === 'L7OK';
      }),
    down: (server) => until(`${server} to be down`, async () => (await show(server)).status.startsWith('DOWN')),
    say,
    log: program.err,
    stop,
  };
}

/** An address of 127/8 that belongs to this process: nobody else takes a port there while an instance is away. */
function ownHost(): string {
  return `127.${128 + ((process.pid >> 16) & 63)}.${(process.pid >> 8) & 255}.${process.pid & 255}`;
}

/** Different ones, that nobody listens on. */
async function freePorts(host: string, count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, host));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports;
}
