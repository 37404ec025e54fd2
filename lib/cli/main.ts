#!/usr/bin/env node
/** The program `milter-stream`. */
import { runCli } from './cli.js';

process.exitCode = await runCli(process.argv.slice(2), process);
// When all is printed nobody waits any longer: not for a milter that does not close its connection either.
process.stdout.write('', () => process.stderr.write('', () => process.exit()));
