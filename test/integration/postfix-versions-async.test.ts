// A real Postfix that speaks older versions of the protocol, milters in this process.
import t from 'tap';
import { asyncFactory } from './factories.js';
import { onOlderPostfix } from './suite/index.js';

onOlderPostfix(t, asyncFactory);
