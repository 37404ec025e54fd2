// The least that Node can do in between: `node pipe.mjs ADDRESS UPSTREAM`, both unix:/path. Joins two sockets and looks at
// nothing. Prints where it listens, and ends when its standard input does.
import { connect, createServer } from 'node:net';

const [address, upstream] = process.argv.slice(2);
const path = (socket) => socket.slice('unix:'.length);

const server = createServer({ noDelay: true }, (mta) => {
  const milter = connect(path(upstream));
  for (const [one, other] of [
    [mta, milter],
    [milter, mta],
  ]) {
    one.pipe(other);
    one.on('error', () => other.destroy());
  }
});

server.listen(path(address), () => console.log(address));
process.stdin.resume().on('end', () => process.exit());
