/** The commands, in the order of --help. */
import type { Command } from './command.js';
import { decode } from './decode.js';
import { doctor } from './doctor.js';
import { record } from './record.js';
import { replay } from './replay.js';
import { send } from './send.js';
import { serve } from './serve.js';
import { sniff } from './sniff.js';

export const COMMANDS: readonly Command[] = [serve, send, sniff, record, replay, decode, doctor];
