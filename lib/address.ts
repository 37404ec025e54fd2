/**
 * Socket strings, in every dialect of the field, as what to listen on or to connect to.
 *
 *   inet:8891@127.0.0.1   inet6:8891@::1   inet:8891@[::1]      Sendmail and libmilter
 *   inet:127.0.0.1:8891   inet:[::1]:8891  inet:localhost:8891  Postfix and python-libmilter
 *   inet:8891                                                   127.0.0.1: a wildcard only when written out
 *   unix:/run/my.sock     local:/run/my.sock     /run/my.sock   a Unix socket
 *   systemd               systemd:NAME                          one that systemd has opened: the only one, or by name
 *   fd:3                                                        one that is open already, by its descriptor
 */
import { MilterError, show } from './errors.js';

/**
 * A place to listen on or to connect to. A path is '' only where a factory listens on an inherited Unix socket whose
 * name the system does not tell.
 */
export type SocketAddress =
  | { readonly kind: 'inet'; readonly host: string; readonly port: number; readonly ipv6Only: boolean }
  | { readonly kind: 'unix'; readonly path: string };

/** A socket that whoever started the process has opened for it; the name '' is for the only one. */
export type InheritedSocket =
  { readonly kind: 'systemd'; readonly name: string } | { readonly kind: 'fd'; readonly fd: number };

/** What a factory can be told to listen on. */
export type ListenAddress = SocketAddress | InheritedSocket;

/** What fits into Linux's sockaddr_un.sun_path with the NUL behind it; where less fits, the system says so itself. */
export const MAX_PATH = 107;

/**
 * Reads a socket string.
 * @param purpose port 0 and inherited sockets are for listening, and nothing to connect to
 * @throws MilterError ERR_MILTER_ADDRESS
 */
export function parseAddress(text: string, purpose: 'connect'): SocketAddress;
export function parseAddress(text: string, purpose?: 'listen' | 'connect'): ListenAddress;
export function parseAddress(text: string, purpose: 'listen' | 'connect' = 'listen'): ListenAddress {
  if (typeof text !== 'string' || text === '')
    throw bad(text, 'it must be a string like inet:8891@127.0.0.1 or unix:/path');
  const [, keyword, rest] = /^([^:/]*):(.*)$/s.exec(/^systemd$/i.test(text) ? `${text}:` : text) ?? [
    undefined,
    '',
    text,
  ];
  if (/^\d+(@|$)/.test(text))
    throw bad(text, `a port needs inet: before it; for a Unix socket of this name write ./${text}`);
  switch (keyword.toLowerCase()) {
    case '':
    case 'unix':
    case 'local':
      return { kind: 'unix', path: checkPath(text, rest) };
    case 'inet':
      return inet(text, rest, purpose, false);
    case 'inet6':
      return inet(text, rest, purpose, true);
    case 'systemd':
    case 'fd':
      if (purpose === 'connect') throw bad(text, 'an inherited socket is one to listen on, not to connect to');
      return keyword.toLowerCase() === 'fd' ? descriptor(text, rest) : systemd(text, rest);
    default:
      throw bad(text, `${keyword} is none of inet, inet6, unix, local, systemd, fd`);
  }
}

/** An address as it is written in Sendmail's configuration and in this library's messages. */
export function formatAddress(address: ListenAddress): string {
  if (address.kind === 'unix') return address.path === '' ? 'a Unix socket' : `unix:${address.path}`;
  if (address.kind === 'fd') return `fd:${address.fd}`;
  if (address.kind === 'systemd') return address.name === '' ? 'systemd' : `systemd:${address.name}`;
  const keyword = address.ipv6Only || address.host.includes(':') ? 'inet6' : 'inet';
  return `${keyword}:${address.port}@${address.host}`;
}

/** An address as Postfix's smtpd_milters wants it. */
export function formatForPostfix(address: SocketAddress): string {
  if (address.kind === 'unix') return `unix:${address.path}`;
  return `inet:${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}`;
}

function inet(text: string, rest: string, purpose: string, ipv6: boolean): SocketAddress {
  const [port, host] = portAndHost(text, rest);
  if (!/^\d+$/.test(port)) throw bad(text, `${show(port)} is no port number`);
  const number = Number(port);
  if (number > 65_535) throw bad(text, `port ${port} is larger than 65535`);
  if (number === 0 && purpose === 'connect') throw bad(text, 'port 0 is nothing to connect to');
  const bare = host.replace(/^\[(.*)\]$/, '$1');
  if (/[\s[\]@/]/.test(bare)) throw bad(text, `${show(host)} is no host`);
  if (ipv6) return { kind: 'inet', host: bare === '' ? '::1' : bare, port: number, ipv6Only: true };
  return { kind: 'inet', host: bare === '' ? '127.0.0.1' : bare, port: number, ipv6Only: false };
}

/** The names that FileDescriptorName= takes, and sd_listen_fds_with_names() gives. */
function systemd(text: string, name: string): InheritedSocket {
  if (!/^[ -9;-~]{0,255}$/.test(name)) {
    throw bad(text, `${show(name)} is no name of a socket: up to 255 printable ASCII characters without a colon`);
  }
  return { kind: 'systemd', name };
}

function descriptor(text: string, number: string): InheritedSocket {
  if (!/^\d+$/.test(number) || Number(number) > 0x7fff_ffff) throw bad(text, `${show(number)} is no descriptor`);
  return { kind: 'fd', fd: Number(number) };
}

function portAndHost(text: string, rest: string): [port: string, host: string] {
  const at = rest.indexOf('@');
  if (at >= 0) return [rest.slice(0, at), rest.slice(at + 1)];
  const colon = rest.lastIndexOf(':');
  if (colon < 0) return [rest, ''];
  const host = rest.slice(0, colon);
  if (host.includes(':') && !/^\[.*\]$/.test(host)) {
    throw bad(text, `an IPv6 address before a port needs brackets: inet:[${host}]:${rest.slice(colon + 1)}`);
  }
  return [rest.slice(colon + 1), host];
}

function checkPath(text: string, path: string): string {
  if (path === '') throw bad(text, 'the path is empty');
  if (path.includes('\0')) throw bad(text, 'the path holds a NUL');
  const size = Buffer.byteLength(path);
  if (size > MAX_PATH) throw bad(text, `the path has ${size} bytes; a Unix socket's may have ${MAX_PATH}`);
  return path;
}

function bad(text: unknown, what: string): MilterError {
  return new MilterError('ERR_MILTER_ADDRESS', `Bad socket address ${show(text)}: ${what}`);
}
