/**
 * One row for each command that is answered: the letter its macros come under, the number by which they are asked for,
 * the bit that keeps the command away, the bit that leaves it unanswered, and its place in a message. The session calls
 * the callback of the row's name, the client sends the command.
 */
import * as c from './constants.js';
import type { Command } from './codec/commands.js';

/** The commands that are answered; each is the name of a callback. */
export type Stage = 'connect' | 'helo' | 'mailFrom' | 'rcpt' | 'data' | 'header' | 'eoh' | 'body' | 'eob' | 'unknown';

/** The command of a stage. */
export type StageCommand = Extract<Command, { type: Stage }>;

export interface StageRow {
  /** The letter of the command, as macro packets name it. */
  readonly letter: string;
  /** SMFIP_NO…: the command is not sent. 0: it always is. */
  readonly no: number;
  /** SMFIP_NR_…: the command is not answered. 0: it always is. */
  readonly nr: number;
  /** SMFIM_: the number of its macros in a symbol list; missing where none can be asked for. */
  readonly macros?: number;
  /** The order of commands in a message; 0 for those that stand outside. */
  readonly rank: number;
}

export const STAGES: Readonly<Record<Stage, StageRow>> = {
  connect: { letter: 'C', macros: c.SMFIM_CONNECT, no: c.SMFIP_NOCONNECT, nr: c.SMFIP_NR_CONN, rank: 0 },
  helo: { letter: 'H', macros: c.SMFIM_HELO, no: c.SMFIP_NOHELO, nr: c.SMFIP_NR_HELO, rank: 0 },
  mailFrom: { letter: 'M', macros: c.SMFIM_ENVFROM, no: c.SMFIP_NOMAIL, nr: c.SMFIP_NR_MAIL, rank: 1 },
  rcpt: { letter: 'R', macros: c.SMFIM_ENVRCPT, no: c.SMFIP_NORCPT, nr: c.SMFIP_NR_RCPT, rank: 2 },
  data: { letter: 'T', macros: c.SMFIM_DATA, no: c.SMFIP_NODATA, nr: c.SMFIP_NR_DATA, rank: 3 },
  header: { letter: 'L', no: c.SMFIP_NOHDRS, nr: c.SMFIP_NR_HDR, rank: 4 },
  eoh: { letter: 'N', macros: c.SMFIM_EOH, no: c.SMFIP_NOEOH, nr: c.SMFIP_NR_EOH, rank: 5 },
  body: { letter: 'B', no: c.SMFIP_NOBODY, nr: c.SMFIP_NR_BODY, rank: 6 },
  eob: { letter: 'E', macros: c.SMFIM_EOM, no: 0, nr: 0, rank: 7 },
  unknown: { letter: 'U', no: c.SMFIP_NOUNKNOWN, nr: c.SMFIP_NR_UNKN, rank: 0 },
};

/** All stages, in the order of a conversation. */
export const STAGE_NAMES = Object.keys(STAGES) as readonly Stage[];

/** Whether it is the name of a command that is answered. */
export function isStage(type: string | undefined): type is Stage {
  return type !== undefined && Object.hasOwn(STAGES, type);
}

/** The stage whose macros come under a letter; undefined for ABORT's and letters that nobody knows. */
export function stageOfLetter(letter: string): Stage | undefined {
  return byLetter.get(letter);
}

const byLetter = new Map(STAGE_NAMES.map((stage) => [STAGES[stage].letter, stage]));
