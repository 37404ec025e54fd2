// A Haraka of its own, with the plugin of examples/haraka installed as a user would install it: beside milter-stream.

import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';

import { demandBuild, root } from './built.js';
import { runProgram } from './example.js';
import { shortFolder } from './folder.js';
import { demand } from './real.js';

const HARAKA = join(root, 'examples/haraka/node_modules/Haraka');

export interface Haraka {
  readonly port: number;
  /** What the last message was delivered as; undefined where there was none since the last call. */
  delivered(): Delivered | undefined;
  /** Everything it has logged. */
  readonly log: () => string;
}

export interface Delivered {
  readonly from: string;
  readonly to: string[];
  readonly message: Buffer;
  readonly quarantined: boolean;
}

/** Says who the client is, takes every recipient but one, and delivers into files. */
const PLUGIN = `
const fs = require('node:fs');
exports.hook_lookup_rdns = (next) => next(OK, 'client.test');
exports.hook_rcpt = (next, _connection, [rcpt]) => (rcpt.user === 'foreign' ? next(DENY, 'Not here') : next(OK));
exports.hook_queue = (next, { transaction }) => {
  const { mail_from: from, rcpt_to: to, notes } = transaction;
  transaction.message_stream.get_data((message) => {
    fs.writeFileSync('FOLDER/mail.eml', message);
    const quarantined = notes.quarantine === true && notes.quarantine_action === OK;
    fs.writeFileSync('FOLDER/mail.json', JSON.stringify({ from: from.format(), to: to.map((each) => each.format()), quarantined }));
    next(OK);
  });
};`;

/** @param connectionIni what is to be different from Haraka's own connection.ini */
export async function startHaraka(t: Test, milterIni: string, connectionIni = ''): Promise<Haraka> {
  demand('haraka');
  demandBuild();
  const folder = shortFolder(t);
  const place = (...parts: string[]): string => join(folder, ...parts);
  const plugin = place('node_modules', 'haraka-plugin-milter');
  for (const name of [plugin, place('config'), place('plugins')]) mkdirSync(name, { recursive: true });
  for (const name of ['package.json', 'index.js', 'config'])
    cpSync(join(root, 'examples/haraka', name), join(plugin, name), { recursive: true });
  symlinkSync(root, place('node_modules', 'milter-stream'));
  writeFileSync(place('plugins', 'delivery.js'), PLUGIN.replaceAll('FOLDER', folder));
  const config = {
    'smtp.ini': 'listen=127.0.0.1:0\nnodes=0\n',
    plugins: 'milter\ndelivery\n',
    loglevel: 'INFO\n',
    me: 'mx.test\n',
    'milter.ini': milterIni,
    'connection.ini': readFileSync(join(HARAKA, 'config/connection.ini'), 'utf8') + connectionIni,
  };
  for (const [name, text] of Object.entries(config)) writeFileSync(place('config', name), text);
  const program = runProgram(process.execPath, [join(HARAKA, 'bin/haraka'), '-c', folder]);
  t.teardown(async () => {
    program.kill('SIGKILL');
    await program.ended;
  });
  await program.printed('Listening on 127.0.0.1:');
  return {
    port: Number(/Listening on 127\.0\.0\.1:(\d+)/.exec(program.out())?.[1]),
    delivered() {
      if (!existsSync(place('mail.json'))) return undefined;
      const mail = JSON.parse(readFileSync(place('mail.json'), 'utf8')) as Omit<Delivered, 'message'>;
      const message = readFileSync(place('mail.eml'));
      for (const name of ['mail.json', 'mail.eml']) rmSync(place(name));
      return { ...mail, message };
    },
    log: () => program.out() + program.err(),
  };
}
