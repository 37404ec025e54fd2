/** `milter-stream/proxy`: between a mail server and a milter. */
export { createProxy, Proxy, type ProxyListenOptions, type Upstream } from './proxy.js';
export type { ChainOptions } from './chain-milter.js';
export type { OwnAnswer, ProxyContext, ProxyEvents, ProxyHooks, ProxyOptions } from './types.js';
export type { CaptureEvent, CloseEvent, DataEvent, Endpoint, OpenEvent, Side } from '../capture/types.js';
export { MilterError, type MilterErrorCode } from '../errors.js';
