/** The commands, in the order of --help. */
import type { Command } from './command.js';
import { doctor } from './doctor.js';
import { send } from './send.js';
import { serve } from './serve.js';

export const COMMANDS: readonly Command[] = [serve, send, doctor];
