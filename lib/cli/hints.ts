/** The lines that tell a mail server of a milter. */
import { isAbsolute, relative } from 'node:path';
import { formatAddress, formatForPostfix, type SocketAddress } from '../address.js';

/** Where Postfix has its queue, and where a chrooted smtpd is locked up. */
export const QUEUE_DIRECTORY = '/var/spool/postfix';

export interface Hints {
  /** Lines of main.cf. */
  readonly postfix: readonly string[];
  /** Lines of sendmail.mc. */
  readonly sendmail: readonly string[];
}

export function hintsFor(address: SocketAddress, queueDirectory = QUEUE_DIRECTORY): Hints {
  // An inherited Unix socket may be one whose path the system does not tell.
  if (address.kind === 'unix' && address.path === '') return { postfix: [], sendmail: [] };
  const inside = address.kind === 'unix' ? insideQueue(address.path, queueDirectory) : undefined;
  // A path that is relative is so to the queue directory, for a chrooted smtpd and for any other.
  const place = inside === undefined ? formatForPostfix(address) : `unix:${inside}`;
  return {
    postfix: [`smtpd_milters = ${place}`, 'milter_default_action = tempfail'],
    sendmail: [`INPUT_MAIL_FILTER(\`my-milter', \`S=${formatAddress(address)}, F=T, T=S:10s;R:10s;E:5m')`],
  };
}

/** A path as it is seen from the queue directory; undefined outside of it. */
export function insideQueue(path: string, queueDirectory: string): string | undefined {
  const seen = relative(queueDirectory, path);
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
