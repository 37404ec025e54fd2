/** A folder for Unix sockets, whose paths must be short: shorter than those of tap's own. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';

/** A new folder, which is gone when the test is over. */
export function shortFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'ms-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}
