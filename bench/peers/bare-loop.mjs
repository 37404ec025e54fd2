// The limit of what Node can do with public means: `node bare-loop.mjs VARIANT ADDRESS`, with VARIANT full, noreply or
// addheader and ADDRESS unix:/path or inet:PORT@127.0.0.1. Hops from frame to frame in 'data' events and answers with bytes
// that are always the same: no object per packet, no text, no macros, no session. Prints where it listens, and ends when its
// standard input does.
import { createServer } from 'node:net';

const [variant, address] = process.argv.slice(2);
const noReply = variant === 'noreply';
const addsHeader = variant === 'addheader';

/** A frame: the length of what follows, the code, the payload. */
function frame(code, payload = Buffer.alloc(0)) {
  const head = Buffer.alloc(5, code);
  head.writeUInt32BE(1 + payload.length);
  return Buffer.concat([head, payload]);
}

const SMFIF_ADDHDRS = 0x1;
const SMFIP_NR = 0x80 | 0x40000 | 0x80000; // headers, their end, the body

const agreed = Buffer.alloc(12);
agreed.writeUInt32BE(6, 0);
agreed.writeUInt32BE(addsHeader ? SMFIF_ADDHDRS : 0, 4);
agreed.writeUInt32BE(noReply ? SMFIP_NR : 0, 8);

const goOn = frame('c');
/** By code; what is not in there is not answered. */
const ANSWERS = [];
for (const command of noReply ? 'CHMRTU' : 'CHMRTLNBU') ANSWERS[command.charCodeAt(0)] = goOn;
ANSWERS['O'.charCodeAt(0)] = frame('O', agreed);
ANSWERS['E'.charCodeAt(0)] = addsHeader ? Buffer.concat([frame('h', Buffer.from('X-Bench\0seen\0')), goOn]) : goOn;

const server = createServer({ noDelay: true }, (socket) => {
  /** The first bytes of a frame, when they are too few to tell what it is. */
  let torn;
  /** Where the next frame begins, counted from the first byte of the next chunk. */
  let at = 0;
  /** The answer to the frame that ends there. */
  let answer;
  socket.on('data', (chunk) => {
    const bytes = torn === undefined ? chunk : Buffer.concat([torn, chunk]);
    torn = undefined;
    while (at <= bytes.length) {
      if (answer !== undefined) socket.write(answer);
      answer = undefined;
      if (at + 5 > bytes.length) {
        torn = at < bytes.length ? bytes.subarray(at) : undefined;
        at = 0;
        return;
      }
      answer = ANSWERS[bytes[at + 4]];
      at += 4 + bytes.readUInt32BE(at);
    }
    at -= bytes.length;
  });
  socket.on('error', () => socket.destroy());
});

const where = address.slice(address.indexOf(':') + 1);
const place = address.startsWith('unix:') ? where : { port: Number.parseInt(where), host: '127.0.0.1' };
server.listen(place, () => console.log(address));
process.stdin.resume().on('end', () => process.exit());
