/** Places in a conversation where sessions wait on a Mortal milter, and what must become of them when it dies. */
import type { Socket } from 'node:net';
import type { Test } from 'tap';
import type { Command } from '../../lib/index.js';
import { outcome } from './eob.js';
import { message, say, type Mta } from './mta.js';
import { dialled, type Running } from './pooled.js';
import { until } from './until.js';

/** A place in a conversation where a session waits. */
export interface Scene {
  /** What it waits on. */
  readonly stage: string;
  /** The letter of its macros. */
  readonly letter: string;
  /** What comes before, after a message and its ABORT. */
  readonly before: readonly Command[];
  readonly at?: Command;
  /** What follows, and is refused. */
  readonly after: readonly Command[];
  /** What must come before another message can. */
  readonly later: readonly Command[];
}

export const abort = [say.abort()];
const again = [say.quitNewConnection(), say.macros('C', { j: 'mta' }), say.connect()];
const greeted = [say.macros('H', { tls: 'no' }), say.helo()];

/** Between two messages. */
const IDLE: Scene = { stage: 'nothing', letter: '', before: [], after: [], later: [] };

export const SCENES: readonly Scene[] = [
  {
    stage: 'connect',
    letter: 'C',
    before: [say.quitNewConnection()],
    at: say.connect(),
    after: [say.helo(), ...message()],
    later: [...again, ...greeted],
  },
  {
    stage: 'helo',
    letter: 'H',
    before: again,
    at: say.helo(),
    after: message(),
    later: greeted,
  },
  { stage: 'mailFrom', letter: 'M', before: [], at: say.mail(), after: [say.rcpt(), say.data()], later: [] },
  { stage: 'rcpt', letter: 'R', before: [say.mail()], at: say.rcpt(), after: [say.rcpt(), say.data()], later: abort },
  {
    stage: 'rcpt of the second',
    letter: 'R',
    before: [say.mail(), say.rcpt()],
    at: say.rcpt(),
    after: [say.rcpt(), say.eob()],
    later: [],
  },
  ...(['data', 'header', 'eoh', 'body', 'eob'] as const).map((stage, i) => ({
    stage,
    letter: 'TLNBE'[i] as string,
    before: message().slice(0, 2 + i),
    at: message()[2 + i] as Command,
    after: [],
    later: stage === 'eob' ? [] : abort,
  })),
  { stage: 'unknown', letter: 'U', before: [], at: say.unknown(), after: [], later: [] },
  {
    stage: 'unknown in a message',
    letter: 'U',
    before: [say.mail()],
    at: say.unknown(),
    after: [say.unknown(), say.rcpt(), say.data()],
    later: abort,
  },
  IDLE,
  {
    stage: 'nothing in a message',
    letter: '',
    before: [say.mail()],
    after: [say.rcpt(), say.rcpt(), say.eob()],
    later: [],
  },
];

export interface Session {
  readonly scene: Scene;
  readonly mta: Mta;
  readonly where: string;
  readonly socket: Socket;
}

export const HEARD =
  'connect mx.example.org j=mta; helo mx.example.org tls=no; mailFrom <a@example.org>; rcpt <b@example.com>; data; header Subject; eoh; body; eob';

export const SHORT = [say.mail(), say.eob()];

/** Plays a message; gives what the milter says it has heard, and where. */
export async function play(mta: Mta, commands = message()): Promise<{ heard: string; where: string }> {
  for (const command of commands.slice(0, -1)) {
    const { type } = await mta.ask(command);
    if (type !== 'continue') throw new Error(`${command.type} was answered ${type}`);
  }
  mta.send(say.eob());
  const [heard, where, last] = (await outcome(mta)) as Array<{ type: string; value: string }>;
  if (last?.type !== 'continue') throw new Error(`eob was answered ${last?.type}`);
  return { heard: heard!.value, where: where!.value };
}

/** Sends commands, and gives the types of the answers to those that have one. */
export async function answers(mta: Mta, commands: readonly Command[]): Promise<string[]> {
  const types: string[] = [];
  for (const command of commands) {
    mta.send(command);
    if (!['macro', 'abort', 'quitNewConnection'].includes(command.type)) types.push((await mta.reply()).type);
  }
  return types;
}

/** A connection that has had one message. */
export async function meet(t: Test, { factory }: Running, scene: Scene = IDLE): Promise<Session> {
  const { mta, socket } = await dialled(t, factory);
  await mta.negotiate({ protocol: 0x400 });
  await answers(mta, [...again.slice(1), ...greeted]);
  const { where } = await play(mta, SHORT);
  mta.send(say.abort());
  return { scene, mta, where, socket };
}

/** A session for each scene, on one worker and on another. */
export async function company(t: Test, running: Running): Promise<{ doomed: Session[]; others: Session[] }> {
  const first = await meet(t, running, SCENES[0]);
  let second = await meet(t, running, SCENES[0]);
  while (second.where === first.where) {
    // The other worker is still on its way.
    second.mta.end();
    await until('it to leave', () => running.factory.connections === 1);
    second = await meet(t, running, SCENES[0]);
  }
  const sessions = [first, second];
  for (const scene of SCENES.slice(1)) {
    for (let i = 0; i < 2; i++) sessions.push(await meet(t, running, scene));
  }
  const doomed = sessions.filter(({ where }) => where === first.where);
  const others = sessions.filter(({ where }) => where === second.where);
  t.strictSame([doomed.length, others.length], [SCENES.length, SCENES.length], 'both have as many');
  return { doomed, others };
}

/** What a session that waited is answered with, and how it goes on. */
export async function aftermath(t: Test, { scene, mta, where }: Session): Promise<void> {
  t.comment(scene.stage);
  if (scene.at !== undefined) {
    const types = (await outcome(mta)).map(({ type }) => type).filter((type) => type !== 'progress');
    t.strictSame(types, ['tempFail'], `${scene.stage} is refused for now`);
  }
  const refusals = await answers(mta, scene.after);
  t.ok(
    refusals.every((type) => type === 'tempFail'),
    `${scene.stage}: and what follows, ${refusals.join(' ')}`,
  );
  t.ok((await answers(mta, scene.later)).every((type) => type === 'continue'));
  const next = await play(mta);
  t.equal(next.heard, HEARD, `${scene.stage}: the next message has all that it needs`);
  t.not(next.where, where, 'and is served by another worker');
  t.strictSame(mta.replies, [], 'nothing was answered twice');
}

/** Sessions of the other worker: their conversation goes on as if nothing had been. */
export async function undisturbed(t: Test, { scene, mta, where }: Session): Promise<void> {
  if (scene.at !== undefined) {
    mta.send(scene.at);
    t.equal((await outcome(mta)).at(-1)?.type, 'continue', `${scene.stage} elsewhere goes on`);
  }
  mta.send(...abort);
  t.equal((await play(mta, SHORT)).where, where);
}

export const begin = async ({ scene, mta }: Session): Promise<void> => void (await answers(mta, scene.before));
