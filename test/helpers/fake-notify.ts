/** A systemd-notify that remembers what it was told. */
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import type { Test } from 'tap';
import { shortFolder } from './folder.js';

/** A program named systemd-notify, first in PATH, that writes its arguments into a file; and what it wrote. */
export function fakeNotify(t: Test, script = 'printf "%s|" "$@" >>"$TOLD"; echo >>"$TOLD"') {
  const folder = shortFolder(t);
  writeFileSync(`${folder}/systemd-notify`, `#!/bin/sh\n${script}\n`);
  chmodSync(`${folder}/systemd-notify`, 0o755);
  writeFileSync(`${folder}/told`, '');
  const env = { PATH: `${folder}:${process.env['PATH']}`, NOTIFY_SOCKET: `${folder}/none`, TOLD: `${folder}/told` };
  const told = (): string[] =>
    readFileSync(env.TOLD, 'utf8')
      .replaceAll(/(?<=MONOTONIC_USEC=)\d+/g, 'N')
      .split('\n')
      .slice(0, -1);
  return { env, told };
}
