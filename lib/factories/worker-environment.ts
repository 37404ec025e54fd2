/** What worker processes inherit, and what is not meant for them. */

const OURS = new Set([
  'LISTEN_FDS',
  'LISTEN_PID',
  'LISTEN_PIDFDID',
  'LISTEN_FDNAMES',
  'NOTIFY_SOCKET',
  'WATCHDOG_USEC',
  'WATCHDOG_PID',
]);

/** The environment, without what a service manager tells the main process. */
export function inheritedVariables(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !OURS.has(name)));
}

/** Node's flags, without a program that was given among them (`node -e`): workers have their own. */
export function inheritedFlags(flags: readonly string[]): string[] {
  const kept: string[] = [];
  for (let i = 0; i < flags.length; i++) {
    const flag = flags[i] as string;
    if (/^(-e|-p|-pe|--eval|--print|--input-type)$/.test(flag)) i++;
    else if (!/^--(eval|print|input-type)=/.test(flag)) kept.push(flag);
  }
  return kept;
}
