// What a private Sendmail is told: everything below one folder, nothing but loopback, no name server, no waiting.

export interface SendmailPlaces {
  dir: string;
  /** Sendmail's m4 files, with the slash at the end. */
  m4: string;
  port: number;
  readyPort: number;
  /** What the greeting is to contain. */
  banner: string;
  sinkPort: number;
}

/**
 * The .mc file. The second port has no milters: to see that Sendmail is up without a connection that a milter would
 * see too.
 */
export function sendmailMc(places: SendmailPlaces, more: string[]): string {
  const { dir, m4, port, readyPort, banner, sinkPort } = places;
  return `divert(-1)
include(\`${m4}m4/cf.m4')
divert(0)dnl
OSTYPE(\`linux')dnl
define(\`confPID_FILE', \`${dir}/pid')dnl
define(\`QUEUE_DIR', \`${dir}/queue')dnl
define(\`ALIAS_FILE', \`')dnl
define(\`STATUS_FILE', \`${dir}/statistics')dnl
define(\`confSERVICE_SWITCH_FILE', \`${dir}/service.switch')dnl
define(\`confDOMAIN_NAME', \`sendmail.example.test')dnl
define(\`confSMTP_LOGIN_MSG', \`$j Sendmail $v ${banner}')dnl
define(\`confRUN_AS_USER', \`root')dnl
define(\`confDONT_BLAME_SENDMAIL', \`GroupWritableDirPathSafe,TrustStickyBit')dnl
define(\`confDONT_PROBE_INTERFACES', \`True')dnl
define(\`confTO_IDENT', \`0')dnl
define(\`confMILTER_LOG_LEVEL', \`22')dnl
dnl However busy the machine is, mail is taken and sent on at once.
define(\`confQUEUE_LA', \`10000')dnl
define(\`confREFUSE_LA', \`10000')dnl
define(\`confDELAY_LA', \`0')dnl
DAEMON_OPTIONS(\`Name=MTA, Addr=127.0.0.1, Port=${port}')dnl
DAEMON_OPTIONS(\`Name=READY, Addr=127.0.0.1, Port=${readyPort}, InputMailFilters=')dnl
FEATURE(\`no_default_msa')dnl
FEATURE(\`nocanonify')dnl
FEATURE(\`accept_unresolvable_domains')dnl
FEATURE(\`accept_unqualified_senders')dnl
FEATURE(\`promiscuous_relay')dnl
define(\`SMART_HOST', \`relay:[127.0.0.1]')dnl
define(\`RELAY_MAILER_ARGS', \`TCP $h ${sinkPort}')dnl
${more.map((line) => `${line}\n`).join('')}MAILER(\`smtp')dnl
LOCAL_CONFIG
Dwsendmail
Dmexample.test
`;
}

/** A line for the .mc file: one milter, its flags ('F=T') and its timeouts ('T=S:10s;R:10s;E:1m'). */
export function inputMailFilter(milter: string, flags: string, timeouts: string): string {
  return `INPUT_MAIL_FILTER(\`test', \`${[`S=${milter}`, flags, timeouts].join(', ')}')dnl`;
}

/** Names are looked up in files only: a slow name server must not slow down a test. */
export const serviceSwitch = 'hosts files\naliases files\n';
