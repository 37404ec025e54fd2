import type { ProtocolClass } from 'milter-stream';

export declare const SoakMilter: ProtocolClass;
export declare const QuietSoakMilter: ProtocolClass;
export declare const ThreadedSoakMilter: ProtocolClass;
