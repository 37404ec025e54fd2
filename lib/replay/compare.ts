/** Whether two answers are the same, as far as it can be asked. */
import { encodeReply } from '../codec/index.js';
import type { OddPacket } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';

/** Larger than anything that was read. */
const ANY_SIZE = 0x3fff_ffff;

type HeaderEdit = Extract<Reply, { name: string }>;

/** What is not compared. */
export interface Leniency {
  readonly ignore: ReadonlySet<string>;
  /** Names of headers, in small letters. */
  readonly headers: ReadonlySet<string>;
}

/** @param leniency what is left out */
export function sameReplies(
  was: ReadonlyArray<Reply | OddPacket>,
  now: ReadonlyArray<Reply | OddPacket>,
  leniency: Leniency,
): boolean {
  return essence(was, leniency).equals(essence(now, leniency));
}

/** The bytes that count. */
function essence(replies: ReadonlyArray<Reply | OddPacket>, { ignore, headers }: Leniency): Buffer {
  const parts: Buffer[] = [];
  const body: Buffer[] = [];
  for (const reply of replies) {
    if (ignore.has(reply.type)) continue;
    if (reply.type === 'replBody') body.push(reply.chunk);
    else parts.push(bytesOf(reply, headers));
  }
  // A new body counts as a whole, in however many pieces it comes, and wherever it stands among the edits.
  const whole = Buffer.concat(body);
  return Buffer.concat([...(body.length > 0 ? [Buffer.from(`body ${whole.length} `), whole] : []), ...parts]);
}

function bytesOf(reply: Reply | OddPacket, headers: ReadonlySet<string>): Buffer {
  const changed = 'name' in reply ? valueless(reply, headers) : reply;
  return changed === reply && reply.raw !== undefined ? reply.raw : encodeReply(changed as Reply, ANY_SIZE);
}

/** That a header is removed is no value. */
function valueless(reply: HeaderEdit, headers: ReadonlySet<string>): HeaderEdit {
  return reply.value !== '' && headers.has(reply.name.toLowerCase()) ? { ...reply, value: 'x' } : reply;
}
