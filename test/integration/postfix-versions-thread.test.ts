// A real Postfix that speaks older versions of the protocol, milters in threads: the factory reads from the answer to
// the offer what is sent and answered. ForkFactory does it with the same code; a process that has the socket does what
// AsyncFactory does.
import t from 'tap';
import { threadFactory } from './factories.js';
import { onOlderPostfix } from './suite/index.js';

onOlderPostfix(t, threadFactory);
