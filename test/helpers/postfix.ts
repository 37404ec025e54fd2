// A private Postfix: its own folder, ports and queue, everything handed on to the test's sink.

import { chmod, chown, mkdir, mkdtemp, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

import { makeCertificate } from './certificate.js';
import type { FromUnixDir, MailServer } from './mail-server.js';
import { onFreePorts } from './ports.js';
import { behaviour, mainCf, masterCf, places } from './postfix-config.js';
import { endingGroup } from './process-group.js';
import { awaitGreeting } from './ready.js';
import { demand } from './real.js';
import { run } from './run.js';

export interface PostfixOptions {
  /** As in smtpd_milters: 'inet:127.0.0.1:PORT', 'unix:/path', '{ inet:..., default_action=accept }'. */
  milters: FromUnixDir<string[]>;
  /** As in non_smtpd_milters, for mail from sendmail(). None unless given. */
  nonSmtpdMilters?: FromUnixDir<string[]>;
  sinkPort: number;
  /** More of main.cf, or other values for what is set anyway. */
  mainCf?: Record<string, string>;
  /** Offers STARTTLS, with a certificate of its own. */
  tls?: boolean;
}

export async function startPostfix(options: PostfixOptions): Promise<MailServer> {
  demand('postfix');
  return onFreePorts((port, readyPort) => start(options, port, readyPort));
}

/** The lines in which Postfix complains about a milter. A milter's rejections are not complaints. */
export function milterWarnings(log: string): string[] {
  return log.split('\n').filter((line) => /: (warning|error|fatal|panic): .*milter/i.test(line));
}

async function start(options: PostfixOptions, port: number, readyPort: number): Promise<MailServer> {
  const dir = await mkdtemp(join(tmpdir(), 'milter-postfix-'));
  const etc = join(dir, 'etc');
  const log = (): Promise<string> => readFile(join(dir, 'mail.log'), 'utf8').catch(() => '');
  let stop = (): Promise<void> => rm(dir, { recursive: true, force: true });

  try {
    await furnish(dir, options, port, readyPort);
    await run('/usr/sbin/postfix', ['-c', etc, 'start']);
    // Postfix's master leads a process group of its own.
    const master = Number(await readFile(join(dir, 'queue/pid/master.pid'), 'utf8'));
    stop = endingGroup(master, stop);
    await awaitGreeting(readyPort, basename(dir));
  } catch (error) {
    const logged = await log();
    await stop();
    throw new Error(`Postfix did not start: ${String(error)}\n${logged}`, { cause: error });
  }

  return {
    port,
    dir,
    milterUnixDir: join(dir, 'milter'),
    log,
    stop,
    sendmail: async (args, input) => void (await run('/usr/sbin/sendmail', ['-C', etc, ...args], input)),
    postqueue: () => run('/usr/sbin/postqueue', ['-c', etc, '-p']),
    flush: async () => void (await run('/usr/sbin/postqueue', ['-c', etc, '-f'])),
  };
}

/** Fills the folder. The user postfix must be able to come in, so it can't stay as private as mkdtemp made it. */
async function furnish(dir: string, options: PostfixOptions, port: number, readyPort: number): Promise<void> {
  await chmod(dir, 0o755);
  for (const name of ['etc', 'queue', 'data', 'milter']) await mkdir(join(dir, name));
  // Who the user postfix is, says what already belongs to it.
  const { uid, gid } = await stat('/var/lib/postfix');
  await chown(join(dir, 'data'), uid, gid);

  const list = (milters: FromUnixDir<string[]> = []): string =>
    (typeof milters === 'function' ? milters(join(dir, 'milter')) : milters).join(', ');
  const network = {
    relayhost: `[127.0.0.1]:${options.sinkPort}`,
    smtpd_milters: list(options.milters),
    non_smtpd_milters: list(options.nonSmtpdMilters),
  };
  const tls = options.tls === true ? await tlsSettings(dir) : {};
  const main = join(dir, 'etc/main.cf');
  await writeFile(main, mainCf(places(dir), behaviour, network, tls, options.mainCf ?? {}));
  await writeFile(join(dir, 'etc/master.cf'), masterCf(port, readyPort, basename(dir)));
  // Every Postfix program waits a second or two for a main.cf that is as fresh as this: somebody may still write it.
  const earlier = new Date(Date.now() - 60_000);
  await utimes(main, earlier, earlier);
}

async function tlsSettings(dir: string): Promise<Record<string, string>> {
  const { certFile, keyFile } = await makeCertificate(join(dir, 'etc'), 'postfix.example.test');
  return { smtpd_tls_security_level: 'may', smtpd_tls_cert_file: certFile, smtpd_tls_key_file: keyFile };
}
