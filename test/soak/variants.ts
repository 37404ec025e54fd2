// What the soak is run with: each factory, and the ways in which its workers can die.
import { AsyncFactory, ForkFactory, ThreadFactory } from 'milter-stream';
import { QuietSoakMilter, SoakMilter, ThreadedSoakMilter } from './milters.mjs';
import { Links } from './links.js';
import { CHANCES, soak, STAGES, type Phase } from './soak.js';

type Server = 'postfix' | 'sendmail';

/**
 * Each stage while it waits; then clients that think before DATA, callbacks without a reply, and workers that
 * are ended from outside, mostly while nothing waits for them.
 */
const PHASES: readonly Phase[] = [
  { Milter: SoakMilter, stages: STAGES, pause: 0, killEvery: 2_000, chances: CHANCES },
  { Milter: QuietSoakMilter, stages: ['message'], pause: 60, killEvery: 500, chances: {} },
];

/** Nothing but JavaScript is loaded there: no flags are needed. */
const PLAIN = { execArgv: [] };

/** Processes that are killed and stopped. */
export function soakForks(server: Server): void {
  const links = new Links();
  class Mortal extends ForkFactory {
    protected override link() {
      return links.watch(super.link());
    }
  }
  soak({
    name: `ForkFactory behind ${server}`,
    server,
    passOnFailure: true,
    manners: ['SIGKILL', 'SIGKILL', 'SIGKILL', 'SIGSTOP'],
    phases: PHASES,
    make: (socket, Milter, options) => new Mortal(socket, Milter, { ...options, ...PLAIN }),
    killOne: () => links.killOne(),
  });
}

/** Threads that exit and fill their heap by themselves, and are terminated from outside. */
export function soakThreads(server: Server): void {
  const links = new Links();
  class Mortal extends ThreadFactory {
    protected override link() {
      return links.watch(super.link());
    }
  }
  soak({
    name: `ThreadFactory behind ${server}`,
    server,
    passOnFailure: true,
    manners: ['exit', 'exit', 'throw', 'reject', 'heap'],
    phases: PHASES,
    make: (socket, Milter, options) =>
      new Mortal(socket, Milter, { ...options, ...PLAIN, resourceLimits: { maxOldGenerationSizeMb: 48 } }),
    killOne: () => links.killOne(),
  });
}

/** A process that has the connection itself takes it along: the server must be told to refuse mail then. */
export function soakChildren(server: Server): void {
  soak({
    name: `ForkFactory, socket: 'child', behind ${server}`,
    server,
    passOnFailure: false,
    manners: ['SIGKILL'],
    phases: [{ Milter: SoakMilter, stages: [], pause: 0, killEvery: 0, chances: CHANCES }],
    make: (socket, Milter, options) => new ForkFactory(socket, Milter, { ...options, ...PLAIN, socket: 'child' }),
  });
}

/** Nothing of AsyncFactory's can die alone but the threads of callInThread. */
export function soakCalls(server: Server): void {
  soak({
    name: `AsyncFactory with callInThread behind ${server}`,
    server,
    passOnFailure: false,
    manners: ['exit', 'throw', 'reject', 'block'],
    phases: [
      {
        Milter: ThreadedSoakMilter,
        stages: ['rcpt', 'header', 'eob'],
        pause: 0,
        killEvery: 0,
        chances: { rcpt: 0.01, header: 0.004, eob: 0.02 },
      },
    ],
    make: (socket, Milter, options) => new AsyncFactory(socket, Milter, { ...options, ...PLAIN }),
  });
}
