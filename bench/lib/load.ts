/** The mail server of the benches: sends the same message again and again, each command answered before the next. */
import { connect, type Socket } from 'node:net';
import { encodeCommand, Framer, type Command } from 'milter-stream/codec';
import { parseAddress } from 'milter-stream';

/** What a message is made of. */
export interface Traffic {
  readonly headers: number;
  readonly recipients: number;
  readonly bodyBytes: number;
}

export interface Load {
  readonly messages: number;
  readonly seconds: number;
  /** How long each message took, in ms. */
  readonly latencies: number[];
}

const OFFER: Command = { type: 'negotiate', version: 6, actions: 0x1ff, protocol: 0x1fffff };

/** What is sent, in steps: each is answered once. */
function steps({ headers, recipients, bodyBytes }: Traffic): Buffer[] {
  const macros: Command = { type: 'macro', stage: 'M', macros: [['i', '4cXyZ1AbCdEf']] };
  const list: Command[][] = [[macros, { type: 'mailFrom', address: '<alice@example.org>', args: ['SIZE=2048'] }]];
  for (let i = 0; i < recipients; i++) list.push([{ type: 'rcpt', address: `<bob${i}@example.com>`, args: [] }]);
  list.push([{ type: 'data' }]);
  for (let i = 0; i < headers; i++) {
    list.push([{ type: 'header', name: `X-Header-${i}`, value: 'from mx.example.org by mail.example.com; x 12' }]);
  }
  list.push([{ type: 'eoh' }]);
  for (let left = bodyBytes; left > 0; left -= 65_535) {
    list.push([{ type: 'body', chunk: Buffer.alloc(Math.min(left, 65_535), 'milter-stream\r\n') }]);
  }
  list.push([{ type: 'eob' }]);
  return list.map((commands) => Buffer.concat(commands.map((command) => encodeCommand(command))));
}

/** One connection: messages one after the other until `over()`. */
class Client {
  readonly latencies: number[] = [];
  readonly done: Promise<void>;
  readonly #socket: Socket;
  readonly #steps: readonly Buffer[];
  readonly #over: () => boolean;
  readonly #framer = new Framer();
  #opening: Buffer[];
  #step = 0;
  #since = 0;

  constructor(address: string, message: readonly Buffer[], over: () => boolean) {
    const place = parseAddress(address, 'connect');
    this.#steps = message;
    this.#over = over;
    this.#opening = [
      encodeCommand(OFFER),
      encodeCommand({ type: 'connect', hostname: 'mx', family: '4', port: 25, address: '192.0.2.1' }),
      encodeCommand({ type: 'helo', name: 'mx.example.org' }),
    ];
    this.#socket = place.kind === 'unix' ? connect(place.path) : connect(place.port, place.host);
    this.#socket.setNoDelay(true);
    this.#socket.on('data', (chunk) => this.#framer.push(chunk, this));
    this.done = new Promise((resolve, reject) => {
      this.#socket.on('error', reject);
      this.#socket.on('close', () => resolve());
    });
    this.#next();
  }

  /** A reply has come. */
  frame(): void {
    this.#next();
  }

  #next(): void {
    const opening = this.#opening.shift();
    if (opening !== undefined) {
      this.#socket.write(opening);
      return;
    }
    const now = performance.now();
    if (this.#step === this.#steps.length) {
      this.latencies.push(now - this.#since);
      this.#step = 0;
    }
    if (this.#step === 0) {
      this.#since = now;
      if (this.#over()) {
        this.#socket.end(encodeCommand({ type: 'quit' }));
        return;
      }
    }
    this.#socket.write(this.#steps[this.#step++] as Buffer);
  }
}

/** Sends messages over some connections for some time. */
export async function load(address: string, traffic: Traffic, connections: number, seconds: number): Promise<Load> {
  const message = steps(traffic);
  const start = performance.now();
  const over = (): boolean => performance.now() - start > seconds * 1000;
  const clients = Array.from({ length: connections }, () => new Client(address, message, over));
  await Promise.all(clients.map((client) => client.done));
  const latencies = clients.flatMap((client) => client.latencies).sort((a, b) => a - b);
  return { messages: latencies.length, seconds: (performance.now() - start) / 1000, latencies };
}
