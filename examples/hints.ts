/** The lines that tell a mail server of a milter. */
import { statSync, readFileSync } from 'node:fs';
import { formatAddress, formatForPostfix, type SocketAddress } from 'milter-stream';

/** Where smtpd may be locked up: on Debian it is, by default. */
const CHROOT = '/var/spool/postfix';

/** What to write into main.cf and sendmail.mc; for a Unix socket also who can reach it. */
export function hints(address: SocketAddress): string[] {
  const lines = [
    'Postfix, main.cf:',
    `  smtpd_milters = ${formatForPostfix(address)}`,
    'Sendmail, sendmail.mc:',
    `  INPUT_MAIL_FILTER(\`test', \`S=${formatAddress(address)}, F=T, T=S:10s;R:10s;E:5m')`,
  ];
  // An inherited Unix socket may be one whose path the system does not tell.
  return address.kind === 'unix' && address.path !== '' ? [...lines, '', ...socketHints(address.path)] : lines;
}

function socketHints(path: string): string[] {
  const { gid, mode } = statSync(path);
  const inside = path.startsWith(`${CHROOT}/`);
  return [
    `The socket belongs to group ${groupName(gid)}, mode ${(mode & 0o777).toString(8).padStart(4, '0')}:`,
    '  the mail server needs read and write permission on it, and must be able to enter its folder.',
    inside
      ? `A chrooted smtpd sees it as unix:${path.slice(CHROOT.length)}`
      : `A chrooted smtpd cannot see it: listen on a path below ${CHROOT}, which it then sees without that part`,
  ];
}

function groupName(gid: number): string {
  const line = readFileSync('/etc/group', 'utf8')
    .split('\n')
    .find((each) => each.split(':')[2] === String(gid));
  return line === undefined ? String(gid) : `${line.split(':')[0]} (${gid})`;
}
