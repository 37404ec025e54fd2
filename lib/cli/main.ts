#!/usr/bin/env node
/** The program `milter-stream`. */
import { runCli } from './cli.js';

process.exitCode = await runCli(process.argv.slice(2), process);
