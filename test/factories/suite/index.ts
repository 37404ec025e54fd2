// The suite that every factory must pass. AsyncFactory, threads and processes behave alike, whoever reads the socket.
import type { Test } from 'tap';
import type { Variant } from '../../helpers/variants.js';
import { clients } from './clients.js';
import { closing } from './closing.js';
import { failures } from './failures.js';
import { overload } from './overload.js';
import { serving } from './serving.js';
import { wishes } from './wishes.js';

export function suite(t: Test, variant: Variant): void {
  for (const part of [serving, wishes, failures, overload, closing, clients]) part(t, variant);
}
