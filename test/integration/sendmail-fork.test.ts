// A real Sendmail, milters in processes.
import t from 'tap';
import { forkFactory } from './factories.js';
import { onSendmail } from './suite/index.js';

onSendmail(t, forkFactory);
