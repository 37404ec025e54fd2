/** The message of the benches: what a mail server says about it, and what a milter that looks at all of it has seen. */
import type { Command } from 'milter-stream/codec';

/** What a message is made of. */
export interface Message {
  readonly headers: number;
  readonly recipients: number;
  readonly bodyBytes: number;
}

/** The one that is meant where nothing else is said. */
export const USUAL: Message = { headers: 20, recipients: 2, bodyBytes: 2_048 };

/** What the sums of counter.mjs must come to. */
export interface Sums {
  readonly opening: number;
  readonly message: number;
}

/** The most that one packet takes. */
const LARGEST = 65_535;
const QUEUE_ID = '4cXyZ1AbCdEf';

/** How a connection begins. */
export const OPENING: readonly Command[] = [
  { type: 'connect', hostname: 'mx.example.org', family: '4', port: 25, address: '192.0.2.1' },
  { type: 'helo', name: 'mx.example.org' },
];

/** All that is said about a message. */
export function commands({ headers, recipients, bodyBytes }: Message): readonly Command[] {
  const list: Command[] = [
    { type: 'macro', stage: 'M', macros: [['i', QUEUE_ID]] },
    { type: 'mailFrom', address: '<alice@example.org>', args: ['SIZE=2048'] },
  ];
  for (let i = 0; i < recipients; i++) list.push({ type: 'rcpt', address: `<bob${i}@example.com>`, args: [] });
  list.push({ type: 'data' });
  for (let i = 0; i < headers; i++) {
    list.push({ type: 'header', name: `X-Header-${i}`, value: 'from mx.example.org by mail.example.com; x 12' });
  }
  list.push({ type: 'eoh' });
  for (let left = bodyBytes; left > 0; left -= LARGEST) {
    list.push({ type: 'body', chunk: Buffer.alloc(Math.min(left, LARGEST), 'milter-stream\r\n') });
  }
  list.push({ type: 'eob' });
  return list;
}

/** The lengths of all texts and bytes in a command. */
function lengths({ type, ...fields }: Command): number {
  if (type === 'macro') return 0;
  let sum = 0;
  for (const field of Object.values(fields).flat() as unknown[]) {
    if (typeof field === 'string' || Buffer.isBuffer(field)) sum += field.length;
  }
  return sum;
}

/** What a milter has seen that adds up what each callback gets, and the queue id once in each. */
export function expectedSums(message: Message): Sums {
  const total = (list: readonly Command[]): number => list.reduce((sum, command) => sum + lengths(command), 0);
  const said = commands(message);
  const callbacks = said.filter(({ type }) => type !== 'macro').length;
  return { opening: total(OPENING), message: total(said) + callbacks * QUEUE_ID.length };
}
