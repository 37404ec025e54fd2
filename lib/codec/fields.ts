/**
 * The kinds of field that packets are made of, each with its reading and its writing side by side.
 * A field may look at the properties before it: where a packet's layout depends on one of them, that is the reason.
 */
import type { Reader } from './reader.js';
import type { Writer } from './writer.js';

/** One field: `name` is the property's, for errors; `packet` is the object as far as it is known. */
export interface Field<T> {
  read(reader: Reader, name: string, packet: object): T;
  write(writer: Writer, value: T, name: string, packet: object): void;
}

/** A whole number of 32 bits, big-endian. */
export const uint32: Field<number> = {
  read: (reader, name) => reader.uint32(name),
  write: (writer, value, name) => writer.uint32(value, name),
};

/** Text up to a NUL. */
export const cstring: Field<string> = {
  read: (reader, name) => reader.cstring(name),
  write: (writer, value, name) => writer.cstring(value, name),
};

/** Text up to a NUL, and not empty: a header's name. */
export const filledCstring: Field<string> = {
  read(reader, name) {
    const text = reader.cstring(name);
    if (text === '') throw reader.malformed(name, 'is empty');
    return text;
  },
  write(writer, value, name) {
    if (value === '') throw writer.invalid(name, 'must not be empty');
    writer.cstring(value, name);
  },
};

/** Text that may be missing altogether, which is not the same on the wire as empty. */
export const optionalCstring: Field<string | undefined> = {
  read: (reader, name) => (reader.left === 0 ? undefined : reader.cstring(name)),
  write(writer, value, name) {
    if (value !== undefined) writer.cstring(value, name);
  },
};

/** Strings up to the end of the packet. */
export const cstrings: Field<readonly string[]> = {
  read(reader, name) {
    if (reader.left === 0) return none;
    const texts: string[] = [];
    while (reader.left > 0) texts.push(reader.cstring(name));
    return texts;
  },
  write(writer, value, name) {
    if (value === undefined) return;
    if (!Array.isArray(value)) throw writer.invalid(name, 'must be an array of strings');
    for (const text of value) writer.cstring(text, name);
  },
};

const none: readonly string[] = Object.freeze([]);

/** All the bytes up to the end of the packet. */
export const rest: Field<Buffer> = {
  read: (reader) => reader.rest(),
  write: (writer, value, name) => writer.bytes(value, name),
};

/** Bytes up to the end of the packet: none are read but not written. libmilter ends the session at an empty body packet. */
export const filledRest: Field<Buffer> = {
  read: (reader) => reader.rest(),
  write(writer, value, name) {
    writer.bytes(value, name);
    if (value.length === 0) throw writer.invalid(name, 'must not be empty');
  },
};

/** Bytes up to the end of the packet, where usually there are none. */
export const optionalRest: Field<Buffer | undefined> = {
  read: (reader) => (reader.left === 0 ? undefined : reader.rest()),
  write(writer, value, name) {
    if (value !== undefined) writer.bytes(value, name);
  },
};

/** One byte as the character it is in Latin-1. */
export const letter: Field<string> = {
  read: (reader, name) => String.fromCharCode(reader.uint8(name)),
  write(writer, value, name) {
    const code = typeof value === 'string' && value.length === 1 ? value.charCodeAt(0) : -1;
    if (code < 0 || code > 0xff) throw writer.invalid(name, 'must be one character of one byte');
    writer.uint8(code);
  },
};

/** After the families with an address port and address follow, after U (and what nobody knows) nothing that counts. */
const hasAddress = (packet: object): boolean => '46L'.includes((packet as { family: string }).family);

/** The port of CONNECT: 16 bits, big-endian. */
export const peerPort: Field<number> = {
  read: (reader, name, packet) => (hasAddress(packet) ? reader.uint16(name) : 0),
  write(writer, value, name, packet) {
    if (hasAddress(packet)) writer.uint16(value, name);
  },
};

/** The address of CONNECT. Some clients send one after U as well: it is read over. */
export const peerAddress: Field<string> = {
  read(reader, name, packet) {
    if (hasAddress(packet)) return reader.cstring(name);
    reader.rest();
    return '';
  },
  write(writer, value, name, packet) {
    if (hasAddress(packet)) writer.cstring(value, name);
  },
};

/** A macro's name and its value. */
export type MacroPair = readonly [name: string, value: string];

/** Names and values in turn. A last name without a value has an empty one. */
export const macroPairs: Field<readonly MacroPair[]> = {
  read(reader) {
    const pairs: MacroPair[] = [];
    while (reader.left > 0) {
      const name = reader.cstring('macro name');
      pairs.push([name, reader.left > 0 ? reader.cstring('macro value') : '']);
    }
    return pairs;
  },
  write(writer, value, name) {
    if (!Array.isArray(value) || value.some((pair) => !Array.isArray(pair))) {
      throw writer.invalid(name, 'must be an array of [name, value] pairs');
    }
    for (const [macro, text] of value as readonly MacroPair[]) {
      writer.cstring(macro, 'macro name');
      writer.cstring(text, 'macro value');
    }
  },
};

/** The macros a milter asks for at one stage: a SMFIM_ number, and names separated by spaces. */
export interface SymbolList {
  readonly stage: number;
  readonly names: string;
}

/** The lists behind the three numbers of a negotiation reply. */
export const symbolLists: Field<readonly SymbolList[] | undefined> = {
  read(reader) {
    if (reader.left === 0) return undefined;
    const lists: SymbolList[] = [];
    while (reader.left > 0) lists.push({ stage: reader.uint32('macro stage'), names: reader.cstring('macro list') });
    return lists;
  },
  write(writer, value, name) {
    if (value === undefined) return;
    if (!Array.isArray(value)) throw writer.invalid(name, 'must be an array of { stage, names }');
    for (const list of value as ReadonlyArray<SymbolList | null>) {
      writer.uint32(list?.stage as number, 'macro stage');
      writer.cstring(list?.names as string, 'macro list');
    }
  },
};
