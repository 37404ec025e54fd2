// A transparent proxy in a process of its own: `node proxy.mjs ADDRESS UPSTREAM`. Prints where it listens, and ends when its
// standard input does.
import { formatAddress } from 'milter-stream';
import { createProxy } from 'milter-stream/proxy';

const [address, upstream] = process.argv.slice(2);
const proxy = createProxy(upstream);
console.log(formatAddress(await proxy.listen(address)));
process.stdin.resume().on('end', () => process.exit());
