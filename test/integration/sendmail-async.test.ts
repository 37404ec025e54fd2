// A real Sendmail, milters in this process.
import t from 'tap';
import { asyncFactory } from './factories.js';
import { onSendmail } from './suite/index.js';

onSendmail(t, asyncFactory);
