// What a private Postfix is told: everything below one folder, nothing but loopback, no waiting.

import { join } from 'node:path';

/** main.cf, where later settings win over earlier ones. */
export function mainCf(...settings: Record<string, string>[]): string {
  return Object.entries(Object.assign({}, ...settings) as Record<string, string>)
    .map(([name, value]) => `${name} = ${value}\n`)
    .join('');
}

export function places(dir: string): Record<string, string> {
  return {
    queue_directory: join(dir, 'queue'),
    data_directory: join(dir, 'data'),
    command_directory: '/usr/sbin',
    daemon_directory: '/usr/lib/postfix/sbin',
    maillog_file: join(dir, 'mail.log'),
    maillog_file_prefixes: dir,
  };
}

export const behaviour: Record<string, string> = {
  compatibility_level: '3.6',
  mail_owner: 'postfix',
  setgid_group: 'postdrop',
  myhostname: 'postfix.example.test',
  inet_interfaces: '127.0.0.1',
  inet_protocols: 'ipv4',
  mynetworks: '127.0.0.0/8',
  // No address is local: everything goes to the relay host.
  mydestination: '',
  local_recipient_maps: '',
  alias_maps: '',
  alias_database: '',
  // The test's client stands for one out there, whose headers Postfix leaves alone; loopback would make it local.
  local_header_rewrite_clients: '',
  milter_default_action: 'tempfail',
  // Nobody to write to about what a test provokes.
  notify_classes: '',
  // A test that makes errors, many connections or deferred mail should not be slowed down for it.
  smtpd_error_sleep_time: '0',
  smtpd_client_connection_count_limit: '0',
  in_flow_delay: '0',
  queue_run_delay: '2s',
  minimal_backoff_time: '2s',
  maximal_backoff_time: '2s',
};

/**
 * The services, none in a chroot. The second port has no milters: to see that Postfix is up without a connection that
 * a milter would see too.
 */
export function masterCf(port: number, readyPort: number, banner: string): string {
  return `127.0.0.1:${port} inet n - n - - smtpd
127.0.0.1:${readyPort} inet n - n - - smtpd
  -o smtpd_milters=
  -o smtpd_banner=${banner}
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`;
}
