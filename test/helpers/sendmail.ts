// A private Sendmail: its own folder, ports and queue, everything handed on to the test's sink.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

import type { FromUnixDir, MailServer } from './mail-server.js';
import { onFreePorts } from './ports.js';
import { endingGroup } from './process-group.js';
import { withFullHostName } from './full-host-name.js';
import { awaitGreeting } from './ready.js';
import { demand, sendmailFiles } from './real.js';
import { run } from './run.js';
import { inputMailFilter, sendmailMc, serviceSwitch } from './sendmail-config.js';

export interface SendmailOptions {
  /** As in INPUT_MAIL_FILTER: 'inet:PORT@127.0.0.1' or 'unix:/path'. */
  milter?: FromUnixDir<string>;
  /** 'F=T' (temporary failure when the milter fails) unless given; 'F=R' rejects. */
  milterFlags?: string;
  /** 'T=S:10s;R:10s;E:1m' unless given. */
  timeouts?: string;
  sinkPort: number;
  /** More lines for the .mc file. */
  mc?: string[];
}

export async function startSendmail(options: SendmailOptions): Promise<MailServer> {
  demand('sendmail');
  return onFreePorts((port, readyPort) => start(options, port, readyPort));
}

/** The lines in which Sendmail's trace complains about a milter. A milter's rejections are not complaints. */
export function milterComplaints(log: string): string[] {
  const complaint =
    /^milter_\w+ ?\(.*(timeout|socket closed|failed|bogus|lied|did not|instead of|!=|range|not ready|expect|larger|returned 4)/;
  return log.split('\n').filter((line) => complaint.test(line));
}

async function start(options: SendmailOptions, port: number, readyPort: number): Promise<MailServer> {
  const { binary } = sendmailFiles;
  const dir = await mkdtemp(join(tmpdir(), 'milter-sendmail-'));
  const place = (name: string): string => join(dir, name);
  const cf = place('sendmail.cf');

  // Debug category 64 is the milter's: there is no syslog to read here.
  const logging = ['-D', place('milter.log'), '-d64.10', '-X', place('traffic.log')];
  const log = async (): Promise<string> => {
    const files = ['errors.log', 'milter.log', 'traffic.log'].map((name) => readFile(place(name), 'utf8'));
    return (await Promise.all(files.map((file) => file.catch(() => '')))).join('');
  };
  let stop = (): Promise<void> => rm(dir, { recursive: true, force: true });

  try {
    await furnish(dir, options, port, readyPort);
    const errors = await open(place('errors.log'), 'w');
    const daemon = spawn(...withFullHostName(binary, ['-bD', '-q1h', `-C${cf}`, ...logging]), {
      // Detached, it leads a process group of its own.
      detached: true,
      stdio: ['ignore', errors.fd, errors.fd],
    });
    // Like a Postfix that goes on by itself, it must not keep a test from ending.
    daemon.unref();
    await once(daemon, 'spawn');
    await errors.close();
    if (daemon.pid !== undefined) stop = endingGroup(daemon.pid, stop);
    await awaitGreeting(readyPort, basename(dir), () => daemon.exitCode === null && daemon.signalCode === null);
  } catch (error) {
    const logged = await log();
    await stop();
    throw new Error(`Sendmail did not start: ${String(error)}\n${logged}`, { cause: error });
  }

  const command = (args: string[], input?: Buffer): Promise<string> =>
    run(...withFullHostName(binary, [`-C${cf}`, ...args]), input);
  return {
    port,
    dir,
    milterUnixDir: place('milter'),
    log,
    stop,
    sendmail: async (args, input) => void (await command(args, input)),
    postqueue: () => command(['-bp']),
    flush: async () => void (await command(['-q'])),
  };
}

async function furnish(dir: string, options: SendmailOptions, port: number, readyPort: number): Promise<void> {
  const { milter, milterFlags = 'F=T', timeouts = 'T=S:10s;R:10s;E:1m', sinkPort, mc = [] } = options;
  const { m4 } = sendmailFiles;
  const where = typeof milter === 'function' ? milter(join(dir, 'milter')) : milter;
  const filter = where === undefined ? [] : [inputMailFilter(where, milterFlags, timeouts)];

  await chmod(dir, 0o755);
  for (const name of ['queue', 'milter']) await mkdir(join(dir, name));
  await writeFile(join(dir, 'service.switch'), serviceSwitch);
  const places = { dir, m4, port, readyPort, banner: basename(dir), sinkPort };
  const cf = await run('m4', [`-D_CF_DIR_=${m4}`, '-'], sendmailMc(places, [...filter, ...mc]));
  await writeFile(join(dir, 'sendmail.cf'), cf);
}
