/**
 * A row says how one packet looks: its code, and its fields in the order of the wire. The same row reads and writes, so
 * the two cannot drift apart, and the compiler holds each row against the packet's interface.
 */
import { MilterError, show } from '../errors.js';
import type { Field } from './fields.js';
import { Reader } from './reader.js';
import { Writer } from './writer.js';

/** What every packet object has. */
export interface PacketBase {
  readonly type: string;
  /** All bytes of a decoded packet, length included; made when asked for, and not enumerable. Encoders ignore it. */
  readonly raw?: Buffer;
}

type FieldsOf<P> = { readonly [K in Exclude<keyof P, 'type' | 'raw'>]-?: Field<P[K]> };

/** How one packet looks on the wire. */
export interface Row<P> {
  readonly code: number;
  readonly fields: FieldsOf<P>;
  /** What follows the fields is read over rather than refused: always, or by a lenient reader. */
  readonly openEnded?: 'always' | 'lenient';
}

/** A row for every member of a union of packets. */
export type Table<U extends PacketBase> = { readonly [T in U['type']]: Row<Extract<U, { type: T }>> };

interface AnyRow {
  readonly type: string;
  readonly code: number;
  readonly names: readonly string[];
  readonly fields: ReadonlyArray<Field<unknown>>;
  readonly openEnded: 'always' | 'lenient' | undefined;
}

/** A decoded packet: its fields are its own properties, its bytes are remembered, unless they pass, but not shown. */
class Packet {
  readonly type: string;
  readonly #buffer: Buffer | undefined;
  readonly #start: number;
  readonly #end: number;

  constructor(type: string, buffer: Buffer | undefined, start: number, end: number) {
    this.type = type;
    this.#buffer = buffer;
    this.#start = start;
    this.#end = end;
  }

  get raw(): Buffer | undefined {
    return this.#buffer?.subarray(this.#start, this.#end);
  }
}

/** Reads and writes the packets of one direction. */
export class Codec<U extends PacketBase> {
  readonly #byCode: Array<AnyRow | undefined> = [];
  readonly #byType = new Map<string, AnyRow>();
  readonly #reader = new Reader();
  readonly #writer = new Writer();

  constructor(table: Table<U>) {
    for (const [type, row] of Object.entries<Row<PacketBase>>(table)) {
      const names = Object.keys(row.fields);
      const any: AnyRow = {
        type,
        code: row.code,
        names,
        fields: names.map((name) => (row.fields as unknown as Record<string, Field<unknown>>)[name] as Field<unknown>),
        openEnded: row.openEnded,
      };
      this.#byCode[row.code] = any;
      this.#byType.set(type, any);
    }
  }

  /** The packet's name for a code; undefined for a code that this direction does not have. */
  typeOf(code: number): string | undefined {
    return this.#byCode[code]?.type;
  }

  /**
   * Reads a whole frame, of which the buffer holds the bytes from `start` (the length) to `end`.
   * @param lenient whether a payload is read over that should not be there and does no harm
   * @param passing whether the buffer is used again, so that the packet must not hold on to it
   * @throws MilterError ERR_MILTER_UNKNOWN_CODE, ERR_MILTER_MALFORMED
   */
  read(buffer: Buffer, start: number, end: number, lenient = false, passing = false): U {
    const row = this.#byCode[buffer[start + 4] as number];
    if (row === undefined) throw unknownCode(buffer, start, end);
    const made = new Packet(row.type, passing ? undefined : buffer, start, end);
    const packet = made as unknown as Record<string, unknown>;
    if (row.fields.length === 0 && end - start === 5) return packet as unknown as U;
    const reader = this.#reader;
    reader.open(buffer, start + 5, end, row.type, passing);
    try {
      for (let i = 0; i < row.fields.length; i++) {
        const name = row.names[i] as string;
        const value = (row.fields[i] as Field<unknown>).read(reader, name, packet);
        if (value !== undefined) packet[name] = value;
      }
      const readOver = row.openEnded === 'always' || (lenient && row.openEnded === 'lenient');
      if (reader.left > 0 && !readOver) throw reader.malformed('the end', `has ${reader.left} bytes too many`);
      return packet as unknown as U;
    } finally {
      reader.close();
    }
  }

  /**
   * The bytes of a packet, length included.
   * @throws MilterError ERR_MILTER_VALUE, ERR_MILTER_TEXT, ERR_MILTER_PACKET_TOO_LARGE
   */
  write(packet: U, maxPayload: number): Buffer {
    const row = this.#byType.get(packet?.type);
    if (row === undefined) {
      throw new MilterError('ERR_MILTER_VALUE', `There is no packet of type ${show(packet?.type)} in this direction`);
    }
    const writer = this.#writer;
    writer.open(row.code, row.type, maxPayload);
    const values = packet as unknown as Readonly<Record<string, unknown>>;
    for (let i = 0; i < row.fields.length; i++) {
      const name = row.names[i] as string;
      (row.fields[i] as Field<unknown>).write(writer, values[name], name, packet);
    }
    return writer.close();
  }
}

function unknownCode(buffer: Buffer, start: number, end: number): MilterError {
  const code = buffer[start + 4] as number;
  const shown = code > 0x20 && code < 0x7f ? `'${String.fromCharCode(code)}' ` : '';
  const bytes = Buffer.from(buffer.subarray(start, Math.min(end, start + 32)));
  return new MilterError(
    'ERR_MILTER_UNKNOWN_CODE',
    `No packet of this direction has the code ${shown}(0x${code.toString(16).padStart(2, '0')})`,
    { packet: String.fromCharCode(code), bytes },
  );
}
