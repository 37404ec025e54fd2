// The milters of test/fixtures that do what the mail tells them: one in C on libmilter, the same one in Python.

import { join } from 'node:path';
import type { Test } from 'tap';

import { shortFolder } from './folder.js';
import { startListener } from './private-milter.js';
import { demand } from './real.js';
import { run } from './run.js';

/** What else the milter asks for when it negotiates. */
export type Wish = 'leadspc' | 'noreply' | 'symlist';

/** Starts one; resolves with its socket. */
export type StartEdits = (t: Test, ...wishes: Wish[]) => Promise<string>;

export const startEditsInC: StartEdits = async (t, ...wishes) => {
  demand('libmilter');
  const dir = shortFolder(t);
  const [program, socket] = [join(dir, 'edits'), join(dir, 's')];
  const flags = ['-O1', '-Wall', '-Wextra', '-Werror'];
  await run('/usr/bin/gcc', [...flags, '-o', program, 'test/fixtures/edits.c', '-lmilter', '-lpthread']);
  return startListener(t, socket, program, [`unix:${socket}`, ...wishes]);
};

export const startEditsInPython: StartEdits = async (t, ...wishes) => {
  demand('pymilter');
  const socket = join(shortFolder(t), 's');
  // Debian's Python, which has Debian's modules.
  return startListener(t, socket, '/usr/bin/python3', ['test/fixtures/edits.py', `unix:${socket}`, ...wishes]);
};
