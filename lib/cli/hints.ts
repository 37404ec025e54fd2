/** The lines that tell a mail server of a milter. */
import { realpathSync } from 'node:fs';
import { basename, dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { formatAddress, formatForPostfix, type SocketAddress } from '../address.js';

/** Where Postfix has its queue, and where a chrooted smtpd is locked up. */
export const QUEUE_DIRECTORY = '/var/spool/postfix';

export interface Hints {
  /** Lines of main.cf. */
  readonly postfix: readonly string[];
  /** Lines of sendmail.mc. */
  readonly sendmail: readonly string[];
}

export function hintsFor(given: SocketAddress, queueDirectory = QUEUE_DIRECTORY): Hints {
  // An inherited Unix socket may be one whose path the system does not tell.
  if (given.kind === 'unix' && given.path === '') return { postfix: [], sendmail: [] };
  const address = given.kind === 'unix' ? { ...given, path: realPath(given.path) } : given;
  const inside = address.kind === 'unix' ? insideQueue(address.path, queueDirectory) : undefined;
  // A path that is relative is so to the queue directory, for a chrooted smtpd and for any other.
  const place = inside === undefined ? formatForPostfix(address) : `unix:${inside}`;
  return {
    postfix: [`smtpd_milters = ${place}`, 'milter_default_action = tempfail'],
    sendmail: [`INPUT_MAIL_FILTER(\`my-milter', \`S=${formatAddress(address)}, F=T, T=S:10s;R:10s;E:5m')`],
  };
}

/** A path from the root on and without links, as far as it is there: a mail server knows nothing of where we are. */
export function realPath(path: string): string {
  const whole = resolve(path);
  return follow(whole) ?? join(follow(dirname(whole)) ?? dirname(whole), basename(whole));
}

function follow(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined;
  }
}

/**
 * A path as it is seen from the queue directory; undefined outside of it.
 * @param path a real one
 */
export function insideQueue(path: string, queueDirectory: string): string | undefined {
  const seen = relative(realPath(queueDirectory), path);
  return seen === '' || seen.startsWith('..') || isAbsolute(seen) ? undefined : seen;
}

/** All of it for a terminal. */
export function hintLines({ postfix, sendmail }: Hints): string[] {
  if (postfix.length === 0) return [];
  return [
    'Postfix, main.cf:',
    ...postfix.map((line) => `  ${line}`),
    'Sendmail, sendmail.mc:',
    ...sendmail.map((line) => `  ${line}`),
  ];
}
