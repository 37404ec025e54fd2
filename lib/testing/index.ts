/**
 * `milter-stream/testing`: plays messages through a milter in this process, in any test runner.
 *
 *   const result = await testMilter(MyMilter, await readFile('spam.eml'), { to: ['b@example.com'] });
 *   assert.equal(result.verdict, 'reject');
 */
import { checkClientOptions } from '../client/options.js';
import type { MessageResult, MessageSource } from '../client/types.js';
import type { MilterError } from '../errors.js';
import { setUp, tearDown } from '../factories/runtime.js';
import { createSession } from '../session/duplex.js';
import { MilterClass } from '../session/milter-class.js';
import { checkOptions } from '../session/options.js';
import type { ProtocolClass } from '../session/protocol.js';
import { apart, type TestMessageOptions, type TestOptions } from './options.js';
import { TestSession } from './test-session.js';
import { Witness, type LogLine } from './witness.js';

export { MilterError, type MilterErrorCode } from '../errors.js';
export type { TestMessageOptions, TestOptions } from './options.js';
export type { LogLine } from './witness.js';
export type { TestSession } from './test-session.js';

/** What became of a message, and what only the inside of the milter knows. */
export interface TestResult extends MessageResult {
  /** What callbacks have failed with. */
  readonly sessionErrors: readonly MilterError[];
  /** What the milter's session has logged: warnings, and with `logMessages` a line for the message. */
  readonly logs: readonly LogLine[];
}

/**
 * Plays one message through a milter as a mail server would, without a socket, from `static setup()` and CONNECT to
 * close() and `static teardown()`.
 * @param MyMilter a class that extends MilterProtocol
 * @param message as a file has it: text, bytes, or a stream of either
 * @param options `from`, `to`, `peer`, `macros`, `like`, … and the milter's own: `context`, `smfifOptions`, …
 * @returns verdict, the resulting message and envelope, and every step of the conversation
 * @throws what a callback has failed with: a MilterError whose `cause` is what it threw, unless `throwErrors` is false or
 *   an `errorPolicy` is given; MilterError ERR_MILTER_OPTION, ERR_MILTER_ARGUMENT, …
 */
export async function testMilter<Context, Shared>(
  MyMilter: ProtocolClass<Context, Shared>,
  message: MessageSource,
  options: TestMessageOptions<Context> = {},
): Promise<TestResult> {
  const { from = 'sender@example.org', to = ['recipient@example.com'], refused, fromArgs, toArgs, ...others } = options;
  const extras = { ...(refused && { refused }), ...(fromArgs && { fromArgs }), ...(toArgs && { toArgs }) };
  const session = await testSession(MyMilter, others);
  let result: MessageResult;
  try {
    result = await session.send({ from, to, message, ...extras });
  } catch (error) {
    await session.close().catch(() => {}); // what came first tells more
    throw error;
  }
  await session.close();
  const { sessionErrors, logs } = session;
  return Object.assign(result, { sessionErrors, logs });
}

/**
 * A mail server's side that is connected to a milter in this process: for several messages, or one command at a time.
 * Close it when done, or say `await using`.
 * @throws as testMilter()
 */
export async function testSession<Context, Shared>(
  MyMilter: ProtocolClass<Context, Shared>,
  options: TestOptions<Context> = {},
): Promise<TestSession> {
  const { session, client, peer, throwErrors } = apart(options);
  // Whatever is wrong with them must be known before setup() begins.
  const { Milter, options: checked } = new MilterClass(MyMilter, checkOptions(session));
  checkClientOptions(client, 'throw');
  const shared = (await setUp(Milter, checked.context)) as Shared;
  const witness = new Witness();
  const stream = createSession(MyMilter, { ...session, shared, log: witness.logger(session.log) });
  stream.on('sessionError', witness.saw);
  const release = (): Promise<void> => tearDown(Milter, shared, witness.saw);
  const connected = new TestSession({ stream, client, witness, throwErrors, release });
  try {
    await connected.connect(peer);
    return connected;
  } catch (error) {
    await connected.close().catch(() => {});
    throw error;
  }
}
