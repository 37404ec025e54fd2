/** Examines a milter: what it negotiates, what it makes of harmless messages, and what it does not survive. */
import { ACTION_OF } from '../client/modify.js';
import { MilterClient, type ClientOptions, type ClientPeer, type MessageResult, type Step } from '../client/index.js';
import type { NegotiateReply } from '../codec/replies.js';
import * as c from '../constants.js';
import { MilterError } from '../errors.js';
import { actionNames, protocolNames } from '../names.js';
import { STAGE_NAMES, STAGES } from '../stages.js';
import { milterError } from './exit.js';
import { note, ok, problem, warning, type Finding } from './finding.js';
import { Patience } from './patience.js';
import { VERDICTS } from './report.js';
import { milliseconds } from './terminal.js';

/** What a milter has asked for, by name. */
export interface Agreed {
  readonly version: number;
  /** What it may do to messages. */
  readonly actions: readonly string[];
  /** Stages that it does not hear of. */
  readonly notSent: readonly string[];
  /** Stages that it does not answer. */
  readonly notAnswered: readonly string[];
  readonly modes: readonly string[];
  /** The macros it asks for, by stage. */
  readonly macros: Readonly<Record<string, string>>;
}

export interface Examination {
  /** The failure that kept us from a milter. */
  readonly error?: MilterError;
  readonly agreed?: Agreed;
  /** What became of the first message. */
  readonly message?: Pick<MessageResult, 'verdict' | 'stage' | 'reply'> & { readonly edits: readonly string[] };
  /** The longest that each stage took, in ms. */
  readonly latency: Readonly<Record<string, number>>;
  readonly findings: readonly Finding[];
}

export interface Patient {
  readonly address: string;
  readonly options: ClientOptions;
  readonly peer: ClientPeer;
  /** How long it may take for a message, or to be greeted, whatever it says meanwhile, in ms. */
  readonly limit: number;
  /** Only negotiate. */
  readonly quick: boolean;
}

/** Nothing that a milter could mind: the addresses are of domains that are for examples. */
const SENDER = '<milter-stream@example.org>';
const RECIPIENT = '<postmaster@example.com>';
const head = (subject: string): string =>
  `From: ${SENDER}\r\nTo: ${RECIPIENT}\r\nSubject: ${subject}\r\nDate: ${new Date().toUTCString().replace('GMT', '+0000')}\r\n` +
  'Message-ID: <examination@milter-stream.example.org>\r\nMIME-Version: 1.0\r\n';
const PLAIN = `${head('An examination')}\r\nThis message was made to see whether a milter works.\r\n`;
/** Latin-1, which is no UTF-8, in the header as well. */
const EIGHT_BIT = Buffer.from(
  `${head('Caf\xe9')}Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n\r\nCaf\xe9\r\n`,
  'latin1',
);

export async function examine(patient: Patient): Promise<Examination> {
  const latency: Record<string, number> = {};
  const first = new Visit(patient);
  const { client } = first;
  const start = performance.now();
  let standing: string;
  try {
    standing = await first.begin();
  } catch (thrown) {
    const error = milterError(thrown);
    return { error, latency, findings: [whyNoMilter(error)] };
  }
  const spoken = client.steps.reduce((sum, { ms }) => sum + ms, 0);
  const took = milliseconds(performance.now() - start - spoken);
  const reply = client.agreed as NegotiateReply;
  const findings = [
    ok(`it is a milter, and answered the offer within ${took}`),
    ...negotiated(reply, patient.options),
    ...greeted(standing),
  ];
  keep(latency, client.steps);
  const known = { agreed: agreedOf(reply), latency, findings };
  if (patient.quick) {
    await client.quit();
    return known;
  }
  const message = await new Talk(patient, first, findings, latency).run();
  findings.push(...slowness(latency));
  return message === undefined ? known : { ...known, message };
}

/** One connection to the patient. */
class Visit {
  readonly client: MilterClient;
  readonly #peer: ClientPeer;
  readonly #patience: Patience;

  constructor({ address, options, peer, limit }: Patient) {
    this.#peer = peer;
    this.#patience = new Patience(limit, options.signal);
    this.client = new MilterClient(address, { ...options, unagreedEdits: 'apply', signal: this.#patience.signal });
  }

  /** @returns what the milter makes of the SMTP client */
  async begin(): Promise<string> {
    return (await this.make((client) => client.connect(this.#peer))).outcome;
  }

  /** After a failure the connection is closed. @throws MilterError */
  async make<T>(go: (client: MilterClient) => Promise<T>): Promise<T> {
    try {
      return await this.#patience.watch(() => go(this.client));
    } catch (error) {
      await this.client.quit();
      throw error;
    }
  }
}

/** Everything after the negotiation, on one connection as long as that lasts. */
class Talk {
  readonly #patient: Patient;
  readonly #agreed: NegotiateReply;
  readonly #findings: Finding[];
  readonly #latency: Record<string, number>;
  #visit: Visit | undefined;
  /** It has not answered: it is asked nothing more on a new connection, where it would take as long again. */
  #hangs = false;

  constructor(patient: Patient, first: Visit, findings: Finding[], latency: Record<string, number>) {
    this.#patient = patient;
    this.#visit = first;
    this.#agreed = first.client.agreed as NegotiateReply;
    this.#findings = findings;
    this.#latency = latency;
  }

  async run(): Promise<Examination['message']> {
    const result = await this.#attempt('it says what it makes of a message', (client) => this.#send(client, PLAIN));
    if (result !== undefined) this.#findings.push(...judged(result), ...edited(result, this.#agreed));
    await this.#attempt(
      'it takes another message on the same connection, with 8-bit text in header and body',
      (client) => this.#send(client, EIGHT_BIT),
    );
    await this.#attempt('it bears RSET in the middle of a message', async (client) => {
      await client.mailFrom(SENDER);
      await client.abort();
      return this.#send(client, PLAIN);
    });
    const second = await this.#judge('it serves two connections at once', async () => {
      await this.#here();
      const visit = new Visit(this.#patient);
      await visit.begin();
      return visit;
    });
    await this.#judge('it closes the connection after QUIT', async () => {
      const visits = [await this.#here(), ...(second === undefined ? [] : [second])];
      const start = performance.now();
      const closed = await Promise.all(visits.map(({ client }) => client.quit()));
      const ms = performance.now() - start;
      if (closed.includes(false))
        throw new MilterError('ERR_MILTER_TIMEOUT', `It was still open ${milliseconds(ms)} later`);
      keep(this.#latency, [{ stage: 'quit', ms }]);
    });
    if (this.#isLost) this.#findings.push(note('nothing more was asked of it: each answer might take as long'));
    if (result === undefined) return undefined;
    const { verdict, stage, reply, modifications } = result;
    return { verdict, stage, ...(reply && { reply }), edits: modifications.map(({ type }) => type) };
  }

  get #isLost(): boolean {
    return this.#hangs && this.#visit === undefined;
  }

  /** The connection there is; after a failure a new one. */
  async #here(): Promise<Visit> {
    if (this.#visit !== undefined) return this.#visit;
    const visit = new Visit(this.#patient);
    await visit.begin();
    return (this.#visit = visit);
  }

  #attempt<T>(what: string, go: (client: MilterClient) => Promise<T>): Promise<T | undefined> {
    return this.#judge(what, async () => {
      const visit = await this.#here();
      this.#visit = undefined;
      const result = await visit.make(go);
      this.#visit = visit;
      return result;
    });
  }

  /** @returns undefined where the milter has failed */
  async #judge<T>(what: string, go: () => Promise<T>): Promise<T | undefined> {
    if (this.#isLost) return undefined;
    try {
      const result = await go();
      this.#findings.push(ok(what));
      return result;
    } catch (error) {
      const { code, message } = milterError(error);
      this.#hangs ||= code === 'ERR_MILTER_TIMEOUT';
      this.#findings.push(problem(`not so: ${what}. ${message}`));
      return undefined;
    }
  }

  async #send(client: MilterClient, message: string | Buffer): Promise<MessageResult> {
    const result = await client.send({ from: SENDER, to: [RECIPIENT], message });
    keep(this.#latency, result.steps);
    return result;
  }
}

/** Keeps the longest. */
function keep(latency: Record<string, number>, steps: ReadonlyArray<Pick<Step, 'ms'> & { stage: string }>): void {
  for (const { stage, ms } of steps) latency[stage] = Math.max(latency[stage] ?? 0, ms);
}

const WORDS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nothing listens there',
  EACCES: 'we are not allowed to connect to it',
  ENOTFOUND: 'there is no such host',
  EHOSTUNREACH: 'there is no way to that host',
  ENETUNREACH: 'there is no way to that network',
};

/** Why there is no milter to talk to. */
export function whyNoMilter(error: MilterError): Finding {
  const { code, address, port } = (error.cause ?? {}) as { code?: string; address?: string; port?: number };
  if (code === 'ECONNREFUSED' && address !== undefined && port === undefined) {
    return problem(`${error.message}: the socket was left over by a process that has ended`);
  }
  if (code !== undefined)
    return problem(WORDS[code] === undefined ? error.message : `${error.message}: ${WORDS[code]}`);
  // Nobody has refused: what remains of the time that connecting may take is nothing.
  if (error.code === 'ERR_MILTER_CONNECTION' && error.cause !== undefined)
    return problem(`${error.message}: a firewall may drop the packets, or the name server is silent`);
  if (error.stage !== 'negotiate') return problem(error.message);
  const hint =
    error.code === 'ERR_MILTER_TIMEOUT'
      ? '. It takes connections and says nothing: it hangs, or is a server of another kind that waits for its client'
      : error.code === 'ERR_MILTER_CONNECTION'
        ? '. It does not know the protocol, does not want us, or fails: its log may say more'
        : '';
  return problem(`${error.message}${hint}`);
}

const MODES = STAGE_NAMES.reduce((bits, stage) => bits & ~STAGES[stage].no & ~STAGES[stage].nr, -1);

export function agreedOf({ version, actions, protocol, macros = [] }: NegotiateReply): Agreed {
  const asked = macros.map(({ stage, names }): [string, string] => {
    const name = STAGE_NAMES.find((each) => STAGES[each].macros === stage) ?? `stage ${stage}`;
    return [name, names];
  });
  return {
    version,
    actions: actionNames(actions),
    notSent: STAGE_NAMES.filter((stage) => (protocol & STAGES[stage].no) !== 0),
    notAnswered: STAGE_NAMES.filter((stage) => (protocol & STAGES[stage].nr) !== 0),
    modes: protocolNames(protocol & MODES),
    macros: Object.fromEntries(asked),
  };
}

function negotiated(
  { version, protocol }: NegotiateReply,
  { version: offered = c.SMFI_VERSION }: ClientOptions,
): Finding[] {
  const unknown = protocolNames(protocol).filter((name) => name.startsWith('0x'));
  return [
    ...(version < offered ? [note(`it speaks version ${version} of the protocol; ${offered} was offered`)] : []),
    ...(unknown.length > 0 ? [warning(`it sets bits of the protocol that mean nothing: ${unknown.join(', ')}`)] : []),
  ];
}

function greeted(outcome: string): Finding[] {
  if (outcome === 'continue') return [];
  const advice = 'try another SMTP client with --hostname and --address';
  if (outcome === 'accept') return [note(`it wants to hear nothing of this SMTP client (accept): ${advice}`)];
  return [warning(`it refuses this SMTP client (${outcome}): ${advice}`)];
}

function judged({ verdict, stage, reply }: MessageResult): Finding[] {
  if (verdict === 'accept') return [];
  const why = reply === undefined ? '' : `: ${reply.code} ${reply.lines.join(' / ')}`;
  const perhaps = verdict === 'tempFail' ? '; greylisting does that, or something behind it is missing' : '';
  return [warning(`a harmless message was ${VERDICTS[verdict].word} at ${stage}${why}${perhaps}`)];
}

/** Both mail servers make edits that were not agreed on; nobody should count on it. */
function edited({ modifications }: MessageResult, { actions }: NegotiateReply): Finding[] {
  const unagreed = new Set(
    modifications.filter(({ type }) => (actions & ACTION_OF[type]) === 0).map(({ type }) => type),
  );
  return [...unagreed].map((type) =>
    warning(`it sends ${type} without having asked for ${actionNames(ACTION_OF[type]).join()}`),
  );
}

/** How long is remarkable, and what Sendmail waits unless it is told otherwise; Postfix waits 30 s, then 300 s. */
const SLOW = 1_000;
const SENDMAIL_WAITS = 10_000;

export function slowness(latency: Readonly<Record<string, number>>): Finding[] {
  return Object.entries(latency).flatMap(([stage, ms]) => {
    const took = `${stage} took ${milliseconds(ms)}`;
    // Mail servers do not wait for that one.
    if (stage === 'quit') return [];
    if (ms >= SENDMAIL_WAITS && stage !== 'eob')
      return [problem(`${took}: Sendmail waits 10 s unless T= says otherwise`)];
    return ms >= SLOW ? [warning(`${took}: an SMTP client waits as long`)] : [];
  });
}
