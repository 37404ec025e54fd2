/** Packets of two other protocols, as long as the milter packets that their libraries are measured beside. */
import mqtt from 'mqtt-packet';
import { Parser as PgParser } from 'pg-protocol/dist/parser.js';
import type { Line } from './measure.js';
import { BODIES, BODIES_TOTAL, cut, HEADERS, HEADERS_TOTAL, label, repeated, VALUE, type Packets } from './packets.js';
import { throughput } from './throughput.js';

const CHUNK = 65_536;

/** A row of two columns, 'D' in PostgreSQL's protocol, about as long as the header packet. */
function pgRow(): Buffer {
  const columns = ['Received', VALUE].flatMap((text) => {
    const length = Buffer.alloc(4);
    length.writeInt32BE(text.length);
    return [length, Buffer.from(text)];
  });
  const body = Buffer.concat([Buffer.from([0, 2]), ...columns]);
  const head = Buffer.alloc(5, 'D');
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}

/** CopyData, 'd' in PostgreSQL's protocol: bytes and nothing else. */
function pgCopyData(bytes: number): Buffer {
  const packet = Buffer.alloc(5 + bytes, 'd');
  packet.writeInt32BE(bytes + 4, 1);
  return packet;
}

function publish(payload: Buffer | string): Buffer {
  return mqtt.generate({ cmd: 'publish', topic: 'Received', payload, qos: 0, dup: false, retain: false });
}

function pgLine({ name, bytes, amount }: Packets, got: () => void): Line {
  const chunks = cut(bytes, CHUNK);
  return throughput(label(name, CHUNK), 'pg-protocol, decode', () => {
    const parser = new PgParser();
    for (const chunk of chunks) parser.parse(chunk, got);
    return amount;
  });
}

function mqttLine({ name, bytes, amount }: Packets, got: () => void): Line {
  const chunks = cut(bytes, CHUNK);
  return throughput(label(name, CHUNK), 'mqtt-packet, decode', () => {
    const parser = mqtt.parser();
    parser.on('packet', got);
    for (const chunk of chunks) parser.parse(chunk);
    return amount;
  });
}

/** @param got called with each packet */
export function otherLines(got: () => void): Line[] {
  return [
    pgLine(repeated(HEADERS, pgRow(), HEADERS_TOTAL), got),
    mqttLine(repeated(HEADERS, publish(VALUE), HEADERS_TOTAL), got),
    pgLine(repeated(BODIES, pgCopyData(65_535), BODIES_TOTAL), got),
    mqttLine(repeated(BODIES, publish(Buffer.alloc(65_535)), BODIES_TOTAL), got),
  ];
}
