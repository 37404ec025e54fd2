/** Who is connected with whom, for the record. */
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Endpoint, OpenEvent } from '../capture/types.js';

/** Of a TCP connection; '' for what is none: the path of a Unix socket is not known from an accepted one. */
function endpointOf(stream: Duplex | undefined): Endpoint | undefined {
  if (!(stream instanceof Socket)) return undefined;
  return { address: stream.remoteAddress ?? '', port: stream.remotePort ?? 0 };
}

export function endpointsOf(mtaStream: Duplex, milterStream: Duplex | undefined): Pick<OpenEvent, 'mta' | 'milter'> {
  const [mta, milter] = [endpointOf(mtaStream), endpointOf(milterStream)];
  return { ...(mta && { mta }), ...(milter && { milter }) };
}
