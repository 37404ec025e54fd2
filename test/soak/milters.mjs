// The milters of the soak: they mark what they pass, and die in the middle of it, in the ways and as often as their
// context says. Plain JavaScript, so that a new worker is there at once.
import { MilterProtocol } from 'milter-stream';

/** Ends its thread or process, or makes it useless; does not come back. */
const MANNERS = {
  SIGKILL: () => process.kill(process.pid, 'SIGKILL'),
  SIGSTOP: () => process.kill(process.pid, 'SIGSTOP'),
  exit: () => process.exit(3),
  throw: () => void setImmediate(() => rage()),
  reject: () => void Promise.reject(new Error('rejected on purpose')),
  block: () => forever(),
  heap() {
    const hog = [];
    for (;;) hog.push(Array.from({ length: 100_000 }, () => hog.length));
  },
};

function rage() {
  throw new Error('thrown on purpose');
}

function forever() {
  for (;;);
}

export class SoakMilter extends MilterProtocol {
  static module = import.meta.url;

  #negotiated = false;

  /** Asked for when the worker looks which callbacks there are: it is at the negotiation then. */
  get unknown() {
    try {
      if (!this.#negotiated) {
        this.#negotiated = true;
        void this.#mayDie('negotiate');
      }
    } catch {
      // the class is looked at, not an object of it
    }
    return () => this.#mayDie('unknown');
  }

  connect() {
    return this.#mayDie('connect');
  }
  helo() {
    return this.#mayDie('helo');
  }
  mailFrom() {
    return this.#mayDie('mailFrom');
  }
  rcpt() {
    return this.#mayDie('rcpt');
  }
  data() {
    return this.#mayDie('data');
  }
  header(name, value) {
    if (name === 'X-Id') this.id = value;
    return this.#mayDie('header');
  }
  eoh() {
    return this.#mayDie('eoh');
  }
  body() {
    return this.#mayDie('body');
  }
  async eob() {
    this.addHeader('X-Soak', `passed ${this.id}`);
    // One in four gets a body that is held in a file until the message is accepted.
    if (Math.random() < 0.25) this.replBody('replaced\r\n'.repeat(40_000));
    await this.#mayDie('eob');
  }

  /** A promise that never settles when it is about to die. */
  #mayDie(stage) {
    const { chances, manners } = this.context;
    if (Math.random() >= (chances[stage] ?? 0)) return undefined;
    const manner = MANNERS[manners[Math.floor(Math.random() * manners.length)]];
    manner();
    return new Promise(() => {});
  }
}

/** The same, and most of a message has no reply. */
export class QuietSoakMilter extends SoakMilter {
  static module = import.meta.url;
  static noReply = ['header', 'eoh', 'body'];
}

/** Under AsyncFactory the marked callbacks die in their threads. */
export class ThreadedSoakMilter extends SoakMilter {
  static module = import.meta.url;
  static callInThread = ['rcpt', 'header', 'eob'];
}
