/** What a session's port writes with: replies become bytes, and all that are due go out in one write. */
import { replyCodec, type Reply } from '../codec/replies.js';
import { MILTER_MDS_64K } from '../constants.js';

/** Replies that are always the same bytes, made once. */
const CONSTANT = new Map<Reply['type'], Buffer>(
  (['continue', 'accept', 'reject', 'tempFail', 'discard', 'skip', 'progress'] as const).map((type) => [
    type,
    Buffer.from(replyCodec.write({ type }, 0)),
  ]),
);

/** Above this size bytes are not copied together but written one after the other. */
const JOINED = 64 * 1024;

export class Output {
  /** Largest payload that may be written, in bytes. */
  maxPayload = MILTER_MDS_64K;

  #due: Buffer[] = [];
  #bytes = 0;

  reply(reply: Reply): void {
    const bytes = CONSTANT.get(reply.type) ?? replyCodec.write(reply, this.maxPayload);
    this.#due.push(bytes);
    this.#bytes += bytes.length;
  }

  /** Hands everything that is due to `write`, in one piece unless that is large; returns what `write` last returned. */
  flush(write: (bytes: Buffer) => boolean): boolean {
    const due = this.#due;
    if (due.length === 0) return true;
    const together = this.#bytes <= JOINED;
    this.#bytes = 0;
    if (due.length === 1) return write(due.pop() as Buffer); // as nearly always: the list stays
    this.#due = [];
    if (together) return write(Buffer.concat(due));
    let more = true;
    for (const bytes of due) more = write(bytes);
    return more;
  }
}
