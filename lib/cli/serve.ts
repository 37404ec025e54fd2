/** `milter-stream serve`: runs a milter out of a module. */
import { readFileSync } from 'node:fs';
import * as constants from '../constants.js';
import { actionNames } from '../names.js';
import { AsyncFactory } from '../factories/async.js';
import type { Factory } from '../factories/factory.js';
import { ForkFactory } from '../factories/fork.js';
import type { FactoryOptions } from '../factories/options.js';
import { runFilter } from '../factories/service.js';
import { ThreadFactory } from '../factories/thread.js';
import type { Logger } from '../session/options.js';
import type { ProtocolClass } from '../session/protocol.js';
import type { Command, Io } from './command.js';
import { CliError, EXIT, usageError } from './exit.js';
import { hintLines, hintsFor, type Hints } from './hints.js';
import { findMilter, tellModule } from './milter-module.js';
import { jsonLog, textLog } from './service-log.js';
import { SOCKET_OPTIONS, socketFileOf } from './socket-options.js';
import type { Values } from './values.js';

const FACTORIES: Readonly<
  Record<'async' | 'thread' | 'fork', new (socket: string, Milter: ProtocolClass, options: FactoryOptions) => Factory>
> = { async: AsyncFactory, thread: ThreadFactory, fork: ForkFactory };

const ACTIONS = actionNames(constants.SMFIF_ALLOPTS);

export const serve: Command = {
  name: 'serve',
  summary: 'run a milter out of a module',
  usage: ['MODULE [ADDRESS] [OPTION]...'],
  text: [
    'Imports MODULE, a path or the name of a package, and serves mail servers with the class in it that extends MilterProtocol: its default export, or the only one that is such a class. The module should do nothing else when it is imported.',
    'ADDRESS may also be systemd, systemd:NAME or fd:3, for a socket that is open already; port 0 is any free one. Default inet:8891@127.0.0.1.',
    'SIGTERM and SIGINT stop it: messages in progress are finished, a second signal ends them at once. SIGHUP loads the module anew (threads and processes). systemd is told when it is ready (Type=notify).',
    'A TIME is 500ms, 8s, 2m or 1h; a number alone means seconds.',
    'Left to code are sharedReads, bareReplies, resourceLimits and execArgv of a factory; protocol bits, macros and an error policy that is a function are statics of the class.',
  ],
  options: [
    { name: 'export', value: 'NAME', text: 'The export that is the class, where the module has several.' },
    {
      name: 'factory',
      value: 'KIND',
      text: 'async: one event loop (default). thread: worker threads. fork: processes.',
    },
    { name: 'listen', value: 'ADDRESS', text: 'The same as ADDRESS.' },
    {
      name: 'actions',
      value: 'LIST',
      text: `What the milter may do to messages: all (default), none, or names like ADDHDRS,CHGBODY of ${ACTIONS.map(short).join(', ')}.`,
    },
    {
      name: 'required',
      value: 'LIST',
      text: 'Of these, what it cannot do without: it leaves a mail server that does not let it. Default none.',
    },
    ...SOCKET_OPTIONS,
    { name: 'backlog', value: 'N', text: 'How many connections may wait to be accepted. Default 50.' },
    { name: 'workers', value: 'N', text: 'How many threads or processes. Default: one for each core.' },
    { name: 'per-session', text: 'A thread or process of its own for each connection, instead of a pool.' },
    { name: 'socket', value: 'WHO', text: 'fork: who has the connections, parent (default) or child.' },
    { name: 'max-connections', value: 'N', text: 'How many are served at once. Default: as many as come.' },
    {
      name: 'overload',
      value: 'WHAT',
      text: 'What becomes of more: queue (default) lets them wait, tempfail refuses their mail for now, close closes them.',
    },
    {
      name: 'error-policy',
      value: 'WHAT',
      text: 'What the mail server is told where a callback fails: tempfail (default), accept or reject.',
    },
    { name: 'callback-deadline', value: 'TIME', text: 'How long a callback before eob() may take. Default 8s.' },
    { name: 'eob-deadline', value: 'TIME', text: 'How long eob() may take. Default 270s.' },
    { name: 'idle-timeout', value: 'TIME', text: 'How long nothing may come. Default a little more than two hours.' },
    { name: 'negotiation-timeout', value: 'TIME', text: 'How long the offer of a mail server may take. Default 30s.' },
    { name: 'start-timeout', value: 'TIME', text: 'How long a thread or process may take to start. Default 30s.' },
    { name: 'progress-after', value: 'TIME', text: 'When eob() first says that it is still at work. Default 3s.' },
    { name: 'progress-every', value: 'TIME', text: 'How often it says so then. Default 3s.' },
    { name: 'max-payload', value: 'BYTES', text: 'Largest packet that is read. Default 1048575.' },
    { name: 'max-modifications', value: 'BYTES', text: 'Most changes to a message, its body aside. Default 1048576.' },
    {
      name: 'spool-memory',
      value: 'BYTES',
      text: 'How much of a new body is in memory, not in a file. Default 262144.',
    },
    {
      name: 'close-timeout',
      value: 'TIME',
      text: 'How long messages in progress may take when it stops. Default 30s.',
    },
    { name: 'dry-run', text: 'Say what would have been done, and change nothing.' },
    { name: 'context', value: 'JSON|@FILE', text: 'A value for the milter: this.context.' },
    { name: 'log', value: 'FORM', text: 'Print a line for each message: as text, or all lines as json.' },
    { name: 'quiet', short: 'q', text: 'Print warnings and errors alone.' },
  ],
  positionals: { min: 1, max: 2 },
  exits: [
    [EXIT.ok, 'it was stopped, and the last message is finished'],
    [EXIT.data, 'the module does not load, or has no milter'],
    [EXIT.noInput, 'there is no such module or file'],
    [EXIT.unavailable, 'it cannot listen there'],
    [EXIT.software, 'setup() fails, or no worker starts; or an error of milter-stream itself'],
  ],
  examples: [
    ['serve ./my-milter.js', 'On port 8891 of this machine.'],
    ['serve ./my-milter.js /run/my.sock --group postfix --factory fork', 'On a Unix socket, in processes.'],
    ['serve ./my-milter.js systemd --log json', 'Under systemd, a line of JSON for each message.'],
  ],
  async run(io, values, [module = '', address]) {
    const listen = values.text('listen');
    if (listen !== undefined && address !== undefined) throw usageError('ADDRESS is there, and --listen as well');
    const kind = values.choice('factory', ['async', 'thread', 'fork']) ?? 'async';
    const log = logOf(io, values);
    const options = { ...optionsOf(values), log, signal: io.signal };
    const found = await findMilter(module, values.text('export'));
    if (kind !== 'async') tellModule(found);
    const factory = new FACTORIES[kind](address ?? listen ?? 'inet:8891@127.0.0.1', found.Milter, options);
    factory.once('listening', (where) => {
      setImmediate(() => tell(log, hintsFor(where), values.text('log') === 'json'));
    });
    await runFilter(factory, { log, signals: io.signal === undefined });
    return EXIT.ok;
  },
};

/** After the line that says where it listens. */
function tell(log: Logger, hints: Hints, json: boolean): void {
  if (json) log.info({ ...hints }, 'what to tell the mail server');
  else for (const line of hintLines(hints)) log.info({}, line);
}

function logOf(io: Io, values: Values): Logger {
  const log = values.choice('log', ['text', 'json']) === 'json' ? jsonLog(io) : textLog(io);
  return values.flag('quiet') ? { ...log, info() {} } : log;
}

function optionsOf(values: Values): FactoryOptions {
  const most = 0x7fff_ffff;
  const bytes = 0x3fff_ffff;
  return {
    smfifOptions: actionsOf(values, 'actions', 'all'),
    required: actionsOf(values, 'required', 'none'),
    ...socketFileOf(values),
    backlog: values.whole('backlog', 1, most),
    workers: values.whole('workers', 1, 1024),
    perSession: values.flag('per-session'),
    socket: values.choice('socket', ['parent', 'child']),
    maxConnections: values.whole('max-connections', 1, most),
    overload: values.choice('overload', ['queue', 'tempfail', 'close']),
    errorPolicy: values.choice('error-policy', ['tempfail', 'accept', 'reject']),
    callbackDeadline: values.time('callback-deadline'),
    eobDeadline: values.time('eob-deadline'),
    idleTimeout: values.time('idle-timeout'),
    negotiationTimeout: values.time('negotiation-timeout'),
    startTimeout: values.time('start-timeout'),
    progressAfter: values.time('progress-after'),
    progressEvery: values.time('progress-every'),
    maxPayload: values.whole('max-payload', 1, bytes),
    maxModifications: values.whole('max-modifications', 0, bytes),
    spoolMemory: values.whole('spool-memory', 0, bytes),
    closeTimeout: values.time('close-timeout'),
    dryRun: values.flag('dry-run'),
    context: contextOf(values),
    logMessages: values.text('log') !== undefined,
  };
}

function short(name: string): string {
  return name.replace(/^SMFIF_/, '');
}

function actionsOf(values: Values, option: string, otherwise: 'all' | 'none'): number {
  const list = values.text(option) ?? otherwise;
  if (list === 'all') return constants.SMFIF_ALLOPTS;
  if (list === 'none') return 0;
  return list.split(',').reduce((bits, word) => {
    const name = `SMFIF_${short(word.trim().toUpperCase())}`;
    if (!ACTIONS.includes(name)) {
      throw values.bad(option, `must be all, none, or some of ${ACTIONS.map(short).join(',')}`, word);
    }
    return bits | (constants as unknown as Record<string, number>)[name]!;
  }, 0);
}

function contextOf(values: Values): unknown {
  const text = values.text('context');
  if (text === undefined) return undefined;
  const json = text.startsWith('@') ? readContext(text.slice(1)) : text;
  try {
    return JSON.parse(json) as unknown;
  } catch (error) {
    throw usageError(`--context is no JSON: ${(error as Error).message}`);
  }
}

function readContext(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new CliError(EXIT.noInput, `Cannot read ${path}: ${(error as Error).message}`);
  }
}
