/** A proxy in memory: a mail server's end in front, a milter of a script behind, and every byte that either has said. */
import type { Duplex } from 'node:stream';
import type { MilterError } from '../../lib/errors.js';
import {
  createProxy,
  type CaptureEvent,
  type Proxy,
  type ProxyHooks,
  type ProxyOptions,
} from '../../lib/proxy/index.js';
import { fakeMilter, type FakeMilter, type Script } from './fake-milter.js';
import { Mta } from './mta.js';
import { connectedPair } from './pair.js';

export interface Proxied {
  readonly proxy: Proxy;
  readonly mta: Mta;
  /** The mail server's own end. */
  readonly stream: Duplex;
  readonly milter: FakeMilter;
  readonly events: CaptureEvent[];
  readonly errors: MilterError[];
}

export function proxied(script: Script = {}, hooks?: ProxyHooks, options: ProxyOptions = {}): Proxied {
  const milter = fakeMilter(script);
  return Object.defineProperties(
    { milter },
    Object.getOwnPropertyDescriptors(inFrontOf(() => milter.stream, hooks, options)),
  ) as Proxied;
}

/** A proxy in front of whatever a function gives for each connection. */
export function inFrontOf(
  upstream: Parameters<typeof createProxy>[0],
  hooks?: ProxyHooks,
  options: ProxyOptions = {},
): Omit<Proxied, 'milter'> {
  const proxy = createProxy(upstream, hooks, options);
  const events: CaptureEvent[] = [];
  const errors: MilterError[] = [];
  proxy.on('event', (event) => events.push(event));
  proxy.on('sessionError', (error) => errors.push(error));
  const [stream, end] = connectedPair();
  proxy.handle(end);
  let mta: Mta | undefined;
  return {
    proxy,
    get mta() {
      return (mta ??= new Mta(stream, true)); // it reads the stream, which some tests want to do themselves
    },
    stream,
    events,
    errors,
  };
}
