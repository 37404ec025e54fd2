// examples/systemd/: units that systemd takes, that shut the milter in, and that run examples/service.ts.
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { MilterClient } from '../../lib/client/index.js';
import { demandBuild, root } from '../helpers/built.js';
import { runProgram } from '../helpers/example.js';
import { shortFolder } from '../helpers/folder.js';
import { needs } from '../helpers/real.js';
import { until } from '../helpers/until.js';

/**
 * Of 10, by systemd's own count: 9.6 is a unit that says nothing. These have 1.3 in systemd 252, most of it for the
 * network; later versions may ask for more.
 */
const MOST_EXPOSURE = 2;

const unit = (name: string): string => readFileSync(`${root}examples/systemd/${name}`, 'utf8');

/** What a unit says of something, the last time. */
const setting = (text: string, name: string): string | undefined =>
  text.match(new RegExp(`(?<=^${name}=).*`, 'gm'))?.at(-1);

/** Copies of the units, with the paths of this machine; and what a tool says of them. */
function analyze(t: Test, tool: readonly string[], change = (service: string): string => service): string {
  const folder = shortFolder(t);
  const service = unit('milter.service')
    .replace('/usr/bin/node', process.execPath)
    .replace('/opt/milter/service.js', `${root}examples/service.ts`);
  writeFileSync(`${folder}/milter.service`, change(service));
  writeFileSync(`${folder}/milter.socket`, unit('milter.socket'));
  const files = tool[0] === 'verify' ? ['milter.service', 'milter.socket'] : ['milter.service'];
  const env = { PATH: process.env['PATH'], SYSTEMD_COLORS: '0', SYSTEMD_PAGER: '', LC_ALL: 'C' };
  const { status, stdout, stderr } = spawnSync(
    'systemd-analyze',
    [...tool, ...files.map((name) => `${folder}/${name}`)],
    { encoding: 'utf8', env },
  );
  return `${stdout}${stderr}${status === 0 ? '' : `exit status ${status}`}`;
}

t.test('systemd finds nothing to complain of in the units', needs('systemd'), async (t) => {
  const verify = ['verify', '--recursive-errors=no'];
  t.equal(analyze(t, verify), '');
  for (const [from, to] of [
    ['ProtectHome=', 'ProtectHom='],
    ['PrivateTmp=yes', 'PrivateTmp=perhaps'],
    [process.execPath, '/no/such/node'],
  ] as const) {
    t.not(
      analyze(t, verify, (service) => service.replace(from, to)),
      '',
      `${to} would have been noticed`,
    );
  }
});

t.test('they shut the milter in as far as Node can be', needs('systemd'), async (t) => {
  const security = ['security', '--offline=true'];
  const exposure = (report: string): number =>
    Number(/Overall exposure level for milter\.service: ([\d.]+)/.exec(report)?.[1]);
  const report = analyze(t, security);
  t.ok(exposure(report) <= MOST_EXPOSURE, 'all in all', { report });
  const lost = analyze(t, security, (service) => service.replace(/^CapabilityBoundingSet=\n/m, ''));
  t.ok(exposure(lost) > exposure(report), 'a line that is lost would show');
  const service = unit('milter.service');
  t.equal(setting(service, 'MemoryDenyWriteExecute'), undefined, 'V8 could not work');
  t.match(service, /^# No MemoryDenyWriteExecute=: V8 /m);
});

t.test('they belong together, and say to systemd what runFilter() does', async (t) => {
  const [service, socket] = [unit('milter.service'), unit('milter.socket')];
  const name = setting(socket, 'FileDescriptorName');
  t.equal(setting(service, 'ExecStart'), `/usr/bin/node /opt/milter/service.js systemd:${name}`);
  t.equal(setting(service, 'Requires'), 'milter.socket');
  t.strictSame(
    ['Type', 'NotifyAccess', 'ExecReload'].map((each) => setting(service, each)),
    ['notify', 'all', '/bin/kill -HUP $MAINPID'],
  );
  t.ok(Number(setting(service, 'TimeoutStopSec')) > 30, 'longer than close() waits');
});

t.test('the program that they run is activated, marks a message, reloads and stops', needs('systemd'), async (t) => {
  demandBuild();
  const folder = shortFolder(t);
  const [, , argument] = setting(unit('milter.service'), 'ExecStart')!.split(' ');
  const program = runProgram('systemd-socket-activate', [
    `--listen=${folder}/s`,
    `--fdname=${setting(unit('milter.socket'), 'FileDescriptorName')}`,
    process.execPath,
    '--import',
    'tsx',
    'examples/service.ts',
    argument as string,
  ]);
  t.teardown(() => program.kill('SIGKILL'));
  const printed = (what: string): Promise<boolean> => until(what, () => program.err().includes(what));
  await printed(`Listening on ${folder}/s`);
  const passes = async (): Promise<void> => {
    const client = new MilterClient(`${folder}/s`);
    await client.connect();
    const mail = { from: '', to: ['<b@example.com>'], message: 'A: b\n\n', macros: { eob: { i: 'Q1' } } };
    t.equal((await client.send(mail)).message.toString(), 'A: b\r\nX-Service-Milter: Q1\r\n\r\n');
    await client.quit();
  };
  await passes();
  await printed(`listening on unix:${folder}/s`);
  program.kill('SIGHUP');
  await printed('reloaded');
  await passes();
  program.kill('SIGTERM');
  t.equal(await program.ended, 0, program.err());
  t.match(program.err(), /\nclosing: the messages in progress are finished /);
});

t.test('by hand it says in words what it cannot do', async (t) => {
  demandBuild();
  const program = runProgram(process.execPath, ['--import', 'tsx', 'examples/service.ts']);
  t.equal(await program.ended, 1);
  const words = 'Cannot listen on systemd: no socket was passed, LISTEN_FDS is not set: start it by its .socket unit';
  t.equal(program.err(), `ERR_MILTER_LISTEN: ${words}\n`);
});
